"""The memory probe against allocations of a known size."""

from pathlib import Path

import pytest

from ssmlab.bench import peak, probe
from ssmlab.bench.peak import available_memory, measure_peak

SAMPLES = "tests.bench.samples"
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is measured on Linux only"
)


@pytest.mark.parametrize("factory", ["numpy_block", "torch_result"])
def test_a_known_peak(factory) -> None:
    """NumPy's blocks count as torch's do; what is freed in between and the inputs do not."""
    peak = measure_peak(f"{SAMPLES}:{factory}", {"megabytes": 100}, threads=1)
    assert peak.why_not is None
    assert peak.extra_bytes == pytest.approx(100e6, rel=0.05)


@pytest.mark.parametrize(
    ("factory", "timeout_s", "words"),
    [("failing", 100, "no such luck"), ("killed", 100, "killed"), ("sleeping", 0.5, "stopped")],
)
def test_a_failed_probe_says_why(factory, timeout_s, words) -> None:
    peak = measure_peak(f"{SAMPLES}:{factory}", {}, threads=1, timeout_s=timeout_s)
    assert peak.extra_bytes is None
    assert peak.why_not is not None
    assert words in peak.why_not


def test_a_peak_under_an_earlier_one_is_not_passed_off_as_nothing(monkeypatch, capsys) -> None:
    """Where the system does not let the earlier peak be forgotten, it is said."""
    monkeypatch.setattr(probe, "_forget_peak", lambda: 1 << 50)
    request = '{"factory": "tests.bench.samples:numpy_block", "arguments": {"megabytes": 1}'
    monkeypatch.setattr(probe.sys.stdin, "read", lambda: request + ', "threads": 1}', raising=False)
    threads = probe_threads()
    try:
        probe.main()
    finally:
        restore(threads)
    assert '"extra_bytes": null' in capsys.readouterr().out


def probe_threads() -> int:
    import torch

    return torch.get_num_threads()


def restore(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def test_available_memory_heeds_the_container(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(peak, "_CGROUP", tmp_path)
    free = available_memory()
    assert free is not None
    assert free > 1e8
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert available_memory() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == pytest.approx(free, rel=0.5)
