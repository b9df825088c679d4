"""How the decoder's kernels are compiled: without the interpreter's lock, kept on disk."""

from typing import Any

from numba import cfunc, njit, types

from ssmlab.ops.selective_scan.cpu.maths import FLAGS

# Only in sums may the compiler choose the order, and only where it is told so.
SUM_FLAGS = FLAGS | {"reassoc"}

_SIGNATURE = types.void(types.voidptr)
_kept: list[Any] = []  # an address is good for as long as its function lives


def jit(function: Any, flags: Any = FLAGS) -> Any:
    """Compile at the first call; the code is kept on disk where a folder can be written to."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": flags}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written to
        return njit(**options)(function)


def jit_sum(function: Any) -> Any:
    """As ``jit``, for a function whose loops are sums."""
    return jit(function, SUM_FLAGS)


def address_of(function: Any) -> int:
    """Compile a function of one pointer and nothing else; where C finds it."""
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": FLAGS}
    compiled: Any
    try:
        compiled = cfunc(_SIGNATURE, cache=True, **options)(function)
    except RuntimeError:
        compiled = cfunc(_SIGNATURE, **options)(function)
    _kept.append(compiled)
    return compiled.address
