"""Studies of ours on the learning rate: how much of Table 6 and of Figure 9 hangs on it.

The paper has one rate for all rows of a study. Base, scales, architectures and widths are those of
Table 6 and Figure 9, so a row at the scale's own rate is the trial there.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ssmlab.paper.architectures import for_both_blocks
from ssmlab.paper.hybrids import HYBRIDS
from ssmlab.paper.table6 import TABLE6, TIME_INVARIANT
from ssmlab.studies.claims import Claim, RowName, alike, best, better, no_worse
from ssmlab.studies.study import Axis, Point, Study

_ARCHITECTURES, _LAYERS = TABLE6.axes
_BLOCKS = ("h3", "mamba")

_RATES = {"third": 1 / 3, "same": 1, "triple": 3}


def _at_rates(
    study: Study, rows: Iterable[str], rates: Mapping[str, float]
) -> dict[str, dict[RowName, Mapping[str, Any]]]:
    """By scale, and by row and rate: the study's own widths, and a multiple of the scale's rate."""
    return {
        scale.name: {
            f"{row}-{rate}": {
                **study.sizes[scale.name].get(row, {}),
                "training.lr": scale.changes["training.lr"] * factor,
            }
            for row in rows
            for rate, factor in rates.items()
        }
        for scale in study.scales
    }


RATES = Study(
    name="rates",
    title="Table 6 at three learning rates",
    source="ours: how much Table 6 hangs on the learning rate; arXiv 2312.00752 has one for all rows",
    # The rates themselves are multiples of the scale's (``sizes``).
    axes=(
        *TABLE6.axes,
        Axis(
            "rate",
            (
                Point("lr / 3", {}, "third"),
                Point("lr", {}, "same"),
                Point("3 lr", {}, "triple"),
            ),
        ),
    ),
    base=TABLE6.base,
    scales=TABLE6.scales,
    figures={(*labels, "lr"): figure for labels, figure in TABLE6.figures.items()},
    claims=(
        *(
            Claim(
                f"s6-best-{rate}",
                f"At {said} S6 does better than any time-invariant layer, in both architectures.",
                "Section 4.6.1 on Table 6; the paper has one rate",
                tuple(
                    contrast
                    for block in _BLOCKS
                    for contrast in best(
                        f"{block}-s6-{rate}",
                        [f"{block}-{layer}-{rate}" for layer in TIME_INVARIANT],
                    )
                ),
            )
            for rate, said in (
                ("third", "a third of the rate"),
                ("same", "the scale's own rate"),
                ("triple", "three times the rate"),
            )
        ),
        Claim(
            "no-rate-turns-it",
            "S6 at the scale's own rate does better than any time-invariant layer at any of the "
            "three, in both architectures.",
            "Ours: the other layers do not lose for want of a rate of their own",
            tuple(
                contrast
                for block in _BLOCKS
                for contrast in best(
                    f"{block}-s6-same",
                    [f"{block}-{layer}-{rate}" for layer in TIME_INVARIANT for rate in _RATES],
                )
            ),
        ),
    ),
    sizes=_at_rates(TABLE6, [row.key for row in TABLE6.rows()], _RATES),
)

_ATTENTION = ("mamba", "mamba-mha", "transformer-pp")
_LOWER_RATES = {"tenth": 1 / 10, "third": 1 / 3, "same": 1}


ATTENTION_RATES = Study(
    name="attention-rates",
    title="Mamba and attention at three learning rates",
    source="ours: whether the rate is what models with attention lose by in Figure 9's rows",
    # The rates themselves are multiples of the scale's (``sizes``).
    axes=(
        Axis("model", tuple(p for p in HYBRIDS.axes[0].points if p.key in _ATTENTION)),
        Axis(
            "rate",
            (Point("lr / 10", {}, "tenth"), Point("lr / 3", {}, "third"), Point("lr", {}, "same")),
        ),
    ),
    base=HYBRIDS.base,
    scales=HYBRIDS.scales,
    claims=(
        Claim(
            "transformer",
            "Mamba at the scale's own rate does as well as a Transformer++ at any of the three.",
            "Ours; section 4.2.1 says so at rates that were tuned",
            tuple(no_worse("mamba-same", f"transformer-pp-{rate}", 0.02) for rate in _LOWER_RATES),
            note="As well: at most 2% worse, a margin of ours.",
        ),
        *(
            Claim(
                f"mha-{rate}",
                f"Mamba blocks in turns with attention at {said} do slightly better than Mamba alone "
                "at the scale's own.",
                "Ours; appendix E.2.2 says so of one rate for all",
                (
                    better(f"mamba-mha-{rate}", "mamba-same"),
                    *alike(f"mamba-mha-{rate}", "mamba-same", 0.05),
                ),
                note="Slightly: by less than 5%, the margin of Figure 9's claim.",
            )
            for rate, said in (("tenth", "a tenth of the rate"), ("third", "a third of the rate"))
        ),
    ),
    sizes=_at_rates(HYBRIDS, _ATTENTION, _LOWER_RATES),
)

_OWN_RATES = {"tenth": 1e-4, "same": 1e-3, "tenfold": 1e-2}

KERNEL_RATES = Study(
    name="kernel-rates",
    title="Time-invariant layers at three rates of their own parameters",
    source="ours: how much Table 6 hangs on the rate of what makes a time-invariant layer's kernel",
    axes=(
        _ARCHITECTURES,
        Axis("SSM layer", _LAYERS.points[: len(TIME_INVARIANT)]),
        Axis(
            "own rate",
            tuple(
                Point(f"{rate:g}", for_both_blocks(s4d__lr=rate, long_conv__lr=rate), name)
                for name, rate in _OWN_RATES.items()
            ),
        ),
    ),
    base=TABLE6.base,
    scales=TABLE6.scales,
    figures={
        (*labels, f"{_OWN_RATES['same']:g}"): figure
        for labels, figure in TABLE6.figures.items()
        if labels[1] != "S6"
    },
    claims=(
        Claim(
            "hyena",
            "A tenth of the usual rate for its filter improves Hyena, in both architectures.",
            "Ours: what makes Hyena fall behind S4 in Table 6",
            tuple(better(f"{block}-hyena-tenth", f"{block}-hyena-same") for block in _BLOCKS),
        ),
        Claim(
            "time-invariant",
            "With a tenth of the rate for Hyena's filter and the usual one for S4, time-invariant "
            "layers do about as well as each other.",
            "Section 4.6.1, on Table 6; the rates are ours",
            tuple(
                contrast
                for block in _BLOCKS
                for layer in ("s4-complex", "s4-real")
                for contrast in alike(f"{block}-hyena-tenth", f"{block}-{layer}-same", 0.05)
            ),
            note="About: within 5%, the margin of Table 6's claim.",
        ),
        Claim(
            "s4",
            "No other of the three rates improves either kind of S4 by more than 2%.",
            "Ours: S4 does not lose for want of a rate",
            tuple(
                no_worse(f"{block}-{layer}-same", f"{block}-{layer}-{rate}", 0.02)
                for block in _BLOCKS
                for layer in ("s4-complex", "s4-real")
                for rate in ("tenth", "tenfold")
            ),
            note="2% is a margin of ours.",
        ),
    ),
    sizes={
        scale.name: {
            f"{row.key}-{rate}": TABLE6.sizes[scale.name][row.key]
            for row in TABLE6.rows()
            if row.key in TABLE6.sizes[scale.name] and row.key != "h3-s6"
            for rate in _OWN_RATES
        }
        for scale in TABLE6.scales
    },
)
