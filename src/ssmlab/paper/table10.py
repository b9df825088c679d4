"""Table 10: the size N of the state, with constant and with selective B and C.

The paper fixes the rank of Δ at 64, which is width / 16, "auto"; other scales keep that share.
Constant B and C are learned (channels, N) matrices, as many numbers as the projections otherwise.
"""

from collections.abc import Sequence

from ssmlab.paper.base import BASE, SCALES, SOURCE
from ssmlab.studies.claims import (
    TREND_NOTE,
    Claim,
    alike,
    better,
    falling,
    falls,
    falls_more,
    larger_gain,
    level,
)
from ssmlab.studies.study import Axis, Figure, Point, Study

SIZES = (1, 2, 4, 8, 16)
_PARAMS_M = (367.1, 367.4, 368.0, 369.1, 371.5)
_CONSTANT = (9.88, 9.86, 9.82, 9.82, 9.81)
_SELECTIVE = (9.73, 9.40, 9.09, 8.84, 8.71)


def axes(sizes: Sequence[int]) -> tuple[Axis, ...]:
    """Constant and selective B and C, by the size of the state."""
    return (
        Axis("B, C", (_point("constant", False), _point("selective", True))),
        Axis("N", tuple(Point(str(n), {"model.mamba.ssm.d_state": n}, f"n{n}") for n in sizes)),
    )


def _point(label: str, selective: bool) -> Point:
    keys = ("model.mamba.ssm.selective_B", "model.mamba.ssm.selective_C")
    return Point(label, dict.fromkeys(keys, selective))


def trends(sizes: Sequence[int]) -> tuple[Claim, ...]:
    """The caption of Table 10, over all sizes of the state together."""
    constant, selective = ([f"{kind}-n{n}" for n in sizes] for kind in ("constant", "selective"))
    source = "Ours: Table 10's caption, as a trend"
    span = f"from N = {sizes[0]} to {sizes[-1]}"
    return (
        Claim(
            "trend",
            f"With selective B and C, a larger state improves perplexity, {span} together.",
            source,
            (falls(selective),),
            note=TREND_NOTE,
        ),
        Claim(
            "constant-trend",
            f"With constant B and C, perplexity is level {span}.",
            source,
            level(constant, 0.02),
            note=f"{TREND_NOTE} Level: it changes by less than 2%.",
        ),
        Claim(
            "interaction-trend",
            f"A larger state gains more with selective B and C than with constant ones, {span} "
            "together.",
            source,
            (falls_more(selective, than=constant),),
            note=TREND_NOTE,
        ),
    )


TABLE10 = Study(
    name="table10",
    title="Table 10: size of the state, with constant and selective B and C",
    source=f"{SOURCE}, Table 10",
    axes=axes(SIZES),
    base=BASE,
    scales=SCALES,
    figures={
        (label, str(n)): Figure(ppl, params)
        for label, column in (("constant", _CONSTANT), ("selective", _SELECTIVE))
        for n, ppl, params in zip(SIZES, column, _PARAMS_M, strict=True)
    },
    claims=(
        Claim(
            "state",
            "With selective B and C, a larger state improves perplexity, at every doubling.",
            "Table 10, caption and figures",
            falling(f"selective-n{n}" for n in SIZES),
        ),
        Claim(
            "size",
            "With selective B and C, N = 16 lowers the perplexity of N = 1 by a tenth, for about 1% "
            "more parameters.",
            'Section 4.6 ("over a 1.0 perplexity improvement for a cost of only 1% additional '
            'parameters")',
            (better("selective-n16", "selective-n1", by=0.1),),
            note="1.0 out of 9.73 is 10.3%; as a ratio the claim has a meaning at other scales. The "
            "cost in parameters holds at the paper's width.",
        ),
        Claim(
            "constant",
            "With constant B and C, the size of the state hardly matters.",
            'Table 10, caption ("only when B and C are also selective")',
            alike("constant-n16", "constant-n1", 0.02),
            note="Hardly: N = 16 within 2% of N = 1, a margin of ours (the paper's figures give "
            "0.7%).",
        ),
        Claim(
            "interaction",
            "A larger state gains more with selective B and C than with constant ones.",
            "Table 10, caption",
            (larger_gain(("selective-n1", "selective-n16"), than=("constant-n1", "constant-n16")),),
        ),
        Claim(
            "selective",
            "Selective B and C do better than constant ones at every size of the state.",
            "Table 10, figures",
            tuple(better(f"selective-n{n}", f"constant-n{n}") for n in SIZES),
        ),
        *trends(SIZES),
    ),
    plot="N",
)
