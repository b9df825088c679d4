"""The paper's studies: figures, claims true of the paper's own figures, and its parameter counts."""

import dataclasses
import math

import pytest

from ssmlab.core.errors import ConfigError, StudyError
from ssmlab.models.count import count_parameters
from ssmlab.paper import get_study, study_names
from ssmlab.paper.architectures import TOLERANCE
from ssmlab.studies import Study
from ssmlab.studies.statistics import kendall_tau

NAMES = ["table6", "table7", "table8", "table9", "table10"]
ARCHITECTURES = ["table6", "hybrids"]

OWN_STUDY = """
from ssmlab.studies import Axis, Point, Scale, Study

WIDTH = Study(
    name="width", title="Width", source="ours",
    axes=(Axis("width", (Point("16", {"model.d_model": 16}), Point("32", {"model.d_model": 32}))),),
    base={}, scales=(Scale("quick", {}, seeds=1),),
)
"""


def test_names():
    assert study_names()[:6] == [*NAMES, "hybrids"]
    assert [get_study(name).name for name in study_names()] == study_names()


@pytest.mark.parametrize("name", [*NAMES, "hybrids"])
def test_every_row_and_scale_is_a_config(name):
    study = get_study(name)
    for scale in ("quick", "mini", "small", "paper"):
        trials = study.trials(scale, 1)
        assert len(trials) == len(study.rows())
        assert len({trial.config for trial in trials}) == len(trials)
    assert Study.from_dict(study.to_dict()).to_dict() == study.to_dict()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("table6", [10.24, 10.30, 10.34, 8.95, 10.75, 10.54, 10.56, 8.69]),
        ("table7", [10.93, 10.15, 9.98, 9.81, 8.71]),
        ("table8", [9.16, None, 8.85, 8.71, 8.71]),
        ("table9", [9.12, 8.97, 8.97, 8.91, 8.83, 8.84, 8.80, 8.71]),
        ("table10", [9.88, 9.86, 9.82, 9.82, 9.81, 9.73, 9.40, 9.09, 8.84, 8.71]),
    ],
)
def test_figures_are_those_printed(name, values):
    study = get_study(name)
    assert [study.figure(row).ppl for row in study.rows()] == values


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_true_of_the_papers_own_figures(name):
    study = get_study(name)
    assert study.claims
    for claim in study.claims:
        for contrast in claim.contrasts:
            value = 0.0
            for row, weight in contrast.weights.items():
                ppl = study.figure(study.row(row)).ppl
                assert ppl is not None
                value += weight * math.log(ppl)
            assert value < contrast.below, (claim.key, contrast.text)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_figures_agree_with_themselves(name):
    study = get_study(name)
    figures = {row.key: study.figure(row).ppl for row in study.rows()}
    known = {key: ppl for key, ppl in figures.items() if ppl is not None}
    found = kendall_tau(known, known)
    assert found is not None
    assert found.tau == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "count"), [("table9", 8), ("table10", 10)])
def test_parameter_counts_equal_the_papers(name, count):
    """Tables 9 and 10 print 13 different columns of counts; both halves of Table 10 share theirs."""
    study = get_study(name)
    trials = study.trials("paper", 1)
    assert len(trials) == count
    for trial in trials:
        counted = round(count_parameters(trial.config.model)["total"] / 1e6, 1)
        assert counted == study.figure(trial.row).params_m, trial.row.label


def test_the_full_model_is_one_model():
    """Row "all" of Table 7, -(n+1) of 8, rank 64 of 9 and selective 16 of 10 are one network."""
    keys = {"table7": "all", "table8": "real-n", "table9": "rank-64", "table10": "selective-n16"}
    counts = set()
    for name, key in keys.items():
        study = get_study(name)
        trial = next(t for t in study.trials("paper", 1) if t.row.key == key)
        counts.add(count_parameters(trial.config.model)["total"])
        assert study.figure(trial.row).ppl == 8.71
    assert len(counts) == 1


@pytest.mark.parametrize(
    ("scale", "vocab"), [("quick", 256), ("mini", 4096), ("small", 4096), ("paper", 50257)]
)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_of_one_size(name, scale, vocab):
    study = get_study(name)
    models = {
        trial.row.key: dataclasses.replace(trial.config.model, vocab_size=vocab)
        for trial in study.trials(scale, 1)
    }
    counts = {key: count_parameters(model)["total"] for key, model in models.items()}
    mamba = counts["mamba-s6" if name == "table6" else "mamba"]
    apart = {key: count / mamba - 1 for key, count in counts.items()}
    assert all(abs(share) < TOLERANCE for share in apart.values()), apart


def test_table6s_own_row_is_the_model_of_the_other_tables():
    full = get_study("table7").trials("paper", 1)[-1].config.model
    ours = get_study("table6").trials("paper", 1)[-1].config.model
    assert count_parameters(full) == count_parameters(ours)


@pytest.mark.parametrize("n", [16, 64])
def test_both_sizes_of_the_s4_rows_can_be_set(n):
    keys = {f"model.{block}.s4d.d_state": n for block in ("mamba", "h3")}
    for trial in get_study("table6").trials("small", 1, keys):
        assert trial.config.model.mamba.s4d.d_state == trial.config.model.h3.s4d.d_state == n


def test_hyenas_filter_must_reach_over_the_sequence():
    with pytest.raises(ConfigError, match=r"seq_len=4096.*long_conv.l_max=2048; set model"):
        get_study("table6").trials("paper", 1, {"training.seq_len": 4096})


def test_a_study_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_STUDY)
    study = get_study(f"{path}:WIDTH")
    assert [row.key for row in study.rows()] == ["16", "32"]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (None, "tabel7", "did you mean 'table7'"),
        (None, "tabel7", "path/to/file.py:NAME"),
        (None, "nowhere.py:X", "no such file: nowhere.py"),
        (OWN_STUDY, "{path}", "mine.py:NAME"),
        (OWN_STUDY, "{path}:WIDHT", "did you mean 'WIDTH'"),
        ("x = 1", "{path}:WIDTH", "has no Study in it"),
        ("1 / 0", "{path}:WIDTH", "ZeroDivisionError"),
        ("import nothing_there", "{path}:WIDTH", "nothing_there"),
        ("def f(:", "{path}:WIDTH", "SyntaxError"),
    ],
)
def test_studies_that_are_not_there(tmp_path, text, name, said):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StudyError) as caught:
        get_study(name.format(path=path))
    assert said in str(caught.value)
