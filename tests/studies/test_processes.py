"""Studies that are killed, shared between processes, and run by several workers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssmlab.core.errors import StudyError
from ssmlab.paper import get_study
from ssmlab.studies import load_results, run_study, study_status
from ssmlab.studies.locks import LOCK_FILE
from ssmlab.studies.store import StudyStore
from ssmlab.studies.workers import Worker
from tests.studies import drive

ROOT = Path(__file__).parents[2]
FOREVER = 1_000_000


def start(out: Path, text: Path, steps: int, seeds: int, workers: int = 1) -> subprocess.Popen:
    arguments = [str(out), str(text), str(steps), str(seeds), str(workers)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.studies.drive", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> list[str]:
    """Its lines, once it has ended well."""
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return shown.split()


def wait_for(
    happened: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 90.0
) -> None:
    """Until it has happened; an error if ``process`` ends before that."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process is None or process.poll() is None, "the process ended before that"
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def checkpoints(out: Path) -> list[Path]:
    return list(out.glob("trials/*/checkpoint-*.safetensors"))


def losses(out: Path) -> dict[str, float]:
    return {t.name: t.result["val_loss"] for t in load_results(out).trials if t.result}


def holders(out: Path) -> dict[str, int]:
    """Process ids in the locks there are."""
    found = {}
    for path in out.glob(f"trials/*/{LOCK_FILE}"):
        try:
            found[path.parent.name] = json.loads(path.read_text())["pid"]
        except FileNotFoundError:
            continue
    return found


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_very_same_result(tiny, text_folder, tmp_path, watch):
    out, steps = tmp_path / "killed", 200
    process = start(out, text_folder, steps, 1)
    try:
        wait_for(lambda: list(out.glob("trials/*/DONE")) and checkpoints(out), process)
    finally:
        end(process)
    done, half = load_results(out).trials
    assert (done.state, half.state) == ("done", "partial")
    assert half.step
    written = (done.folder / "result.json").stat().st_mtime_ns

    changes = drive.overrides(text_folder, out, steps)
    run_study(tiny, out, seeds=1, overrides=changes, on_event=watch)
    assert (done.folder / "result.json").stat().st_mtime_ns == written
    assert watch.names("trial-skipped") == [done.name]
    resumed = [e.event.step for e in watch if e.event is not None and e.event.kind == "resume"]
    assert len(resumed) == 1
    assert resumed[0] >= half.step

    whole = tmp_path / "whole"
    run_study(tiny, whole, seeds=1, overrides=changes)
    assert losses(whole) == losses(out)
    steps_seen = [line["step"] for line in half.metrics() if line["split"] == "train"]
    assert steps_seen == list(range(10, steps + 1, 10))


@pytest.mark.slow
def test_two_processes_share_a_study_and_run_nothing_twice(text_folder, tmp_path):
    out = tmp_path / "study"
    processes = [start(out, text_folder, 40, 4) for _ in range(2)]
    try:
        names = [finish(process) for process in processes]
    finally:
        for process in processes:
            end(process)
    begun = sorted(names[0] + names[1])
    assert begun == sorted(trial.name for trial in load_results(out).trials)
    assert len(begun) == 8
    assert {line["state"] for line in study_status(out)} == {"done"}


@pytest.mark.slow
def test_a_running_trial_is_seen_and_left_to_its_process(tiny, text_folder, tmp_path, watch):
    out = tmp_path / "study"
    process = start(out, text_folder, FOREVER, 1)
    try:
        wait_for(lambda: checkpoints(out), process)
        first = study_status(out)[0]
        assert first["state"] == "running"
        assert first["step"] >= 10
        # The other row is free; it is stopped at its first step, the held one is not touched.
        changes = drive.overrides(text_folder, out, FOREVER)
        begun = []

        def stop_soon(event):
            if event.kind == "trial-start":
                begun.append(event.trial)
                os.kill(os.getpid(), signal.SIGTERM)

        watch.act = stop_soon
        with pytest.raises(Exception, match="run the same command again"):
            run_study(tiny, out, seeds=1, overrides=changes, on_event=watch)
        assert begun == [study_status(out)[1]["trial"]]
        process.terminate()
        assert process.wait(60) == 3
        assert [line["state"] for line in study_status(out)] == ["partial", "partial"]
    finally:
        end(process)


@pytest.mark.slow
def test_workers_give_the_same_results_also_for_a_study_of_ones_own(text_folder, tmp_path, watch):
    path = tmp_path / "own.py"
    path.write_text(
        "from ssmlab.studies import *\n"
        "OWN = Study('own', 'Own', 'ours',\n"
        "    (Axis('N', tuple(Point(str(n), {'model.mamba.ssm.d_state': n}) for n in (1, 2))),),\n"
        "    {'model.d_model': 16, 'model.n_layers': 1, 'training.batch_size': 2,\n"
        "     'training.seq_len': 16, 'training.eval_tokens': 64, 'training.threads': 1},\n"
        "    (Scale('quick', {}, seeds=2),))\n"
    )
    study = get_study(f"{path}:OWN")
    changes = drive.overrides(text_folder, tmp_path / "x", 20)
    run_study(study, tmp_path / "two", overrides=changes, workers=2, on_event=watch)
    run_study(study, tmp_path / "one", overrides=changes)
    assert len(losses(tmp_path / "two")) == 4
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    assert len(watch.names("trial-start")) == len(watch.names("trial-done")) == 4
    assert any(e.event is not None and e.event.kind == "train" for e in watch)


@pytest.mark.slow
def test_a_worker_that_is_killed_fails_its_trial_alone(tiny, text_folder, tmp_path, watch):
    out = tmp_path / "study"
    killed = []

    def kill_one(event):
        if event.kind == "trial-event" and not killed:
            process = holders(out).get(event.trial)
            if process is not None:
                killed.append(event.trial)
                os.kill(process, signal.SIGKILL)

    watch.act = kill_one
    changes = drive.overrides(text_folder, out, 300)
    with pytest.raises(StudyError, match="killed by signal 9"):
        run_study(tiny, out, overrides=changes, workers=2, on_event=watch)
    states = {line["trial"]: line["state"] for line in study_status(out)}
    assert states.pop(killed[0]) == "failed"
    assert set(states.values()) == {"done"}


def test_a_worker_that_died_idle_is_found_out_when_listened_to(tiny, data, tmp_path):
    worker = Worker(StudyStore(tmp_path), 0, 1)
    worker.process.kill()
    worker.process.join()
    worker.give(tiny.trials("quick", 1, data)[0])
    with pytest.raises((EOFError, OSError)):
        worker.connection.recv()
    worker.close()


@pytest.mark.slow
def test_workers_are_saved_by_one_signal_to_their_parent(text_folder, tmp_path):
    out = tmp_path / "study"
    process = start(out, text_folder, FOREVER, 1, workers=2)
    try:
        wait_for(lambda: len({path.parent for path in checkpoints(out)}) == 2, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 3
    finally:
        end(process)
    assert [line["state"] for line in study_status(out)] == ["partial", "partial"]
    assert holders(out) == {}


@pytest.mark.slow
def test_workers_do_not_outlive_their_parent(text_folder, tmp_path):
    out = tmp_path / "study"
    process = start(out, text_folder, FOREVER, 1, workers=2)
    try:
        wait_for(lambda: len({path.parent for path in checkpoints(out)}) == 2, process)
    finally:
        end(process)
    wait_for(lambda: holders(out) == {})
    assert [line["state"] for line in study_status(out)] == ["partial", "partial"]
