"""``ssmlab bench train``: tokens per second, MFU, memory and where the time goes."""

import statistics
import time
from typing import Any

import torch

from ssmlab.bench.presets import matmul_flops_per_token, preset
from ssmlab.bench.shares import time_shares
from ssmlab.bench.steps import Step, bench_device, kept_bytes, peak_bytes, release, time_steps
from ssmlab.blocks.mamba_config import Recompute
from ssmlab.core.errors import ConfigError

_GB = 1e9


def run(
    *,
    device: str,
    models: list[str],
    batch_size: int = 0,
    seq_len: int = 2048,
    recompute: list[Recompute] | None = None,
    repeats: int = 10,
    precision: str = "auto",
    memory_limit_gb: float = 40.0,
    compiled: bool = False,
    cuda_graph: bool = False,
) -> list[dict[str, Any]]:
    """A row for each model and way to recompute.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        models: names of ``presets.PRESETS``.
        batch_size: sequences a step; 0 for the most that ``memory_limit_gb`` holds (on the CPU: 4).
        seq_len: tokens a sequence.
        recompute: values of ``MambaConfig.recompute``.
        repeats: timed steps.
        precision: "auto", "fp32" or "bf16".
        memory_limit_gb: see ``batch_size``; gigabytes of 10^9 bytes, as torch counts its tensors.
        compiled: torch.compile the loss.
        cuda_graph: replay the step as a CUDA graph, as training does.

    Raises:
        ConfigError: an unknown model or device, a model that does not fit the limit, or a CUDA
            graph on a CPU.
    """
    place = bench_device(device)
    if cuda_graph and place.type != "cuda":
        raise ConfigError(f"--cuda-graph needs a CUDA device, given is --device {device}")
    peak_rate = matmul_rate(place)
    rows = []
    for name in models:
        for level in recompute or ["auto"]:
            config = preset(name, level)

            def build(batch: int, config: Any = config) -> Step:
                return Step.build(config, place, batch, seq_len, precision, compiled)

            batch = batch_size or 4
            if batch_size == 0 and place.type == "cuda":
                batch = largest_batch(build, place, memory_limit_gb, name)
            step = build(batch)
            peak, kept = peak_bytes(step), kept_bytes(step)
            if cuda_graph:
                step.record()
            seconds, spread = time_steps(step, repeats)
            flops = matmul_flops_per_token(config) * batch * seq_len
            rows.append(
                {
                    "model": name,
                    "parameters": sum(p.numel() for p in step.model.parameters()),
                    "recompute": level,
                    "batch_size": batch,
                    "seq_len": seq_len,
                    "precision": "bf16" if step.bf16 else "fp32",
                    "compiled": compiled,
                    "cuda_graph": cuda_graph,
                    "tokens_per_s": batch * seq_len / seconds,
                    "step_ms": seconds * 1e3,
                    "spread": spread,
                    "mfu": flops / seconds / peak_rate,
                    "peak_tflops": peak_rate / 1e12,
                    "peak_gb": None if peak is None else peak / _GB,
                    "kept_gb": kept / _GB,
                    "device": device_name(place),
                    "shares": time_shares(step.run, place),
                }
            )
            del step
            release(place)
    return rows


def device_name(device: torch.device) -> str:
    """What the GPU calls itself, or "cpu" with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def matmul_rate(device: torch.device) -> float:
    """FLOP/s of a large matrix product of random numbers here: bf16 on CUDA, else fp32."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[3:])


def largest_batch(build: Any, device: torch.device, limit_gb: float, model: str) -> int:
    """The largest batch whose step stays under ``limit_gb``; multiples of 8 above 8.

    Two small batches say what a sequence takes; the batch that follows is tried and made smaller
    until it fits.

    Raises:
        ConfigError: not even one sequence fits.
    """

    def peak(batch: int) -> float:
        step = None
        try:
            step = build(batch)
            return (peak_bytes(step, 1) or 0) / _GB
        except torch.cuda.OutOfMemoryError:
            return float("inf")
        finally:
            del step
            release(device)

    one, three = peak(1), peak(3)
    if one > limit_gb:
        raise ConfigError(
            f"{model} takes {one:.1f} GB with one sequence, the limit is {limit_gb:g} GB; give a "
            "higher --memory-limit or a smaller --seq-len"
        )
    each = max((three - one) / 2, 1e-6)
    batch = min(max(1, int(1 + (limit_gb - one) / each)), 1024)
    batch = batch // 8 * 8 if batch > 8 else batch
    while batch > 1 and peak(batch) > limit_gb:
        batch -= 8 if batch > 8 else 1
    return batch
