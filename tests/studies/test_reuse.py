"""Trials that another study has finished are taken over, whole, and only if they are the same."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssmlab.core.errors import StudyError
from ssmlab.studies import Axis, Point, load_results, run_study, study_status
from ssmlab.studies.report import build_report
from ssmlab.studies.store import ORIGIN_FILE, StudyStore
from tests.studies.conftest import TINY

ROOT = Path(__file__).parents[2]

# The row "full" is TINY's "yes"; "larger" is in no other study. Keys and names differ throughout.
SIZES = dataclasses.replace(
    TINY,
    name="sizes",
    axes=(
        Axis(
            "state",
            (
                Point("full", {"model.mamba.ssm.d_state": 2}),
                Point("larger", {"model.mamba.ssm.d_state": 4}),
            ),
        ),
    ),
    # Without effect, so that the hashes differ: no H3 block, and "auto" is ceil(16 / 16).
    base={**TINY.base, "model.h3.d_shift": 7, "model.mamba.ssm.dt_rank": 1},
    claims=(),
)


@pytest.fixture
def done(tiny, data, tmp_path):
    """The folder of TINY with two seeds."""
    run_study(tiny, tmp_path / "tiny", overrides=data)
    return tmp_path / "tiny"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def reused(watch) -> str:
    return watch.messages("reuse")


@pytest.mark.parametrize("workers", [1, 2])
def test_shared_trials_are_taken_over(done, data, tmp_path, watch, workers):
    before = files(done)
    out = tmp_path / "sizes"
    results = run_study(SIZES, out, overrides=data, reuse=[done], workers=workers, on_event=watch)
    assert reused(watch) == "2 of 4 trials taken over from other studies: tiny (2)"
    assert [name.partition("-")[0] for name in watch.names("trial-start")] == ["larger"] * 2
    assert files(done) == before

    theirs = {t.seed: t for t in load_results(done).trials if t.row.key == "yes"}
    for trial in results.trials:
        assert trial.state == "done"
        origin = trial.origin()
        if trial.row.key == "larger":
            assert origin is None
            continue
        source = theirs[trial.seed]
        assert origin == {"study": "tiny", "trial": source.name}
        assert (trial.result, trial.metrics()) == (source.result, source.metrics())
        assert trial.environment() == source.environment()
        config = trial.config()
        assert config is not None
        assert config["model"]["h3"]["d_shift"] == 7

    facts = dict(build_report(out).facts)
    assert facts["Trials"] == "2 rows × 2 seeds = 4, of which 2 taken over from tiny"
    assert facts["Training tokens"] == "256 in all; 256 in trials taken over"
    assert facts["Time"].endswith("in trials taken over")
    assert "taken over" not in dict(build_report(done).facts)["Time"]

    # It goes on as any other study, and where a trial ran is kept when it is taken over again.
    again = dataclasses.replace(SIZES, name="again")
    run_study(again, tmp_path / "again", overrides=data, reuse=[out])
    origins = [trial.origin() for trial in load_results(tmp_path / "again").trials]
    assert [origin and origin["study"] for origin in origins] == ["tiny", "sizes"] * 2


def test_a_trial_taken_over_is_the_trial_that_would_have_run(done, data, tmp_path):
    ran = run_study(SIZES, tmp_path / "ran", seeds=1, overrides=data)
    taken = run_study(SIZES, tmp_path / "taken", seeds=1, overrides=data, reuse=[done])
    assert ran.samples() == taken.samples()
    assert [t.config() for t in ran.trials] == [t.config() for t in taken.trials]


@pytest.mark.parametrize(
    "change",
    [
        {"training.lr": 1e-4},
        {"data.split_seed": 3},
        {"data.paths": "other"},
        {"training.save_model": True},
    ],
)
def test_others_are_not(done, data, tmp_path, watch, text_folder, change):
    if "data.paths" in change:
        folder = tmp_path / "text"
        shutil.copytree(text_folder, folder)
        (folder / "00.txt").write_text("other words altogether " * 20)
        change = {"data.paths": [str(folder)]}
    run_study(
        SIZES, tmp_path / "out", seeds=1, overrides={**data, **change}, reuse=[done], on_event=watch
    )
    assert reused(watch) == "0 of 2 trials taken over"
    assert len(watch.names("trial-start")) == 2


def test_the_text_counts_by_its_content_not_by_its_place(done, data, tmp_path, watch, text_folder):
    shutil.copytree(text_folder, tmp_path / "moved")
    changes = {**data, "data.paths": [str(tmp_path / "moved")]}
    changes["data.cache_dir"] = str(tmp_path / "another cache")
    run_study(SIZES, tmp_path / "out", seeds=1, overrides=changes, reuse=[done], on_event=watch)
    assert reused(watch).startswith("1 of 2 trials taken over")


def test_weights_come_along_checkpoints_locks_and_failures_do_not(tiny, data, tmp_path):
    changes = {**data, "training.save_model": True}
    source, out = tmp_path / "source", tmp_path / "out"
    for trial in run_study(tiny, source, seeds=1, overrides=changes).trials:
        for name in ("checkpoint-000000002.safetensors", "lock.json", "failed.json"):
            (trial.folder / name).write_text("{}")
    taken = run_study(SIZES, out, seeds=1, overrides=changes, reuse=[source]).trials[0]
    names = {path.name for path in taken.folder.iterdir()}
    assert names == {
        *("config.json", "environment.json", "metrics.jsonl", "result.json", "DONE"),
        *("origin.json", "model.safetensors"),
    }


def test_only_finished_trials_and_only_of_the_same_kind_of_device(done, data, tmp_path, watch):
    first, *_ = [t for t in load_results(done).trials if t.row.key == "yes"]
    (first.folder / "DONE").unlink()
    run_study(SIZES, tmp_path / "one", seeds=1, overrides=data, reuse=[done], on_event=watch)
    assert reused(watch) == "0 of 2 trials taken over"

    watch.clear()
    (first.folder / "DONE").touch()
    result = json.loads((first.folder / "result.json").read_text())
    (first.folder / "result.json").write_text(json.dumps({**result, "device": "cuda:0"}))
    run_study(SIZES, tmp_path / "two", seeds=1, overrides=data, reuse=[done], on_event=watch)
    assert reused(watch) == (
        "0 of 2 trials taken over; not those that ran on another kind of device (1 on cuda)"
    )


def test_diverged_trials_are_taken_over_too(tiny, data, tmp_path):
    wild = {**data, "training.lr": 1e30, "training.grad_clip": 0.0}
    run_study(tiny, tmp_path / "source", seeds=1, overrides=wild)
    out = tmp_path / "out"
    trial = run_study(SIZES, out, seeds=1, overrides=wild, reuse=[tmp_path / "source"]).trials[0]
    assert (trial.state, trial.origin() is not None) == ("diverged", True)


def test_a_folder_without_a_study_is_an_error_before_any_work(done, data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(StudyError, match=r"nothing to take over: no study in .*nowhere"):
        run_study(SIZES, out, overrides=data, reuse=[done, tmp_path / "nowhere"])
    assert not out.exists()


def test_the_own_folder_is_passed_over(tiny, done, data, watch):
    before = files(done)
    run_study(tiny, done, overrides=data, reuse=[done.parent / "x" / ".." / "tiny"], on_event=watch)
    assert reused(watch) == ""
    assert files(done) == before


def test_what_was_begun_here_gives_way_and_what_is_held_does_not(done, data, tmp_path, watch):
    out = tmp_path / "out"
    store = StudyStore(out)
    trials = SIZES.trials("quick", 2, data)
    store.begin(SIZES, "quick", 2, data, trials)
    store.record_failure(trials[0].name, "out of luck")
    (store.trial_folder(trials[0].name) / "checkpoint-000000001.safetensors").write_text("half")
    lock = store.lock(trials[2].name)
    assert lock is not None
    with lock:
        run_study(SIZES, out, overrides=data, reuse=[done], on_event=watch)
        assert reused(watch) == "1 of 4 trials taken over from other studies: tiny (1)"
    assert [line["state"] for line in study_status(out)] == ["done", "done", "pending", "done"]
    names = {path.name for path in store.trial_folder(trials[0].name).iterdir()}
    assert not {"failed.json", "checkpoint-000000001.safetensors"} & names


_KILLED = """
import json, os, signal, sys
from pathlib import Path
from ssmlab.studies import run_study
from tests.studies.test_reuse import SIZES
out, source, at, overrides = sys.argv[1:]
done, real_rename = 0, Path.rename

def rename(path, target):
    global done
    done += 1
    if done == int(at) and path.name.startswith(".taking"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real_rename(path, target)

Path.rename = rename
run_study(SIZES, Path(out), overrides=json.loads(overrides), reuse=[Path(source)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_between_copies_leaves_nothing_half(done, data, tmp_path, watch, at):
    out = tmp_path / "out"
    arguments = [str(out), str(done), str(at), json.dumps(data)]
    died = subprocess.run([sys.executable, "-c", _KILLED, *arguments], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    states = [line["state"] for line in study_status(out)]
    assert states == ["done"] * (at - 1) + ["pending"] * (5 - at)
    run_study(SIZES, out, overrides=data, reuse=[done], on_event=watch)
    assert [line["state"] for line in study_status(out)] == ["done"] * 4
    assert reused(watch).startswith(f"{3 - at} of 4")
    assert {path.name for path in out.iterdir()} == {"study.json", "trials", ".lock"}
    assert sum((path / ORIGIN_FILE).exists() for path in (out / "trials").iterdir()) == 2


def test_collecting_runs_nothing_and_takes_what_ran_elsewhere(done, data, tmp_path, watch):
    for record in load_results(done).trials:
        path = record.folder / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "device": "cuda:1"}))
    results = run_study(
        SIZES, tmp_path / "out", overrides=data, reuse=[done], collect=True, on_event=watch
    )
    assert reused(watch) == "2 of 4 trials taken over from other studies: tiny (2)"
    states = {(trial.row.key, trial.seed): trial.state for trial in results.trials}
    assert set(states.values()) == {"done", "pending"}
    assert {key for key, state in states.items() if state == "done"} == {("full", 0), ("full", 1)}


def test_collecting_from_nowhere_is_refused(data, tmp_path):
    with pytest.raises(StudyError, match="give --reuse"):
        run_study(SIZES, tmp_path / "out", overrides=data, collect=True)
    assert not (tmp_path / "out").exists()
