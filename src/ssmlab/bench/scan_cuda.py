"""The selective scan on a GPU beside its floors and, where it is installed, mamba_ssm.

Shapes: B batch, L length, D channels, N state.
"""

import importlib.util
import statistics
from typing import Any

import torch
from torch import Tensor

from ssmlab.bench.ceilings import Ceilings, measure_ceilings, time_graph
from ssmlab.core.errors import ConfigError
from ssmlab.ops._cuda import unavailable_reason

SHAPES = ((8, 2048, 2048, 16), (16, 2048, 1536, 16), (2, 2048, 2048, 16), (1, 16384, 2048, 16))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORWARD, KEPT, BACKWARD = "forward", "kept forward", "backward"
PASSES = {
    FORWARD: "forward, no gradients",
    KEPT: "forward that keeps what backward needs",
    BACKWARD: "backward",
}
_EXTRA = 3  # special-function operations a channel and step beside N: one softplus, two gate


def run(
    shapes: list[tuple[int, int, int, int]], dtype: str, repeats: int
) -> list[dict[str, str | float | None]]:
    """One row a shape: milliseconds of each of ``PASSES``, floors, and ratios to the larger.

    Softplus and the gate are fused, D and the bias of delta given, B and C per step. mamba_ssm's
    forward keeps what its backward needs, so it stands beside ours that does.

    Raises:
        ConfigError: no kernels can run here, or the dtype is not one of theirs.
    """
    reason = unavailable_reason()
    if reason is not None:
        raise ConfigError(f"bench scan --device cuda: {reason}")
    if dtype not in DTYPES:
        raise ConfigError(
            f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)} on a GPU; "
            "choose one of them with --dtype"
        )
    ceilings = measure_ceilings()
    return [_row(shape, dtype, repeats, ceilings) for shape in shapes]


def floors(
    shape: tuple[int, int, int, int], element: int, ceilings: Ceilings
) -> dict[str, tuple[float, float]]:
    """Milliseconds below which each pass cannot go: exponentials, memory."""
    B, L, D, N = shape
    exponentials = 1e3 * B * L * D * (N + _EXTRA) / ceilings.special
    wide, narrow = B * L * D * element, B * L * N * element
    numbers = {
        FORWARD: 4 * wide + 2 * narrow,  # u, delta, z, y; B, C
        KEPT: 4 * wide + 2 * narrow,
        # u, delta, z, grad y, and three gradients; B, C and theirs
        BACKWARD: 7 * wide + 4 * narrow,
    }
    return {
        name: (exponentials, 1e3 * size / ceilings.copy_bytes) for name, size in numbers.items()
    }


def _row(
    shape: tuple[int, int, int, int], dtype: str, repeats: int, ceilings: Ceilings
) -> dict[str, str | float | None]:
    tensors, grad = _inputs(shape, DTYPES[dtype])
    forward, backward = torch.ops.ssmlab.selective_scan, torch.ops.ssmlab.selective_scan_backward
    args = (*tensors, None, None)  # no initial state, no packing
    kept = forward(*args, True, True, "cuda")[2]
    times = {
        FORWARD: time_graph(lambda: forward(*args, True, False, "cuda"), 5, repeats),
        KEPT: time_graph(lambda: forward(*args, True, True, "cuda"), 5, repeats),
        BACKWARD: time_graph(lambda: backward(grad, None, kept, *args, True, "cuda"), 5, repeats),
    }
    bounds = floors(shape, DTYPES[dtype].itemsize, ceilings)
    others = _mamba(tensors, grad, repeats)
    row: dict[str, str | float | None] = {
        "shape": "x".join(map(str, shape)),
        "dtype": dtype,
        "device": ceilings.device,
    }
    for name, seconds in times.items():
        exponentials, memory = bounds[name]
        row[f"{name} ms"] = 1e3 * seconds
        row[f"{name} exp floor"] = exponentials
        row[f"{name} memory floor"] = memory
        row[f"{name} / floor"] = 1e3 * seconds / max(exponentials, memory)
        if name != FORWARD:
            row[f"{name} mamba_ssm ms"] = others.get(name)
    row["copy TB/s"] = ceilings.copy_bytes / 1e12
    row["exp T/s"] = ceilings.special / 1e12
    return row


def _inputs(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor]:
    """u, delta, A, B, C, D, z and the bias of delta, as in a trained block; and a gradient of y."""
    batch, length, channels, states = shape
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(size, generator=generator, device="cuda").to(dtype)

    u, delta, z, grad = (normal(batch, length, channels) for _ in range(4))
    B, C = (normal(batch, length, states) for _ in range(2))
    A = -torch.arange(1, states + 1, device="cuda").float().repeat(channels, 1)
    A *= 0.8 + 0.4 * torch.rand(A.shape, generator=generator, device="cuda")
    bias = torch.rand(channels, generator=generator, device="cuda") * 4 - 6
    return (u, delta, A, B, C, normal(channels, dtype=torch.float32), z, bias), grad


def _mamba(tensors: tuple[Tensor, ...], grad: Tensor, repeats: int) -> dict[str, float]:
    """mamba_ssm's milliseconds on the same values in its own layout; empty if it is not there."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return {}
    interface: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    u, delta, A, B, C, D, z, bias = tensors

    def turned(x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous().requires_grad_()

    own = [turned(u), turned(delta), A.clone().requires_grad_(), turned(B), turned(C)]
    own += [D.clone().requires_grad_(), turned(z), bias.clone().requires_grad_()]
    times: dict[str, list[float]] = {KEPT: [], BACKWARD: []}
    for _ in range(repeats + 2):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        marks[0].record()
        y = interface.selective_scan_fn(*own, True)
        marks[1].record()
        torch.autograd.grad(y, own, grad.transpose(1, 2))
        marks[2].record()
        marks[2].synchronize()
        times[KEPT].append(marks[0].elapsed_time(marks[1]))
        times[BACKWARD].append(marks[1].elapsed_time(marks[2]))
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Bars of each row's times over marks of its floors, written to ``path`` (PNG, PDF or SVG)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.5), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 3), PASSES.items(), strict=True):
        places = range(len(rows))
        axes.bar([p - 0.2 for p in places], [r[f"{name} ms"] for r in rows], 0.4, label="ssmlab")
        others = [(p, r.get(f"{name} mamba_ssm ms")) for p, r in zip(places, rows, strict=True)]
        others = [(p, ms) for p, ms in others if ms is not None]
        if others:
            axes.bar([p + 0.2 for p, _ in others], [ms for _, ms in others], 0.4, label="mamba_ssm")
        for floor, style in (("exp floor", "k_"), ("memory floor", "rx")):
            axes.plot(places, [r[f"{name} {floor}"] for r in rows], style, label=floor, ms=12)
        axes.set_xticks(list(places), [r["shape"] for r in rows], rotation=20, ha="right")
        axes.set_ylabel("ms")
        axes.set_title(f"{title}, {rows[0]['dtype']}", fontsize="medium")
        axes.legend()
    figure.savefig(path)
