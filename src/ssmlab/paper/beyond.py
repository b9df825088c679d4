"""Studies of ours on the Mamba block: what Tables 7 and 10 leave out, and how far seeds scatter.

The base and the scales are those of the paper's studies, so a row that is in one of its tables too is
the same trial there. The claims are ours, or a hypothesis of the paper's that it did not test; each
says so.
"""

import dataclasses
from typing import Any

from ssmlab.paper import table7, table10
from ssmlab.paper.base import BASE, SCALES
from ssmlab.studies.claims import (
    Claim,
    alike,
    best,
    better,
    better_on_average,
    falling,
    larger_gain,
)
from ssmlab.studies.study import Axis, Point, Scale, Study, slug

OURS = "Ours; the paper has no such rows"

# Which of Δ, B and C; the labels that Table 7 has too are spelt as there.
_COMBINATIONS = {
    "none": (False, False, False),
    "B only": (False, True, False),
    "C only": (False, False, True),
    "Δ only": (True, False, False),
    "B and C": (False, True, True),
    "Δ and B": (True, True, False),
    "Δ and C": (True, False, True),
    "all": (True, True, True),
}
_SINGLES_OF = {
    "b-c": ("b-only", "c-only"),
    "delta-b": ("delta-only", "b-only"),
    "delta-c": ("delta-only", "c-only"),
}

PAIRS = Study(
    name="pairs",
    title="Beyond Table 7: all combinations of selective Δ, B and C",
    source="ours; figures of five rows: arXiv 2312.00752, section 4.6, Table 7",
    axes=(
        Axis(
            "selective",
            tuple(
                Point(label, table7.selective(*switches), slug(label.replace(" and ", " ")))
                for label, switches in _COMBINATIONS.items()
            ),
        ),
    ),
    base=BASE,
    scales=SCALES,
    figures=table7.TABLE7.figures,
    claims=(
        Claim(
            "pairs",
            "Any two selective parameters do better than either of them alone.",
            OURS,
            tuple(
                better(pair, single) for pair, singles in _SINGLES_OF.items() for single in singles
            ),
        ),
        Claim(
            "all",
            "All three selective do better than any two.",
            OURS,
            best("all", _SINGLES_OF),
        ),
        Claim(
            "delta",
            "Δ is the most important in company too: put in the place of B or of C, alone or in a "
            "pair, it does better.",
            f"{OURS}; Table 7's caption says so of single parameters",
            (
                better("delta-only", "b-only"),
                better("delta-only", "c-only"),
                better("delta-b", "b-c"),
                better("delta-c", "b-c"),
            ),
        ),
        Claim(
            "delta-on-average",
            "Put in the place of B, and in that of C, Δ does better on the average of alone and in "
            "company.",
            f"{OURS}; Table 7's caption says so of single parameters",
            (
                better_on_average((("delta-only", "b-only"), ("delta-c", "b-c"))),
                better_on_average((("delta-only", "c-only"), ("delta-b", "b-c"))),
            ),
        ),
        Claim(
            "every-addition",
            "Whatever is selective already, making Δ selective too helps.",
            OURS,
            (
                better("delta-only", "none"),
                better("delta-b", "b-only"),
                better("delta-c", "c-only"),
                better("all", "b-c"),
            ),
        ),
        Claim(
            "synergy",
            "B and C help each other: a selective B gains more where C is selective too.",
            f'{OURS}; a reading of "together synergizes" in Table 7\'s caption',
            (larger_gain(("c-only", "b-c"), than=("none", "b-only")),),
        ),
    ),
)

_STATES = (*table10.SIZES, 32, 64)

STATE = Study(
    name="state",
    title="Beyond Table 10: states of up to 64, with constant and selective B and C",
    source="ours; figures up to N = 16: arXiv 2312.00752, section 4.6, Table 10",
    axes=table10.axes(_STATES),
    base=BASE,
    scales=SCALES,
    figures=table10.TABLE10.figures,
    claims=(
        Claim(
            "further",
            "With selective B and C, the state goes on improving perplexity past N = 16, at both "
            "doublings.",
            f"{OURS}; Table 10 ends at N = 16",
            falling(f"selective-n{n}" for n in (16, 32, 64)),
        ),
        Claim(
            "constant",
            "With constant B and C, a state larger than 16 hardly matters.",
            f"{OURS}; Table 10 ends at N = 16",
            alike("constant-n64", "constant-n16", 0.02),
            note="Hardly: N = 64 within 2% of N = 16, the margin of Table 10's claim.",
        ),
        Claim(
            "interaction",
            "Past 16 a larger state gains more with selective B and C than with constant ones.",
            f"{OURS}; Table 10 ends at N = 16",
            (
                larger_gain(
                    ("selective-n16", "selective-n64"), than=("constant-n16", "constant-n64")
                ),
            ),
        ),
        *table10.trends(_STATES),
    ),
    plot="N",
)

# Which of Δ, B and C, and whether A.
_WITH_A = {
    "none": ((False, False, False), False),
    "A only": ((False, False, False), True),
    "Δ only": ((True, False, False), False),
    "B and C": ((False, True, True), False),
    "B, C and A": ((False, True, True), True),
    "all": ((True, True, True), False),
    "all and A": ((True, True, True), True),
}

SELECTIVE_A = Study(
    name="selective-a",
    title="A selective A, with Δ and in its place",
    source="ours: a hypothesis of arXiv 2312.00752, section 3.5.2; figures of three rows: Table 7",
    axes=(
        Axis(
            "selective",
            tuple(
                Point(
                    label,
                    {**table7.selective(*switches), "model.mamba.ssm.selective_A": A},
                    slug(label.replace(" and ", " ")),
                )
                for label, (switches, A) in _WITH_A.items()
            ),
        ),
    ),
    base=BASE,
    scales=SCALES,
    figures={
        labels: figure for labels, figure in table7.TABLE7.figures.items() if labels[0] in _WITH_A
    },
    claims=(
        Claim(
            "hypothesis",
            "With Δ, B and C selective, a selective A besides changes little.",
            "Section 3.5.2 (a hypothesis there, not tested)",
            alike("all-a", "all", 0.01),
            note="Little: perplexities within 1% of each other, a margin of ours. The row with A has "
            "more parameters: the projection that makes it, as large as that of Δ.",
        ),
        Claim(
            "selects",
            "Where Δ is constant, a selective A helps: alone, and beside selective B and C.",
            OURS,
            (better("a-only", "none"), better("b-c-a", "b-c")),
        ),
        Claim(
            "in-place-of-delta",
            "A selective A in the place of a selective Δ does as well: alone, and beside B and C.",
            OURS,
            (*alike("a-only", "delta-only", 0.01), *alike("b-c-a", "all", 0.01)),
            note="As well: within 1% of each other, a margin of ours. Both make the state fade by "
            "what the input says, but only Δ also says how much of the input comes in.",
        ),
    ),
)

_PARTS = {"quarter": 4, "half": 2, "full": 1}
_SPREAD_SEEDS = {"quick": 4, "small": 8}


def _size(scale: Scale, part: int) -> dict[str, Any]:
    """Width and depth of the scale's model divided by ``part``, one block at least."""
    width, blocks = (scale.changes[f"model.{key}"] for key in ("d_model", "n_layers"))
    return {"model.d_model": width // part, "model.n_layers": max(1, blocks // part)}


SPREAD = Study(
    name="spread",
    title="How far seeds scatter, by the size of the model",
    source="ours: which difference between rows is noise",
    # A quarter, half and all of the scale's width and depth (``sizes``), on the same tokens.
    axes=(Axis("width and depth", tuple(Point(part, {}) for part in _PARTS)),),
    base=BASE,
    scales=tuple(
        dataclasses.replace(
            scale,
            seeds=_SPREAD_SEEDS.get(scale.name, scale.seeds),
            note=f"a quarter, half and all of: {scale.note}",
        )
        for scale in SCALES
    ),
    sizes={
        scale.name: {key: _size(scale, part) for key, part in _PARTS.items()} for scale in SCALES
    },
)
