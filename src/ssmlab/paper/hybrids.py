"""Figure 9 (appendix E.2.2): Mamba blocks taking turns with MLPs or attention, beside the baselines.

The paper prints no figures here, so the claims are its words. All rows have the improved recipe.
Mamba-MLP is half the Mamba blocks, the other half gated MLPs as wide as a Mamba block without its
SSM; Mamba-MHA is a Transformer++ with Mamba blocks for its MLPs. H3++ and Hyena+ have thin MLPs
(twice the width) and 1.5 times the layers.
"""

from typing import Any

from ssmlab.paper.architectures import DEEPER_QUICK, architecture, for_both_blocks, scales
from ssmlab.paper.base import BASE
from ssmlab.studies.claims import Claim, alike, best, better, no_worse
from ssmlab.studies.study import Axis, Point, Study

ROWS = {
    "Mamba": "mamba",
    "Mamba-MLP": "mamba-mlp",
    "Mamba-MHA": "mamba-mha",
    "Transformer++": "transformer++",
    "H3++": "h3++",
    "Hyena+": "hyena+",
}
_KEYS = {"Transformer++": "transformer-pp", "H3++": "h3-pp", "Hyena+": "hyena-plus"}


def _mlp(width: int) -> dict[str, Any]:
    return {"model.mlp.d_hidden": width}


def _thin(width: int, blocks: int) -> dict[str, Any]:
    return {"model.plain_mlp.d_hidden": width, "model.n_layers": blocks}


HYBRIDS = Study(
    name="hybrids",
    title="Figure 9: Mamba blocks interleaved with others",
    source="arXiv 2312.00752, appendix E.2.2, Figure 9",
    axes=(
        Axis(
            "model",
            tuple(
                Point(label, architecture(name), _KEYS.get(label, name))
                for label, name in ROWS.items()
            ),
        ),
    ),
    base=BASE,
    scales=scales(
        {
            "quick": {
                **DEEPER_QUICK,
                "model.attention.n_heads": 4,
                "model.hyena.long_conv.l_max": 128,
                "model.hyena.long_conv.filter_width": 32,
                **for_both_blocks(s4d__d_state=18),
            },
            "mini": {
                "model.attention.n_heads": 3,
                "model.hyena.long_conv.l_max": 512,
                "model.hyena.long_conv.filter_width": 48,
                **for_both_blocks(s4d__d_state=24),
            },
            "small": {
                "model.attention.n_heads": 6,
                "model.hyena.long_conv.l_max": 512,
                **for_both_blocks(s4d__d_state=32),
            },
            "paper": {
                "model.attention.n_heads": 16,
                "model.hyena.long_conv.l_max": 2048,
                **for_both_blocks(s4d__d_state=64),
            },
        }
    ),
    claims=(
        Claim(
            "mlp-slightly-worse",
            "Half the mixers replaced by MLPs is only slightly worse.",
            "Appendix E.2.2 on Mamba-MLP",
            (no_worse("mamba-mlp", "mamba", 0.05),),
            note="Slightly: by less than 5%, a margin of ours; the paper gives no figures.",
        ),
        Claim(
            "mlp-still-good",
            "With half its mixers Mamba still does better than all models but Transformer++.",
            "Appendix E.2.2 on Mamba-MLP",
            best("mamba-mlp", ("h3-pp", "hyena-plus")),
        ),
        Claim(
            "mha-slightly-better",
            "Mamba blocks in turns with attention do only slightly better than Mamba alone.",
            "Appendix E.2.2 on Mamba-MHA",
            (better("mamba-mha", "mamba"), *alike("mamba-mha", "mamba", 0.05)),
            note="Only slightly: by less than 5%, a margin of ours; the paper gives no figures.",
        ),
        Claim(
            "transformer",
            "Mamba does as well as a Transformer++.",
            "Section 4.2.1, Figure 4",
            (no_worse("mamba", "transformer-pp", 0.02),),
            note="As well: at most 2% worse, a margin of ours.",
        ),
    ),
    sizes={
        "quick": {
            "mamba-mlp": _mlp(170),
            "mamba-mha": {"model.attention.d_head": 32},
            "transformer-pp": _mlp(255),
            "h3-pp": _thin(144, 6),
            "hyena-plus": _thin(163, 6),
        },
        "mini": {
            "mamba-mlp": _mlp(437),
            "mamba-mha": {"model.n_layers": 8, "model.attention.d_head": 56},
            "transformer-pp": _mlp(617),
            "h3-pp": _thin(416, 9),
            "hyena-plus": _thin(443, 9),
        },
        "small": {
            "mamba-mlp": _mlp(837),
            "mamba-mha": {"model.n_layers": 15},
            "transformer-pp": _mlp(1161),
            "h3-pp": _thin(834, 18),
            "hyena-plus": _thin(853, 18),
        },
        "paper": {
            "mamba-mlp": _mlp(2170),
            "mamba-mha": {"model.n_layers": 59},
            "transformer-pp": _mlp(2975),
            "h3-pp": _thin(2215, 72),
            "hyena-plus": _thin(2248, 72),
        },
    },
)
