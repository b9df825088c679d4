import pytest

from ssmlab.core.errors import StorageError
from ssmlab.training.metrics import MetricsLog, read_metrics
from ssmlab.training.speed import Speedometer


def fill(folder):
    log = MetricsLog(folder, 0, 20)
    for step in (5, 10, 15, 20):
        log.append(step=step, split="train", loss=1 / step)
        log.append(step=step, split="val", loss=2 / step)
    return log


def test_lines_are_readable_at_once_and_cut_on_resume(tmp_path):
    fill(tmp_path)
    assert len(read_metrics(tmp_path)) == 8
    MetricsLog(tmp_path, 10, 20)
    assert [(x["step"], x["split"]) for x in read_metrics(tmp_path)] == [
        (5, "train"),
        (5, "val"),
        (10, "train"),
        (10, "val"),
    ]
    assert read_metrics(tmp_path)[2]["loss"] == 1 / 10


def test_the_final_evaluation_is_done_again(tmp_path):
    fill(tmp_path)
    MetricsLog(tmp_path, 20, 20)
    assert [(x["step"], x["split"]) for x in read_metrics(tmp_path)][-2:] == [
        (15, "val"),
        (20, "train"),
    ]


@pytest.mark.parametrize("tail", ['{"step": 25, "spl', '{"step": 25, "split": "train"}', "[1]\n"])
def test_a_half_written_last_line_is_dropped(tmp_path, tail):
    log = fill(tmp_path)
    whole = log.path.read_text()
    log.path.write_text(whole + tail)
    assert len(read_metrics(tmp_path)) == 8
    MetricsLog(tmp_path, 100, 200)
    assert log.path.read_text() == whole


def test_no_file_is_no_lines(tmp_path):
    assert read_metrics(tmp_path) == []


def test_unwritable_metrics_are_a_storage_error(tmp_path):
    log = fill(tmp_path)
    log.path.unlink()
    log.path.mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        log.append(step=1, split="train")


def test_speed_leaves_out_the_first_lap_and_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ssmlab.training.speed.time.perf_counter", lambda: now[0])
    speed = Speedometer(tokens=100, seconds=1.0)
    now[0] = 50.0  # compilation
    speed.lap(10)
    assert speed.total() == 100
    now[0] = 51.0
    speed.lap(300)
    now[0] = 99.0  # an evaluation
    speed.restart()
    now[0] = 100.0
    speed.lap(500)
    assert speed.window() == 400
    assert speed.total() == 300
    assert (speed.tokens, speed.seconds) == (900, 3.0)
    now[0] = 102.0
    speed.lap(100)
    assert speed.window() == 50


def test_speed_of_a_single_lap_is_that_lap(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ssmlab.training.speed.time.perf_counter", lambda: now[0])
    speed = Speedometer()
    now[0] = 2.0
    speed.lap(10)
    assert speed.window() == speed.total() == 5
