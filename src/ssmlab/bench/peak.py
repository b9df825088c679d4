"""Peak memory on the CPU, of whatever allocates it: torch, NumPy, Numba or a library.

Each measurement is a process of its own (``ssmlab.bench.probe``), so that nothing that ran before
has left memory behind to be used again unseen.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METHOD = (
    "Peak resident memory of a fresh process during one call, after a short call that compiles, "
    "less its resident memory just before (VmHWM and VmRSS of /proc/self/status). The call's inputs "
    "lie in memory before, its results do not; each allocation of 64 KiB or more is returned to the "
    "system when freed."
)

# Large blocks then come from the system and go back to it, instead of being kept for later.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Peak:
    """Bytes above what was there before the call, or None and the reason."""

    extra_bytes: int | None
    why_not: str | None = None


def measure_peak(
    factory: str, arguments: dict[str, Any], *, threads: int, timeout_s: float = 600.0
) -> Peak:
    """The peak memory of calling what ``factory`` makes, in a process of its own.

    Args:
        factory: "module:function"; the function prepares the inputs, makes whatever needs compiling
            compile, and returns the call to measure.
        arguments: its keyword arguments, plain data.
        threads: number of torch's threads.
        timeout_s: seconds after which the process is stopped.
    """
    if not Path("/proc/self/status").exists():
        return Peak(None, "peak memory is measured on Linux only, from /proc/self/status")
    request = {"factory": factory, "arguments": arguments, "threads": threads}
    environment = {
        **os.environ,
        **_ALLOCATOR,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ssmlab.bench.probe"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Peak(None, f"the process that measures it was stopped after {timeout_s:.0f} s")
    except OSError as error:
        return Peak(None, f"no process could be started to measure it: {error}")
    if done.returncode == -signal.SIGKILL:
        return Peak(None, "the process that measures it was killed, most likely for want of memory")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Peak(None, f"the process that measures it failed: {last}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Peak(answer["extra_bytes"], answer["why_not"])


def available_memory() -> int | None:
    """Bytes that can still be used here without swapping, or None where that is not known."""
    figures = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        figures += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvail")]
    except OSError:
        pass
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            figures.append(int(limit) - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(0, min(figures)) if figures else None
