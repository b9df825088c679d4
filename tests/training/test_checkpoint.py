import errno
import os
import resource
import signal

import pytest
import torch

from ssmlab.core.errors import StorageError
from ssmlab.training import checkpoint as module
from ssmlab.training.checkpoint import Checkpoint, list_checkpoints, load_latest, save_checkpoint
from ssmlab.training.estimate import checkpoint_bytes


def make(step, size=100):
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "model.w": torch.randn(size, generator=generator),
        "model.half": torch.randn(3, 2, generator=generator).bfloat16(),
        "step": torch.tensor(float(step)),
        "empty": torch.empty(0),
    }
    return Checkpoint(step, tensors, {"seconds": 1 / 3, "key": "é"})


def same(a, b):
    assert a.step == b.step
    assert a.state == b.state
    assert a.tensors.keys() == b.tensors.keys()
    for name in a.tensors:
        assert a.tensors[name].dtype == b.tensors[name].dtype
        assert torch.equal(a.tensors[name], b.tensors[name])


def no_warning(message):
    raise AssertionError(message)


def test_what_is_read_is_what_was_written_and_two_are_kept(tmp_path):
    for step in (5, 10, 1_234_567_890, 20):
        save_checkpoint(tmp_path, make(step))
    assert [step for step, _ in list_checkpoints(tmp_path)] == [20, 1_234_567_890]
    same(load_latest(tmp_path, no_warning), make(1_234_567_890))


def test_empty_folder_has_none(tmp_path):
    assert load_latest(tmp_path, no_warning) is None


@pytest.mark.parametrize("damage", ["cut", "header", "tensor", "state", "empty"])
def test_damage_is_seen_and_the_earlier_one_taken(tmp_path, damage):
    save_checkpoint(tmp_path, make(1))
    path = save_checkpoint(tmp_path, make(2))
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        raw = raw[: len(raw) // 2]
    elif damage == "header":
        raw[0:4] = b"\xff\xff\xff\x00"
    elif damage == "tensor":
        raw[-7] ^= 1
    elif damage == "state":
        at = raw.index(b"0.3333")
        raw[at + 2 : at + 3] = b"4"
    else:
        raw = bytearray()
    path.write_bytes(raw)
    warnings = []
    same(load_latest(tmp_path, warnings.append), make(1))
    assert len(warnings) == 1
    assert path.name in warnings[0]
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1]


def test_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, make(1))
    before = sorted(os.listdir(tmp_path))

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(StorageError, match="disk is full"):
        save_checkpoint(tmp_path, make(2))
    assert sorted(os.listdir(tmp_path)) == before
    same(load_latest(tmp_path, no_warning), make(1))


def test_a_real_failure_of_the_writer_is_a_storage_error(tmp_path):
    """A limit on file sizes makes the library's own write fail in the middle."""
    save_checkpoint(tmp_path, make(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(StorageError, match="cannot write"):
            save_checkpoint(tmp_path, make(2, size=1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1]
    same(load_latest(tmp_path, no_warning), make(1))


def test_estimated_size_covers_the_real_one(tmp_path):
    n = 300_000
    tensors = {f"{kind}.w": torch.zeros(n) for kind in ("model", "exp_avg", "exp_avg_sq")}
    path = save_checkpoint(tmp_path, Checkpoint(1, tensors, {}))
    assert 0.9 * checkpoint_bytes(n) < path.stat().st_size < checkpoint_bytes(n)
