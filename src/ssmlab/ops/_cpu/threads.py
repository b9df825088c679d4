"""Running a kernel's tasks on as many threads as torch may use.

They are torch's own threads where these can be had, else plain Python threads: the kernels release
the interpreter's lock. Which thread runs a task changes nothing in what it computes, so results do
not depend on their number. May be called from several threads at once, and after a fork.
"""

import ctypes
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from ssmlab.ops._cpu.team import find_team

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_Entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # calling one gives the interpreter's lock away


def _pool(workers: int) -> ThreadPoolExecutor:
    # A forked child has no threads of its parent's pool: it gets its own.
    key = (os.getpid(), workers)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(workers, thread_name_prefix="ssmlab-ops")
    return _pools[key]


def run_tasks(run: Callable[[int], None], count: int) -> None:
    """Call ``run`` with 0 .. count - 1, each once, in no particular order, and wait for all."""
    threads = min(torch.get_num_threads(), count)
    indices = itertools.count()  # its next() is atomic under the interpreter's lock

    def drain() -> None:
        while (index := next(indices)) < count:
            run(index)

    if threads < 2:
        drain()
        return
    team = find_team()
    if team is not None:
        errors: list[BaseException] = []

        def enter(_: int | None) -> None:
            try:
                drain()
            except BaseException as error:  # C cannot pass it on
                errors.append(error)

        # However many threads come, all tasks are done.
        team.start(_Entry(enter), None, threads, 0)
        if errors:
            raise errors[0]
        return
    futures = [_pool(threads - 1).submit(drain) for _ in range(threads - 1)]
    try:
        drain()
    finally:
        # On an error too: no helper may still write to arrays that the caller is about to free.
        for future in futures:
            future.result()


def run_entry(entry: int, argument: int, count: int) -> None:
    """Call void f(void *), which is at an address, with ``argument`` on ``count`` threads at most.

    Fewer may come, so these calls must share out the work by themselves.
    """
    threads = min(torch.get_num_threads(), count)
    team = find_team() if threads > 1 else None
    if team is not None:
        team.start(entry, argument, threads, 0)
        return
    function = _Entry(entry)
    run_tasks(lambda _: function(argument), threads)
