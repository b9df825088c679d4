"""Whole studies of tiny real trials, in this process."""

import json
import math
import os
import signal
from pathlib import Path

import pytest

from ssmlab.core.errors import ConfigError, DataError, Interrupted, StorageError, StudyError
from ssmlab.studies import load_results, open_store, run_study, study_status
from ssmlab.studies.statistics import judge
from ssmlab.studies.store import FAILED_FILE, STUDY_FILE
from ssmlab.training import run as training_run


def results_on_disk(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("trials/*/result.json")}


def states(out: Path) -> list[str]:
    return [line["state"] for line in study_status(out)]


def test_a_study_runs_and_says_so(tiny, data, tmp_path, watch):
    out = tmp_path / "study"
    results = run_study(tiny, out, scale="quick", overrides=data, on_event=watch)

    trials = tiny.trials("quick", 2, data)
    assert watch.names("trial-start") == watch.names("trial-done") == [t.name for t in trials]
    kinds = [event.kind for event in watch]
    assert kinds[0] == "prepare"
    assert kinds.index("preflight") < kinds.index("start") < kinds.index("trial-start")
    assert kinds[-1] == "done"
    assert {(e.index, e.total) for e in watch if e.kind == "trial-done"} == {
        (i, 4) for i in range(1, 5)
    }
    inner = [event.event for event in watch if event.kind == "trial-event"]
    assert all(event is not None for event in inner)

    assert [trial.state for trial in results.trials] == ["done"] * 4
    samples = results.samples()
    assert samples.keys() == {"no", "yes"}
    assert all(len(seeds) == 2 for seeds in samples.values())
    assert all(math.isfinite(x) for seeds in samples.values() for x in seeds.values())
    assert judge(tiny.claims[0], samples, results.study).n == 2


def test_the_folder_says_all_of_itself(tiny, data, tmp_path):
    out = tmp_path / "study"
    run_study(tiny, out, seeds=1, overrides=data)
    results = load_results(out)
    assert results.study.to_dict() == tiny.to_dict()
    assert (results.scale, results.seeds, results.overrides) == ("quick", 1, data)
    trial = results.trials[0]
    config, environment = trial.config(), trial.environment()
    assert config is not None
    assert environment is not None
    assert config["model"]["vocab_size"] == 256
    assert [line["step"] for line in trial.metrics() if line["split"] == "train"] == [1, 2, 3, 4]
    json.dumps(study_status(out), allow_nan=False)
    assert not list(out.glob("trials/*/lock.json"))


def test_finished_trials_are_not_run_again_and_more_seeds_go_on(tiny, data, tmp_path, watch):
    out = tmp_path / "study"
    run_study(tiny, out, seeds=1, overrides=data)
    before = results_on_disk(out)
    run_study(tiny, out, seeds=2, overrides=data, on_event=watch)
    after = results_on_disk(out)
    assert len(before) == 2
    assert len(after) == 4
    assert before.items() <= after.items()
    assert len(watch.names("trial-skipped")) == len(watch.names("trial-start")) == 2
    # Without a number, what is there counts: nothing is left to do, and no seed is forgotten.
    results = run_study(tiny, out, seeds=None, overrides=data)
    assert results.seeds == 2
    assert results_on_disk(out) == after


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale": "long"}, "holds scale 'quick', not 'long'"),
        ({"training.lr": 1e-3}, "training.lr (there not set, now 0.001)"),
        ({"name": "other"}, "holds study 'tiny', not 'other'"),
        ({"base": {"model.d_model": 8}}, "has changed since"),
    ],
)
def test_another_study_in_the_same_folder_is_refused(tiny, data, tmp_path, change, said):
    import dataclasses

    out = tmp_path / "study"
    run_study(tiny, out, seeds=1, overrides=data)
    before = results_on_disk(out)
    scale = change.pop("scale", "quick")
    fields = {key: change.pop(key) for key in ("name",) if key in change}
    if "base" in change:
        fields["base"] = {**tiny.base, **change.pop("base")}
    with pytest.raises(StudyError) as caught:
        run_study(
            dataclasses.replace(tiny, **fields), out, scale=scale, overrides={**data, **change}
        )
    assert said in str(caught.value)
    assert "another folder" in str(caught.value)
    assert results_on_disk(out) == before


def test_a_failing_trial_is_kept_and_the_others_go_on(tiny, data, tmp_path, watch, monkeypatch):
    out = tmp_path / "study"
    real = training_run.run_trial

    def fail_one(config, folder, **more):
        if not config.model.mamba.ssm.selective_B and config.seed == 0:
            raise RuntimeError("out of luck")
        return real(config, folder, **more)

    monkeypatch.setattr("ssmlab.training.run_trial", fail_one)
    with pytest.raises(StudyError) as caught:
        run_study(tiny, out, overrides=data, on_event=watch)
    assert "1 of 4 trials failed" in str(caught.value)
    assert "RuntimeError: out of luck" in str(caught.value)
    assert states(out) == ["failed", "done", "done", "done"]
    assert "out of luck" in watch.messages("warning")
    kept = json.loads(next(out.glob(f"trials/*/{FAILED_FILE}")).read_text())
    assert "fail_one" in kept["traceback"]
    assert study_status(out)[0]["error"] == "RuntimeError: out of luck"

    monkeypatch.undo()
    before = results_on_disk(out)
    run_study(tiny, out, overrides=data)
    assert states(out) == ["done"] * 4
    assert before.items() <= results_on_disk(out).items()
    assert not list(out.glob(f"trials/*/{FAILED_FILE}"))


def test_a_diverged_trial_is_finished_and_left_out(tiny, data, tmp_path, watch):
    out = tmp_path / "study"
    wild = {**data, "training.lr": 1e30, "training.grad_clip": 0.0}
    results = run_study(tiny, out, seeds=1, overrides=wild, on_event=watch)
    assert states(out) == ["diverged", "diverged"]
    assert results.samples() == {"no": {}, "yes": {}}
    assert list(results.diverged()) == ["no", "yes"]
    assert "diverged: " in watch.messages("warning")
    verdict = judge(tiny.claims[0], results.samples(), results.study, results.diverged())
    assert verdict.decision == "undecided"
    assert len(verdict.excluded) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(tiny, data, tmp_path, watch, number):
    out = tmp_path / "study"
    sent = []

    def act(event):
        if event.kind == "trial-event" and event.event.kind == "train" and not sent:
            sent.append(event.trial)
            os.kill(os.getpid(), number)

    watch.act = act
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="run the same command again"):
        run_study(tiny, out, seeds=1, overrides=data, on_event=watch)
    assert signal.getsignal(number) is before
    first, second = study_status(out)
    assert (first["state"], first["step"]) == ("partial", 2)
    assert second["state"] == "pending"
    watch.act = None
    watch.clear()
    run_study(tiny, out, seeds=1, overrides=data, on_event=watch)
    assert states(out) == ["done", "done"]
    resumed = [e.event.step for e in watch if e.event is not None and e.event.kind == "resume"]
    assert resumed == [2]


def test_a_full_disk_ends_the_study_not_trial_after_trial(tiny, data, tmp_path, monkeypatch, watch):
    def no_room(config, folder, **more):
        raise StorageError("cannot write there: the disk is full")

    monkeypatch.setattr("ssmlab.training.run_trial", no_room)
    with pytest.raises(StorageError, match="the disk is full"):
        run_study(tiny, tmp_path / "study", overrides=data, on_event=watch)
    assert len(watch.names("trial-start")) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"scale": "quik"}, StudyError, "did you mean 'quick'"),
        ({"workers": 0}, StudyError, "workers: expected at least 1"),
        ({"seeds": 0}, StudyError, "seeds: expected at least 1"),
        ({"scale": "big"}, StudyError, "data.tokenizer: a tokenizer of yours"),
        ({"overrides": {"data.paths": ["nowhere-at-all"]}}, DataError, "nowhere-at-all"),
        ({"overrides": {"training.seq_len": 10**7}}, DataError, "trial no-s0-"),
        ({"overrides": {"training.device": "abacus"}}, ConfigError, "trial no-s0-"),
        ({"overrides": {"model.vocab_size": 7}}, ConfigError, "trial no-s0-"),
        ({"overrides": {"model.mamba.ssm.dt_rank": 99}}, ConfigError, "dt_rank"),
    ],
)
def test_errors_come_before_work_and_leave_nothing(tiny, data, tmp_path, arguments, error, said):
    out = tmp_path / "new" / "study"
    arguments["overrides"] = {**data, **arguments.get("overrides", {})}
    with pytest.raises(error) as caught:
        run_study(tiny, out, **arguments)
    assert said in str(caught.value)
    assert not out.parent.exists()


def test_too_little_disk_is_found_before_work(tiny, data, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(StorageError, match="not enough room"):
        run_study(tiny, tmp_path / "study", overrides=data)
    assert not (tmp_path / "study" / STUDY_FILE).exists()


def test_no_study_there(tmp_path):
    for read in (load_results, study_status, open_store):
        with pytest.raises(StudyError, match="no study in"):
            read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}'])
def test_a_damaged_study_file(tmp_path, text):
    (tmp_path / STUDY_FILE).write_text(text)
    with pytest.raises(StudyError) as caught:
        load_results(tmp_path)
    assert STUDY_FILE in str(caught.value)


def test_damaged_results_are_said_not_raised(tiny, data, tmp_path):
    out = tmp_path / "study"
    first, second = run_study(tiny, out, seeds=1, overrides=data).trials
    (first.folder / "result.json").write_text("{")
    with open(second.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "spl')
    first, second = load_results(out).trials
    assert first.state == "failed"
    assert first.error is not None
    assert "remove" in first.error
    assert second.metrics()[-1]["step"] == 4
