"""A study of ours on whole architectures: Mamba-2's SSD beside S6.

Base, scales, architectures and widths are Table 6's own, so a row that is there too is the same
trial.

SSD (arXiv 2405.21060) stands in S6's place. It has one Δ and one A a head, so with S6's N it has
fewer parameters than S6. What makes up for it in the Mamba block, which has no MLP to widen:

- the row with S6's N: groups of heads with B and C of their own, 2 at the mini, 3 at the small and 4
  at the paper's scale; at the quick one no number of groups fits, so its blocks are 66 wide;
- the row with a larger N: as many states as the 2% allow in multiples of 8, up to Mamba-2's usual 64,
  which they reach at the paper's scale.

Heads have Mamba-2's usual 64 channels, in the narrower blocks of the mini and quick scales 32 and 16.
"""

from collections.abc import Mapping
from typing import Any

from ssmlab.paper.architectures import for_both_blocks
from ssmlab.paper.table6 import TABLE6
from ssmlab.studies.claims import Claim, RowName, better, no_worse
from ssmlab.studies.study import Axis, Point, Study

OURS = "Ours; the paper has no such rows"

_ARCHITECTURES, _LAYERS = TABLE6.axes
_SSD = for_both_blocks(mixer="ssd")


def _ssd(state: int, groups: int, width: int) -> dict[str, Any]:
    """N states of each channel, groups of heads with their own B and C, channels of a head."""
    return for_both_blocks(ssd__d_state=state, ssd__n_groups=groups, ssd__d_head=width)


# By scale: of the row with S6's N and of the row with a larger one, the layer, the hidden width of
# the H3 row's MLP, and what else the Mamba row needs.
_SSD_SIZES: dict[str, tuple[tuple[dict[str, Any], int, dict[str, Any]], ...]] = {
    "quick": (
        (_ssd(16, 1, 16), 299, {"model.d_model": 66, "model.mamba.ssd.d_head": 12}),
        (_ssd(24, 1, 16), 291, {}),
    ),
    "mini": ((_ssd(16, 2, 32), 826, {}), (_ssd(40, 1, 32), 818, {})),
    "small": ((_ssd(16, 3, 64), 1626, {}), (_ssd(48, 1, 64), 1626, {})),
    "paper": ((_ssd(16, 4, 64), 4325, {}), (_ssd(64, 1, 64), 4325, {})),
}


def _ssd_sizes(scale: str) -> dict[RowName, Mapping[str, Any]]:
    """By row, what ``_SSD_SIZES`` says; the S6 row of the H3 architecture is Table 6's."""
    sizes: dict[RowName, Mapping[str, Any]] = {"h3-s6": TABLE6.sizes[scale]["h3-s6"]}
    for row, (layer, mlp, more) in zip(("ssd", "ssd-larger"), _SSD_SIZES[scale], strict=True):
        sizes[f"h3-{row}"] = {**layer, "model.plain_mlp.d_hidden": mlp}
        sizes[f"mamba-{row}"] = {**layer, **more}
    return sizes


SSD = Study(
    name="ssd",
    title="Beyond Table 6: Mamba-2's SSD beside S6",
    source="ours; figures of S6: arXiv 2312.00752, section 4.6, Table 6",
    axes=(
        _ARCHITECTURES,
        Axis(
            "SSM layer",
            (
                _LAYERS.points[-1],
                Point("SSD, N of S6", _SSD, "ssd"),
                Point("SSD, larger N", _SSD, "ssd-larger"),
            ),
        ),
    ),
    base=TABLE6.base,
    scales=TABLE6.scales,
    figures={labels: figure for labels, figure in TABLE6.figures.items() if labels[1] == "S6"},
    claims=(
        Claim(
            "as-good",
            "At the same number of parameters SSD with a larger state does at least as well as S6, "
            "in both architectures.",
            OURS,
            tuple(
                no_worse(f"{block}-ssd-larger", f"{block}-s6", 0.01) for block in ("h3", "mamba")
            ),
            note="At least as well: at most 1% worse, a margin of ours.",
        ),
        Claim(
            "state",
            "SSD does better with the larger state, in both architectures.",
            OURS,
            tuple(better(f"{block}-ssd-larger", f"{block}-ssd") for block in ("h3", "mamba")),
        ),
        Claim(
            "architecture",
            "With SSD inside too, the Mamba architecture does better than H3's.",
            OURS,
            tuple(better(f"mamba-{layer}", f"h3-{layer}") for layer in ("ssd", "ssd-larger")),
        ),
    ),
    sizes={scale.name: _ssd_sizes(scale.name) for scale in TABLE6.scales},
)
