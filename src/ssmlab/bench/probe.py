"""The process that ``ssmlab.bench.peak`` starts: reads a request, makes one call, tells its peak.

Request (standard input) and answer (last line of standard output) are JSON.
"""

import ctypes
import gc
import importlib
import json
import sys
from typing import Any


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    import torch

    torch.set_num_threads(request["threads"])
    module, _, name = request["factory"].partition(":")
    call = getattr(importlib.import_module(module), name)(**request["arguments"])
    gc.collect()
    _trim()
    earlier_peak = _forget_peak()
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    if peak > earlier_peak:
        answer: dict[str, Any] = {"extra_bytes": max(0, peak - before), "why_not": None}
    else:
        why_not = "it stayed under an earlier peak, which this system does not let us forget"
        answer = {"extra_bytes": None, "why_not": why_not}
    print(json.dumps(answer))


def _trim() -> None:
    """Have the C library give free memory back, where it can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def _forget_peak() -> int:
    """Let the peak start anew (Linux); the bytes it must exceed to be one of what follows, or 0."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return _status("VmHWM")
    return 0


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
