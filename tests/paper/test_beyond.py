"""Our studies beyond the paper: rows shared with its tables, one size, claims that can be tested."""

import dataclasses
import functools

import pytest

from ssmlab.core.config import config_hash
from ssmlab.core.errors import StudyError
from ssmlab.models.count import count_parameters
from ssmlab.paper import get_study, study_names
from ssmlab.paper.architectures import TOLERANCE
from ssmlab.studies import Study

SCALES = ("quick", "mini", "small", "paper")
VOCABULARY = {"quick": 256, "mini": 4096, "small": 4096, "paper": 50257}
NAMES = [name for name in study_names()[6:] if name != "replication"]

# Row -> the row of a table of the paper's that it is.
SHARED = {
    ("pairs", "table7"): {key: key for key in ("none", "b-only", "c-only", "delta-only", "all")},
    ("state", "table10"): {
        f"{kind}-n{n}": f"{kind}-n{n}"
        for kind in ("constant", "selective")
        for n in (1, 2, 4, 8, 16)
    },
    ("selective-a", "table7"): {key: key for key in ("none", "delta-only", "all")},
    ("selective-a", "pairs"): {"b-c": "b-c"},
    ("spread", "table7"): {"full": "all"},
    ("ssd", "table6"): {key: key for key in ("h3-s6", "mamba-s6")},
    ("rates", "table6"): {
        f"{block}-{layer}-same": f"{block}-{layer}"
        for block in ("h3", "mamba")
        for layer in ("hyena", "s4-complex", "s4-real", "s6")
    },
    ("kernel-rates", "table6"): {
        f"{block}-{layer}-same": f"{block}-{layer}"
        for block in ("h3", "mamba")
        for layer in ("hyena", "s4-complex", "s4-real")
    },
    ("lengths", "table6"): {f"{block}-s4-real-x1": f"{block}-s4-real" for block in ("h3", "mamba")},
    ("attention-rates", "hybrids"): {
        f"{model}-same": model for model in ("mamba", "mamba-mha", "transformer-pp")
    },
}


@functools.cache
def trials(name: str, scale: str) -> dict:
    return {trial.row.key: trial for trial in get_study(name).trials(scale, 1)}


count = functools.cache(count_parameters)


def counts(name: str, scale: str) -> dict[str, dict[str, int]]:
    """By row. Every model is built, on the meta device."""
    size = VOCABULARY[scale]
    return {
        key: count(dataclasses.replace(trial.config.model, vocab_size=size))
        for key, trial in trials(name, scale).items()
    }


def test_names() -> None:
    assert [get_study(name).name for name in NAMES] == NAMES
    assert {name for name, _ in SHARED} == set(NAMES)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_row_can_be_built_and_is_another(name: str, scale: str) -> None:
    rows = counts(name, scale)
    assert list(rows) == [row.key for row in get_study(name).rows()]
    assert len({trial.config for trial in trials(name, scale).values()}) == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_kept_as_data(name: str) -> None:
    study = get_study(name)
    assert Study.from_dict(study.to_dict()).to_dict() == study.to_dict()
    assert "ours" in study.source
    for claim in study.claims:
        assert "Ours" in claim.source or "Section" in claim.source


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("ours", "table"), SHARED)
def test_shared_rows_are_the_papers_trials(ours: str, table: str, scale: str) -> None:
    mine, theirs = trials(ours, scale), trials(table, scale)
    for row, same in SHARED[ours, table].items():
        assert config_hash(mine[row].config) == config_hash(theirs[same].config), row
        figure = get_study(table).figure(theirs[same].row)
        if ours != "spread":
            assert get_study(ours).figure(mine[row].row) == figure


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["ssd", "rates", "attention-rates", "kernel-rates", "lengths"])
def test_architectures_are_of_one_size(name: str, scale: str) -> None:
    totals = {key: count["total"] for key, count in counts(name, scale).items()}
    mamba = counts("table6", scale)["mamba-s6"]["total"]
    apart = {key: total / mamba - 1 for key, total in totals.items()}
    assert all(abs(share) < TOLERANCE for share in apart.values()), apart


@pytest.mark.parametrize("scale", SCALES)
def test_ssd_rows_have_the_states_they_say(scale: str) -> None:
    for key, trial in trials("ssd", scale).items():
        block = trial.config.model.h3 if key.startswith("h3") else trial.config.model.mamba
        if key.endswith("larger"):
            assert block.ssd.d_state > block.ssm.d_state
        elif key.endswith("ssd"):
            assert block.ssd.d_state == block.ssm.d_state


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["rates", "attention-rates"])
def test_rates_follow_the_scale(name: str, scale: str) -> None:
    own = get_study("table6").trials(scale, 1)[0].config.training.lr
    for key, trial in trials(name, scale).items():
        factor = {"tenth": 0.1, "third": 1 / 3, "same": 1, "triple": 3}[key.rpartition("-")[2]]
        assert trial.config.training.lr == own * factor
        assert trial.config.training.lr_min < trial.config.training.lr


def test_pairs_are_all_combinations() -> None:
    switches = {
        (ssm.selective_delta, ssm.selective_B, ssm.selective_C)
        for ssm in (trial.config.model.mamba.ssm for trial in trials("pairs", "small").values())
    }
    assert len(switches) == 8


@pytest.mark.parametrize("scale", SCALES)
def test_a_selective_A_costs_what_a_selective_delta_does(scale: str) -> None:
    totals = {key: count["total"] for key, count in counts("selective-a", scale).items()}
    projection = totals["delta-only"] - totals["none"]
    assert totals["a-only"] == totals["delta-only"]
    assert totals["all-a"] - totals["all"] == totals["b-c-a"] - totals["b-c"] == projection
    for key, trial in trials("selective-a", scale).items():
        ssm = trial.config.model.mamba.ssm
        assert ssm.selective_A == (key.endswith("-a") or key == "a-only")


def test_sizes_of_the_models_whose_spread_is_measured() -> None:
    found = {
        key: (trial.config.model.d_model, trial.config.model.n_layers)
        for key, trial in trials("spread", "small").items()
    }
    width, blocks = found["full"]
    assert found == {
        "quarter": (width // 4, blocks // 4),
        "half": (width // 2, blocks // 2),
        "full": (width, blocks),
    }
    tokens = {
        (t.config.training.steps, t.config.training.batch_size, t.config.training.seq_len)
        for t in trials("spread", "small").values()
    }
    assert len(tokens) == 1
    assert get_study("spread").scale("small").seeds == 8


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("rates", {"training.lr": 1e-3}),
        ("attention-rates", {"training.lr": 1e-3}),
        ("lengths", {"training.steps": 70, "training.eval_every": 7}),
        ("spread", {"model.n_layers": 2, "model.d_model": 32}),
    ],
)
def test_what_sets_rows_apart_cannot_be_overridden(name: str, overrides: dict) -> None:
    with pytest.raises(StudyError, match=r"would be the same: .* at scale small"):
        get_study(name).trials("small", 1, overrides)
    assert get_study(name).trials("small", 1, {"training.steps": 7})
