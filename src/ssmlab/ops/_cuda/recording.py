"""CUDA graphs: what a function does on the GPU, recorded once to be replayed."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def record(function: Callable[[], T], device: torch.device) -> tuple[torch.cuda.CUDAGraph, T]:
    """The graph of a function and the function's outputs, which each replay writes anew.

    Nothing is computed. The function must have run before, so that all is compiled.

    Raises:
        RuntimeError: something in it cannot be recorded, or memory ran out. Nothing is left of it.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    before = generator.get_state()
    graph = torch.cuda.CUDAGraph()
    try:
        # What other threads do on the GPU meanwhile is none of the graph's business.
        with (
            torch.cuda.device(index),
            torch.cuda.graph(
                graph, stream=torch.cuda.Stream(index), capture_error_mode="thread_local"
            ),
        ):
            outputs = function()
    except RuntimeError:
        # A recording that failed leaves the random numbers believing that it is still under way.
        fresh = torch.Generator(torch.device("cuda", index))
        fresh.set_state(before)
        generator.graphsafe_set_state(fresh.graphsafe_get_state())
        raise
    return graph, outputs
