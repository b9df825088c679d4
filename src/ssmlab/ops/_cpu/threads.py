"""Running a kernel's tasks on as many threads as torch may use.

Plain Python threads: the kernels release the interpreter's lock. Which thread runs a task changes
nothing in what it computes, so results do not depend on their number. Unlike the compiler's own
thread pools, this one may be called from several threads at once and survives a fork.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _pool(workers: int) -> ThreadPoolExecutor:
    # A forked child has no threads of its parent's pool: it gets its own.
    key = (os.getpid(), workers)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(workers, thread_name_prefix="ssmlab-ops")
    return _pools[key]


def run_tasks(run: Callable[[int], None], count: int) -> None:
    """Call ``run`` with 0 .. count - 1, each once, in no particular order, and wait for all."""
    helpers = min(torch.get_num_threads(), count) - 1
    indices = itertools.count()  # its next() is atomic under the interpreter's lock

    def drain() -> None:
        while (index := next(indices)) < count:
            run(index)

    if helpers < 1:
        drain()
        return
    futures = [_pool(helpers).submit(drain) for _ in range(helpers)]
    try:
        drain()
    finally:
        # On an error too: no helper may still write to arrays that the caller is about to free.
        for future in futures:
            future.result()
