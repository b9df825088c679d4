"""Compiling with NVRTC, which needs no GPU; and what is said where something is missing."""

import sys
import warnings

import pytest
import torch

from ssmlab.ops import _cuda
from ssmlab.ops._cuda import KernelSource, availability, vendor
from ssmlab.ops._cuda.check import all_variants, check
from ssmlab.ops._cuda.compile import compile_kernel, read_resources
from ssmlab.ops.selective_scan import available_backends, selective_scan
from ssmlab.ops.selective_scan.cuda.plan import Device, all_plans

needs_nvrtc = pytest.mark.skipif(
    availability._compiler_reason() is not None, reason="cuda-core or NVRTC is not installed"
)


@needs_nvrtc
def test_a_kernel_compiles_and_its_log_is_read(source: KernelSource) -> None:
    compiled = compile_kernel(source, "sm_90a")
    assert compiled.code.startswith(b"\x7fELF")
    assert "twice" in compiled.symbol
    used = read_resources(compiled.log)
    assert 0 < used.registers < 64
    assert used.spill_bytes == 0


@needs_nvrtc
def test_a_mistake_is_shown_with_its_file_and_line(source: KernelSource) -> None:
    source.files[-1].write_text("\n__global__ void broken() { undefined(); }\n")
    broken = KernelSource(source.files[-1:], "broken")
    with pytest.raises(RuntimeError, match=r"(?s)broken does not compile.*twice.cu\(2\)"):
        compile_kernel(broken, "sm_90a")


@needs_nvrtc
def test_the_check_fails_on_spills(source: KernelSource, capsys) -> None:
    assert check([("sm_80", source)]) == []
    source.files[-1].write_text(
        "extern __shared__ float s[]; __global__ void spills() { float x[200];\n"
        "#pragma unroll\nfor (int i = 0; i < 200; i++) x[i] = s[i * 3];\n__syncthreads();\n"
        "#pragma unroll\nfor (int i = 0; i < 200; i++) s[i] = x[199 - i] * x[i]; }"
    )
    spilling = KernelSource(source.files[-1:], "spills", max_registers=32)
    (wrong,) = check([("sm_80", spilling)])
    assert "bytes of spills a thread, expected at most 64" in wrong
    assert "spills" in capsys.readouterr().out


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("name", ["scan_forward<bf16", "scan_backward<bf16", "general_backward"])
def test_a_scan_kernel_compiles_without_spills(name: str) -> None:
    variant = next(v for v in all_variants() if v.name.startswith(name))
    assert read_resources(compile_kernel(variant, "sm_90a").log).spill_bytes <= 64


def test_every_layout_fits_the_shared_memory_of_every_gpu() -> None:
    # 99 KB a block: compute capability 8.6 and 8.9, the least of those that run the kernels.
    # What float32 with more than 32 states takes is asked of the device (inputs.is_fast).
    for element in (2, 4):
        for device in (Device(capability=(8, 6)), Device()):
            forwards, backwards = all_plans(device, element)
            for plan, shared in (
                *((forward, forward.shared(0, element)) for forward in forwards),
                *((backward, backward.shared(element)) for backward in backwards),
            ):
                most = 99 if element == 2 or plan.WS < 4 else 128
                assert shared <= most * 1024


def test_an_empty_log_is_an_error() -> None:
    with pytest.raises(ValueError, match="no resource usage"):
        read_resources("nothing")


def test_without_a_device_the_reason_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    reason = _cuda.unavailable_reason()
    assert reason is not None
    assert "no CUDA device" in reason
    assert available_backends()["cuda"] == reason
    x = torch.ones(1, 2, 3)
    A, B = -torch.ones(3, 4), torch.ones(1, 2, 4)
    with pytest.raises(ValueError, match=r'backend "cuda" works on CUDA tensors.*cpu'):
        selective_scan(x, x, A, B, B, backend="cuda")


@pytest.mark.parametrize("missing", ["core", "nvrtc"])
def test_without_the_extra_the_reason_names_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise ModuleNotFoundError(f"No module named 'cuda.{missing}'")

    monkeypatch.setattr(vendor, "core", lambda: None)
    monkeypatch.setattr(vendor, "driver", lambda: None)
    monkeypatch.setattr(vendor, missing, absent)
    availability._compiler_reason.cache_clear()
    try:
        reason = availability._compiler_reason()
    finally:
        availability._compiler_reason.cache_clear()
    assert reason is not None
    assert "pip install 'ssmlab[gpu]'" in reason


def test_an_old_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(availability, "_capability", lambda index: (7, 5))
    assert "compute capability 7.5, the kernels need 8.0" in str(_cuda.unavailable_reason(0))


def test_the_fallback_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "_warned", set())
    with pytest.warns(
        RuntimeWarning, match=r"selective_scan: .* plain PyTorch .* because of tests"
    ):
        _cuda.warn_once("selective_scan", "because of tests")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _cuda.warn_once("selective_scan", "because of tests")


def test_importing_the_operators_imports_no_cuda_package() -> None:
    import subprocess

    code = (
        "import sys, ssmlab.ops; from ssmlab.ops.selective_scan import cuda; "
        "bad = [m for m in sys.modules if m.startswith(('cuda.core', 'matplotlib'))]; "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
