"""Rows that several of the paper's tables have in common are the same trial."""

import pytest

from ssmlab.core.config import config_hash
from ssmlab.paper import get_study

NEEDED = {"data.paths": ["text"], "data.tokenizer": "bpe:4096"}


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize(
    "rows",
    [
        (
            "table6:mamba-s6",
            "table7:all",
            "table8:real-n",
            "table10:selective-n16",
            "hybrids:mamba",
        ),
        ("table7:delta-only", "table10:constant-n16"),
    ],
)
def test_shared_rows(scale: str, rows: tuple[str, ...]) -> None:
    found = set()
    for name, _, key in (row.partition(":") for row in rows):
        trials = get_study(name).trials(scale, 1, NEEDED if scale == "paper" else {})
        found |= {config_hash(t.config.effective()) for t in trials if t.row.key == key}
    assert len(found) == 1
