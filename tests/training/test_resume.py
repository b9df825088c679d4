import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssmlab.core.config import to_dict
from ssmlab.core.errors import CheckpointError, Interrupted
from ssmlab.training import run_trial
from ssmlab.training.checkpoint import latest_step, list_checkpoints
from ssmlab.training.metrics import read_metrics

# What time and machine decide; all else must be equal to the last bit.
_TIMES = ("seconds", "tokens_per_second", "peak_memory_bytes")


class StopAt:
    """A should_stop that says yes once, after so many steps."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self):
        self.left -= 1
        return self.left == 0


def timeless(lines):
    return [{k: v for k, v in line.items() if k not in _TIMES} for line in lines]


def assert_same_run(a, b):
    results = [json.loads((folder / "result.json").read_text()) for folder in (a, b)]
    assert timeless(results[:1]) == timeless(results[1:])
    assert timeless(read_metrics(a)) == timeless(read_metrics(b))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (a, b)]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def config(make_config):
    return make_config(eval_every=4, save_model=True, checkpoint_every_steps=3)


@pytest.fixture(scope="module")
def whole(config, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_trial(config, folder, data=text)
    return folder


@pytest.mark.parametrize("stops", [(1,), (4,), (7,), (12,), (3, 3, 3), (1, 1, 1, 1)])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, config, text, whole, stops):
    done = 0
    for calls in stops:
        events = []
        done += calls
        with pytest.raises(Interrupted, match=f"after step {done} of 12.*go on"):
            run_trial(
                config, tmp_path, should_stop=StopAt(calls), on_event=events.append, data=text
            )
        assert latest_step(tmp_path) == done
        assert len(list_checkpoints(tmp_path)) <= 2
        assert not (tmp_path / "DONE").exists()
    events = []
    run_trial(config, tmp_path, on_event=events.append, data=text)
    assert [e.step for e in events if e.kind == "resume"] == [done]
    assert_same_run(tmp_path, whole)


def test_steps_after_the_checkpoint_are_done_again(tmp_path, config, text, whole):
    """A death between checkpoints: the lines after the last checkpoint go, then come again."""

    def die(event):
        if event.kind == "val" and event.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(config, tmp_path, on_event=die, data=text)
    assert latest_step(tmp_path) == 6
    assert max(line["step"] for line in read_metrics(tmp_path)) == 8
    run_trial(config, tmp_path, data=text)
    assert_same_run(tmp_path, whole)


def test_death_in_the_final_evaluation(tmp_path, config, text, whole):
    with pytest.raises(Interrupted):
        run_trial(config, tmp_path, should_stop=StopAt(12), data=text)

    def die(event):
        if event.kind == "val" and event.step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(config, tmp_path, on_event=die, data=text)
    run_trial(config, tmp_path, data=text)
    assert_same_run(tmp_path, whole)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, config, text, whole):
    with pytest.raises(Interrupted):
        run_trial(config, tmp_path, should_stop=StopAt(7), data=text)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [6, 7]
    newest = list_checkpoints(tmp_path)[-1][1]
    newest.write_bytes(newest.read_bytes()[:-100])
    events = []
    run_trial(config, tmp_path, on_event=events.append, data=text)
    assert [(e.kind, e.step) for e in events[:2]] == [("warning", 0), ("resume", 6)]
    assert newest.name in events[0].message
    assert_same_run(tmp_path, whole)


def test_without_any_whole_checkpoint_the_trial_starts_over(tmp_path, config, text, whole):
    with pytest.raises(Interrupted):
        run_trial(config, tmp_path, should_stop=StopAt(7), data=text)
    for _, path in list_checkpoints(tmp_path):
        path.write_bytes(b"x" * 1000)
    events = []
    run_trial(config, tmp_path, on_event=events.append, data=text)
    assert [(e.kind, e.step) for e in events[:2]] == [("warning", 0)] * 2
    assert "resume" not in [e.kind for e in events]
    assert_same_run(tmp_path, whole)


def test_half_written_files_of_a_dead_process_are_cleared(tmp_path, config, text, whole):
    with pytest.raises(Interrupted):
        run_trial(config, tmp_path, should_stop=StopAt(4), data=text)
    (tmp_path / ".checkpoint-000000006.safetensors.abc.tmp").write_bytes(b"half")
    run_trial(config, tmp_path, data=text)
    assert not list(tmp_path.glob(".*"))
    assert_same_run(tmp_path, whole)


def test_data_that_changed_meanwhile_is_refused(tmp_path, config, text):
    class Other:
        def __getattr__(self, name):
            return "other" if name == "key" else getattr(text, name)

    with pytest.raises(Interrupted):
        run_trial(config, tmp_path, should_stop=StopAt(4), data=text)
    with pytest.raises(CheckpointError, match="other data"):
        run_trial(config, tmp_path, data=Other())


def test_another_config_cannot_go_on_from_a_checkpoint(tmp_path, config, text):
    with pytest.raises(Interrupted):
        run_trial(config, tmp_path, should_stop=StopAt(4), data=text)
    with pytest.raises(CheckpointError, match="another config: seed"):
        run_trial(dataclasses.replace(config, seed=7), tmp_path, data=text)


def test_times_are_summed_over_resumes(tmp_path, make_config, text):
    config = make_config(checkpoint_every_steps=1)
    seconds = []
    for _ in range(2):
        with pytest.raises(Interrupted):
            run_trial(config, tmp_path, should_stop=StopAt(5), data=text)
    result = run_trial(config, tmp_path, data=text)
    seconds = [line["seconds"] for line in read_metrics(tmp_path)]
    assert seconds == sorted(seconds)
    assert result.seconds > seconds[-1] - 1e-9


_CHILD = """
import json, os, sys
from pathlib import Path
from ssmlab.core.config import from_dict
from ssmlab.training import TrialConfig, run_trial
config = from_dict(TrialConfig, json.loads(sys.argv[1]))
def report(event):
    print(event.kind, event.step, flush=True)
run_trial(config, Path(sys.argv[2]), on_event=report)
"""


@pytest.mark.slow
def test_killed_processes_leave_a_folder_that_goes_on(tmp_path, make_config, text):
    """SIGKILL at three moments, one of them inside the writing of a checkpoint if luck has it."""
    config = make_config(
        steps=400, eval_every=50, save_model=True, checkpoint_every_steps=2, log_every=1
    )
    killed = tmp_path / "killed"
    for marks in (3, 40, 75):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(to_dict(config)), str(killed)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        with child:
            assert child.stdout is not None
            heard = [child.stdout.readline() for _ in range(marks)]
            time.sleep(0.003 * (marks % 4))
            child.kill()
        assert all(heard), "the child ended before it was killed"
        assert child.returncode == -signal.SIGKILL
        assert not (killed / "DONE").exists()
    assert latest_step(killed) is not None
    events = []
    run_trial(config, killed, on_event=events.append, data=text)
    assert events[0].kind == "resume"
    assert not [e for e in events if e.kind == "warning"]
    run_trial(config, Path(tmp_path / "whole"), data=text)
    assert_same_run(killed, tmp_path / "whole")
