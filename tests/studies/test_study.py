import dataclasses

import pytest

from ssmlab.core.errors import ConfigError, StudyError
from ssmlab.studies import Axis, Claim, Figure, Point, Scale, Study
from ssmlab.studies.claims import better
from ssmlab.studies.study import slug

WIDTH = Axis(
    "width", (Point("narrow", {"model.d_model": 16}), Point("wide", {"model.d_model": 32}))
)
RATE = Axis(
    "rate", (Point("1e-3", {"training.lr": 1e-3}), Point("1e-2", {"training.lr": 1e-2}, "fast"))
)


def make(**changes):
    values = {
        "name": "demo",
        "title": "Demo",
        "source": "ours",
        "axes": (WIDTH, RATE),
        "base": {"model.n_layers": 3, "training.steps": 7},
        "scales": (
            Scale("quick", {"training.steps": 5}, seeds=2),
            Scale("small", {"model.n_layers": 4}, seeds=1),
        ),
        "figures": {("narrow", "1e-3"): Figure(9.0, 1.5)},
        "claims": (Claim("c", "wide is better", "ours", (better("wide-fast", "narrow-fast"),)),),
        "plot": "rate",
    }
    return Study(**{**values, **changes})


def test_rows_are_the_product_of_the_axes_in_order():
    rows = make().rows()
    assert [row.key for row in rows] == ["narrow-1e-3", "narrow-fast", "wide-1e-3", "wide-fast"]
    assert rows[3].labels == ("wide", "1e-2")
    assert rows[3].changes == {"model.d_model": 32, "training.lr": 1e-2}
    assert make().row(("wide", "1e-2")) == make().row("wide-fast") == rows[3]


def test_trials_run_every_row_before_the_next_seed():
    trials = make().trials("quick")
    assert [trial.seed for trial in trials] == [0] * 4 + [1] * 4
    assert [trial.config.seed for trial in trials] == [trial.seed for trial in trials]
    assert len({trial.name for trial in trials}) == 8
    assert trials[0].name.startswith("narrow-1e-3-s0-")


def test_later_layers_win():
    study = make()
    quick, small = study.trials("quick")[3].config, study.trials("small")[3].config
    assert (quick.training.steps, small.training.steps) == (5, 7)
    assert (quick.model.n_layers, small.model.n_layers) == (3, 4)
    assert (quick.model.d_model, quick.training.lr) == (32, 1e-2)
    changed = study.trials("quick", 1, {"training.steps": 2})
    assert [trial.config.training.steps for trial in changed] == [2] * 4


def test_more_seeds_keep_the_names_of_those_before():
    names = [trial.name for trial in make().trials("quick", 1)]
    assert [trial.name for trial in make().trials("quick", 3)][:4] == names
    assert [trial.name for trial in make().trials("quick", 1, {"training.lr_min": 0.0})] != names


def test_plain_data_and_back():
    study = make()
    again = Study.from_dict(study.to_dict())
    assert again.to_dict() == study.to_dict()
    assert [t.name for t in again.trials("quick")] == [t.name for t in study.trials("quick")]
    assert again.figure(again.rows()[0]) == Figure(9.0, 1.5)
    assert again.figure(again.rows()[1]) == Figure()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "My Study"}, "'my-study'"),
        ({"axes": ()}, "at least one point"),
        ({"axes": (WIDTH, WIDTH)}, "model.d_model"),
        ({"axes": (Axis("w", (Point("a", {}), Point("A", {}))),)}, "row key 'a' is there twice"),
        ({"scales": ()}, "at least one scale"),
        ({"scales": (Scale("quick", {}), Scale("quick", {}))}, "'quick' is there twice"),
        ({"scales": (Scale("quick", {}, seeds=0),)}, "at least 1 seed"),
        ({"figures": {("narow", "1e-3"): Figure(1.0)}}, "did you mean 'narrow-1e-3'"),
        ({"claims": (Claim("c", "", "", (better("wide-fst", "wide-fast"),)),)}, "'wide-fast'"),
        ({"plot": "rat"}, "did you mean 'rate'"),
    ],
)
def test_a_study_that_cannot_be(changes, said):
    with pytest.raises(StudyError) as caught:
        make(**{"figures": {}, "claims": (), "plot": None, **changes})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("quik",), StudyError, "did you mean 'quick'"),
        (("quick", 0), StudyError, "at least 1, got 0"),
        (("quick", 1, {"seed": 3}), StudyError, "--seeds"),
        (("quick", 1, {"training.lr": 1.0}), StudyError, "axis 'rate'"),
        (("quick", 1, {"model": {}}), StudyError, "axis 'width'"),
        (("quick", 1, {"training.stps": 1}), ConfigError, "did you mean 'training.steps'"),
        (("quick", 1, {"training.lr_min": 5e-3}), ConfigError, "row narrow-1e-3 of study demo"),
    ],
)
def test_trials_that_cannot_be(arguments, error, said):
    with pytest.raises(error) as caught:
        make().trials(*arguments)
    assert said in str(caught.value)


def test_an_error_of_all_rows_names_none():
    with pytest.raises(ConfigError) as caught:
        make().trials("quick", 1, {"training.steps": 0})
    assert "row" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "made"), [("Δ only", "delta-only"), ("-1/2 + πni", "1-2-pi-ni"), ("B, C", "b-c")]
)
def test_slug(text, made):
    assert slug(text) == made


def test_studies_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().name = "other"
