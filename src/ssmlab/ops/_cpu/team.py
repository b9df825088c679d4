"""torch's own OpenMP threads, for a function that runs on all of them at once.

After every operation torch's threads spin for some milliseconds, in case there is another one.
Threads of our own that start meanwhile share the cores with them: on 2 cores that cost 7 ms of every
step. So the library that torch runs on is asked for the very same threads.
"""

import ctypes
import functools
import os
from typing import Any, NamedTuple

import torch


class Team(NamedTuple):
    """The three functions of the OpenMP library that matter here.

    Attributes:
        start: GOMP_parallel(function, argument, threads, 0): call function(argument) on each of so
            many threads, the caller's one of them, and return when all have.
        size: address of omp_get_num_threads: how many there are, asked from one of them.
        number: address of omp_get_thread_num: which one it is, from 0.
    """

    start: Any
    size: int
    number: int


def find_team() -> Team | None:
    """torch's threads; None where they cannot be had."""
    # libgomp's threads do not survive a fork, and it does not know: it would wait for them for ever.
    return None if os.getpid() != _process else _find()


_process = os.getpid()


@functools.cache
def _find() -> Team | None:
    try:
        # Names are looked up in what torch is linked to, so that it is torch's OpenMP that is found.
        library = ctypes.CDLL(torch._C.__file__)
        start = library.GOMP_parallel
        size, number = library.omp_get_num_threads, library.omp_get_thread_num
    except (OSError, AttributeError):  # another OpenMP (macOS), or none
        return None
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    addresses = [ctypes.cast(f, ctypes.c_void_p).value or 0 for f in (size, number)]
    return Team(start, *addresses)
