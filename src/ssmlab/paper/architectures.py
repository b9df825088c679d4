"""What the studies of whole architectures share: scales, recipes, and rows of one size.

The paper compares models "of the same size". A block of each architecture has its own small parts (Δ
projections, filters, shift taps), which weigh more the narrower the model is, so each study says for
every scale and row the width that brings the row's parameters within 2% of the Mamba row's. A test
counts them. At the quick scale there are four blocks, so that an architecture that spends every other
block on an MLP has two mixers left, and induction over two layers is possible for all.

Source: arXiv 2312.00752, appendix E.2.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ssmlab.models.baselines import BASELINES
from ssmlab.paper.base import SCALES
from ssmlab.studies.study import Scale

TOLERANCE = 0.02
"""How far apart the parameters of a study's rows may be, as a share of the Mamba row's."""

DEEPER_QUICK: dict[str, Any] = {
    "model.n_layers": 4,
    "training.steps": 800,
    "training.eval_every": 200,
}
_NOTES = {"quick": "4 blocks of width 64 on bytes, 1.6M tokens; 80 s a trial on a CPU core"}


def architecture(name: str) -> dict[str, Any]:
    """The keys of a trial's config that make the named architecture (see ``models.baselines``)."""
    return {f"model.{key}": value for key, value in BASELINES[name].items()}


def for_both_blocks(**keys: Any) -> dict[str, Any]:
    """The same keys for the mixers inside the Mamba and the H3 block; ``__`` stands for a dot."""
    return {
        f"model.{block}.{key.replace('__', '.')}": value
        for block in ("mamba", "h3")
        for key, value in keys.items()
    }


def scales(changes: Mapping[str, Mapping[str, Any]]) -> tuple[Scale, ...]:
    """The paper's scales with more keys by scale."""
    return tuple(
        dataclasses.replace(
            scale,
            changes={**scale.changes, **changes[scale.name]},
            note=_NOTES.get(scale.name, scale.note),
        )
        for scale in SCALES
    )
