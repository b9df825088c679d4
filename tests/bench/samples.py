"""Factories for the memory probe, whose memory is known; each process imports this module."""

import os
import signal
from collections.abc import Callable

import numpy as np
import torch


def numpy_block(megabytes: float) -> Callable[[], int]:
    """Allocate and drop a block twice, one after the other: the peak is one block."""
    elements = int(megabytes * 1e6 / 8)

    def call() -> int:
        total = 0
        for _ in range(2):
            total += int(np.ones(elements).sum())
        return total

    return call


def torch_result(megabytes: float) -> Callable[[], torch.Tensor]:
    """Beside an input of the same size, which does not count, return a new tensor."""
    x = torch.ones(int(megabytes * 1e6 / 4))
    return lambda: x + 1


def failing() -> Callable[[], None]:
    raise RuntimeError("no such luck")


def killed() -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def sleeping() -> Callable[[], None]:
    import time

    return lambda: time.sleep(60)
