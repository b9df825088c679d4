"""``ssmlab study``: what the command line adds to the studies themselves."""

import pytest

from ssmlab.cli import study


@pytest.mark.parametrize(
    ("device", "gpus", "workers"), [("auto", 3, 3), ("cuda", 2, 2), ("cuda:1", 2, 1), ("cpu", 2, 1)]
)
def test_as_many_workers_as_gpus(device, gpus, workers, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    assert study._default_workers(device) == workers
