"""What a GPU can do, measured: bytes copied and exponentials taken a second.

Floors follow from them: no scan runs faster than its exponentials, or than reading its inputs and
writing its outputs once.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ssmlab.ops._cuda import COMMON, KernelSource, load_kernel

_EXP = KernelSource((COMMON, Path(__file__).parent / "kernels" / "ceilings.cu"), "exp_rate")


@dataclass(frozen=True)
class Ceilings:
    """Rates of one device.

    Attributes:
        device: its name.
        copy_bytes: bytes read plus bytes written a second in a large copy.
        special: special-function operations (exponentials) a second.
    """

    device: str
    copy_bytes: float
    special: float


def time_graph(call: Callable[[], object], calls: int, repeats: int) -> float:
    """Median seconds a call, from replays of a CUDA graph of ``calls`` calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    graph.replay()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(times)


def copy_rate(device: torch.device, repeats: int = 9) -> float:
    """Bytes read plus bytes written a second in a large copy on a CUDA device."""
    with torch.cuda.device(device):
        size = min(1 << 30, torch.cuda.get_device_properties(device).total_memory // 8)
        source = torch.empty(size // 4, device=device)
        target = torch.empty_like(source)
        return 2 * size / time_graph(lambda: torch.neg(source, out=target), 4, repeats)


def measure_ceilings(repeats: int = 9) -> Ceilings:
    """Measure the current CUDA device; takes a fraction of a second."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    device = torch.device("cuda", torch.cuda.current_device())
    copy = copy_rate(device, repeats)
    blocks, steps = 8 * properties.multi_processor_count, 4096
    out = torch.empty(blocks * 256, device=device)
    kernel = load_kernel(_EXP, device)
    seconds = time_graph(
        lambda: kernel([out, steps], (blocks, 1, 1), 256, device=device), 2, repeats
    )
    return Ceilings(properties.name, copy, blocks * 256 * 8 * steps / seconds)
