"""How kernels are compiled: at the first call, without the interpreter's lock, kept on disk.

Only what Python or C calls is kept. The compiler finds stored code by the time of that function's
file alone, so a digest of all files it is made of belongs to the key: code compiled from an older
version of any of them is not run. The disk is but a convenience: where code cannot be stored or
what is stored cannot be read, kernels are compiled for this process.
"""

import contextlib
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

from ssmlab.ops._cpu import maths, vectors
from ssmlab.ops._cpu.maths import FLAGS
from ssmlab.ops._cpu.vectors import WideCompiler

OPTIONS: Any = {"error_model": "numpy", "fastmath": FLAGS}
OPTIONS_WIDE: Any = {**OPTIONS, "pipeline_class": WideCompiler}
_INNER: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}

# For what kernels call now and then. A call counts its arrays in and out, atomically each: in a row
# of 64 numbers that took longer than the numbers.
inline: Any = njit(fastmath=FLAGS, **_INNER)
# The same with vectors of 512 bits, where there are any: see ``vectors``.
inline_wide: Any = njit(fastmath=FLAGS, pipeline_class=WideCompiler, **_INNER)
# For what a loop calls: the loop becomes vector instructions only if nothing in it is a call.
expand: Any = njit(fastmath=FLAGS, forceinline=True, **_INNER)
expand_wide: Any = njit(fastmath=FLAGS, forceinline=True, pipeline_class=WideCompiler, **_INNER)
# For sums, of which the compiler may choose the order.
SUM_FLAGS = FLAGS | {"reassoc"}
inline_sum: Any = njit(fastmath=SUM_FLAGS, **_INNER)
expand_sum: Any = njit(fastmath=SUM_FLAGS, forceinline=True, **_INNER)

_warned = False
_addressed: list[Any] = []  # an address is good for as long as its function lives


def kernel(*sources: str) -> Callable[[Any], Any]:
    """A decorator for a function that Python calls; ``sources`` are the files it is made of.

    Besides these: this one and those it imports, which belong to all.
    """

    def decorate(function: Any) -> Any:
        compiled: Any = njit(nogil=True, **OPTIONS)(function)
        with contextlib.suppress(RuntimeError):  # no folder to store it in can be written to
            compiled._cache = _Cache(function, digest(*sources))
        return compiled

    return decorate


def address_of(function: Any, *sources: str) -> int:
    """Compile a function of one pointer and nothing else; where C finds it.

    ``sources`` as for :func:`kernel`. What is compiled lives as long as the process.
    """
    compiled: Any = CFunc(function, ((types.voidptr,), types.void), {}, OPTIONS)
    with contextlib.suppress(RuntimeError):
        compiled._cache = _Cache(function, digest(*sources))
    compiled.compile()
    _addressed.append(compiled)
    return compiled.address


def digest(*files: str) -> str:
    """Of what is in the files, in this order, and in those that all kernels are made of."""
    common = (__file__, str(maths.__file__), str(vectors.__file__))
    content = b"".join(Path(file).read_bytes() for file in (*common, *files))
    return hashlib.sha256(content).hexdigest()


class _Cache(FunctionCache):
    """Numba's, with the sources in the key; where it fails, it is not used any more."""

    def __init__(self, function: Any, sources: str) -> None:
        super().__init__(function)
        self._sources = sources

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self._sources)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # reading a damaged file may raise anything
            self._give_up(error)

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        global _warned
        self.disable()
        if not _warned:
            _warned = True
            warnings.warn(
                f"compiled kernels cannot be kept in {self.cache_path} "
                f"({type(error).__name__}: {error}); they are compiled anew in every process",
                stacklevel=2,
            )
