"""Vectors of 512 bits where the processor has them and does not slow down for them.

LLVM knows them to be there on Intel's server processors and yet keeps to 256 bits, because the first
of them (Skylake, Cascade Lake) lower their clock for the wide ones. Those since Ice Lake do not, or
hardly. A function can ask for the wide ones by an attribute of its own; the rest of the process,
users' own numba code included, is compiled as it was.
"""

import functools
from typing import Any

import llvmlite.binding as llvm
from numba.core import lowering
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

# Ice Lake's, which Skylake and Cascade Lake lack.
_FEATURE = "avx512vbmi2"
_ATTRIBUTE = '"prefer-vector-width"="512"'


@functools.cache
def wide_vectors() -> bool:
    """Whether kernels are compiled for vectors of 512 bits."""
    return bool(llvm.get_host_cpu_features().get(_FEATURE))


class _Lower(lowering.Lower):
    def pre_lower(self) -> None:
        super().pre_lower()
        if wide_vectors():
            # Past the set's own ``add``, which takes attributes without a value alone.
            set.add(self.builder.function.attributes, _ATTRIBUTE)


@register_pass(mutates_CFG=True, analysis_only=False)
class _NativeLowering(NativeLowering):
    _name = "ssmlab_native_lowering"

    @property
    def lowering_class(self) -> Any:
        return _Lower


class WideCompiler(CompilerBase):
    """Numba's compiler, with the attribute on every function it compiles."""

    def define_pipelines(self) -> Any:
        """Numba's own passes, one of them exchanged."""
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (_NativeLowering if stage is NativeLowering else stage, what)
            for stage, what in manager.passes
        ]
        manager.finalize()
        return [manager]
