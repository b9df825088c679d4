"""From a study's folder to ReportData."""

import json
import math
import statistics
from pathlib import Path

import pytest

from ssmlab.core.errors import StudyError
from ssmlab.studies.claims import Claim, Contrast, alike, better, larger_gain
from ssmlab.studies.report import build_report
from ssmlab.studies.report.render import agreement_text, spread_text
from ssmlab.studies.store import StudyStore, load_results
from tests.studies.report.conftest import FULL, Build, widths


def test_means_intervals_and_paper_figures(build: Build) -> None:
    data = build_report(build())
    assert data.complete
    assert data.counts["done"] == 9
    row = data.rows[0]
    logs = [math.log(ppl) for ppl in (3.0, 3.02, 3.01)]
    assert row.mean == pytest.approx(math.exp(sum(logs) / 3))
    assert row.low is not None
    assert row.high is not None
    assert row.mean is not None
    assert row.low < row.mean < row.high
    assert (row.paper_ppl, row.paper_params_m, row.n, row.tokens) == (9.0, 1.1, 3, 320)
    assert [r.best for r in data.rows] == [False, False, True]
    assert data.rows[0].versus_best == pytest.approx(row.mean / (data.rows[2].mean or 0) - 1)
    assert data.plot_axis == "width"


def test_order_and_verdicts(build: Build) -> None:
    data = build_report(build())
    assert (data.order.tau, data.order.n) == (pytest.approx(1.0), 3)
    assert (data.order.best_ours, data.order.worst_paper) == ("width 32", "width 8")
    assert (data.order.pairs, data.order.told_apart, data.order.as_in_paper) == (3, 3, 3)
    assert "Of 3 pairs of rows seeds tell 3 apart, 3 of them in the paper's" in agreement_text(data)
    assert {claim.key: claim.verdict for claim in data.claims} == {
        "wide": "holds",
        "turn": "does not",
    }
    decisive = data.claims[0].decisive
    assert decisive is not None
    assert decisive.estimate == pytest.approx(math.log(2.51 / 3.01), abs=1e-3)
    assert decisive.n == 3


def test_reverse_order_has_negative_tau(build: Build) -> None:
    reverse = {"w8": FULL["w32"], "w16": FULL["w16"], "w32": FULL["w8"]}
    data = build_report(build(reverse))
    assert data.order.tau == pytest.approx(-1.0)
    assert data.order.best_ours != data.order.best_paper
    assert (data.order.told_apart, data.order.as_in_paper) == (3, 0)


def test_the_spread_of_a_row_of_many_seeds_is_said(build: Build) -> None:
    five = (3.0, 3.02, 3.01, 3.03, 2.99)
    data = build_report(build({"w8": five, "w16": five, "w32": (*five[:4], None)}))
    deviation = statistics.stdev(map(math.log, five))
    assert data.spread is not None
    assert data.spread.by_row == (
        ("width 8", pytest.approx(deviation)),
        ("width 16", pytest.approx(deviation)),
    )
    assert spread_text(data).endswith(" Row by row: width 8 0.53%; width 16 0.53%.")


def test_one_seed_has_no_interval_and_says_so(build: Build) -> None:
    data = build_report(build({key: values[:1] for key, values in FULL.items()}))
    assert all(row.mean is not None and row.low is None for row in data.rows)
    assert {claim.verdict for claim in data.claims} == {"undecided"}
    assert "1 seed" in data.claims[0].reason
    assert any("One seed" in note for note in data.notes)


def test_diverged_and_missing_trials_are_named(build: Build) -> None:
    why = "loss nan at step 7 of 20"
    data = build_report(build({"w8": (3.0, why), "w16": (2.8, None), "w32": (None, None)}))
    assert not data.complete
    assert [row.note for row in data.rows] == ["1 diverged", "1 not begun", "2 not begun"]
    assert data.rows[2].mean is None
    assert data.rows[2].versus_best is None
    assert any(why in note and "8, seed 1" in note for note in data.notes)
    assert (data.order.n, data.order.tau) == (2, pytest.approx(1.0))
    assert "3" in (data.order.note or "")
    _, rows = data.table()
    assert rows[2][1] == "2 not begun"
    assert "1 diverged" in rows[0][1]


def test_nothing_done_yet(build: Build) -> None:
    data = build_report(build({key: (None,) for key in FULL}))
    assert data.counts["pending"] == 3
    assert data.order.tau is None
    assert data.order.note
    json.dumps(data.to_dict(), allow_nan=False)


def test_stopped_trial_shows_its_curve_so_far(build: Build) -> None:
    out = build()
    trial = load_results(out).trials[0]
    for name in ("DONE", "result.json"):
        (trial.folder / name).unlink()
    view = build_report(out).rows[0].trials[0]
    assert view.state == "partial"
    assert len(view.train) == 20


def test_failed_trial_is_named_with_its_error(build: Build) -> None:
    out = build({**FULL, "w8": (3.0, 3.02, None)})
    name = next(t.name for t in load_results(out).trials if t.state == "pending")
    StudyStore(out).trial_folder(name).mkdir()
    StudyStore(out).record_failure(name, "out of memory")
    data = build_report(out)
    assert data.rows[0].note == "1 failed"
    assert any("out of memory" in note for note in data.notes)


def test_facts_and_commands(build: Build) -> None:
    overrides = {"data.paths": ["/texts/a b.txt"], "training.lr": 0.001}
    out = build(overrides=overrides)
    data = build_report(out)
    facts = dict(data.facts)
    assert facts["Data"] == "Some text, 3 files, 1.0 MB, bytes"
    assert facts["Trials"] == "3 rows × 3 seeds = 9"
    assert "torch 2.13.0" in facts["Versions"]
    assert "width 8" in facts["Model"]
    assert "width 32" in facts["Model"]
    assert "training.lr = 0.001" in facts["Changed settings"]
    assert "Not the scale as it stands; changed: training.lr = 0.001." in data.notes
    run = data.commands[0]
    assert run.startswith("ssmlab study run widths --scale quick --seeds 3")
    assert "--data '/texts/a b.txt'" in run
    assert "--set training.lr=0.001" in run
    assert str(out) in run


def test_scale_note_says_what_compares(build: Build) -> None:
    assert "not comparable" in build_report(build()).notes[0]
    paper = build_report(build(scale="paper", name="paper")).notes[0]
    assert "not comparable" not in paper
    assert "Pile" in paper
    changed = build(scale="paper", overrides={"training.lr": 0.1}, name="changed")
    assert "not comparable" in build_report(changed).notes[0]
    without = build(study=widths(figures={}), name="own")
    assert not any("paper" in note for note in build_report(without).notes)


def test_no_study_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study"):
        build_report(tmp_path)


def test_contrasts_speak_of_labels_not_keys(build: Build) -> None:
    claims = (
        Claim("gain", "More.", "T", (larger_gain(("w8", "w32"), than=("w8", "w16")),)),
        Claim("near", "Near.", "T", alike("w8", "w16", 0.02)),
        Claim("far", "Far.", "T", (better("w32", "w8", by=0.1),)),
        Claim("own", "Own.", "T", (Contrast({"w8": -2.0, "w16": 1.0, "w32": 1.0}),)),
    )
    views = build_report(build(study=widths(claims=claims))).claims
    texts = [contrast.text for view in views for contrast in view.contrasts]
    assert texts == [
        "width 8 to width 32 gains more than width 8 to width 16",
        "width 8 at most 2% above width 16",
        "width 16 at most 2% above width 8",
        "width 32 below width 8 by more than 10%",
        "weighted sum of width 8, width 16, width 32",
    ]
    assert all(sum(contrast.decisive for contrast in view.contrasts) == 1 for view in views)


def test_verdict_names_the_comparison_and_the_diverged(build: Build) -> None:
    why = "loss nan at step 7 of 20"
    data = build_report(build({**FULL, "w8": (3.0, 3.02, why)}))
    wide = data.claims[0]
    assert wide.reason.startswith("width 32 below width 8. Left out, diverged: w8-s2-")
    assert data.claims[1].reason.startswith("Contradicted: width 8 below width 32.")
