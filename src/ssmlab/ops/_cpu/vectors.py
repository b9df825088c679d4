"""Vectors of 512 bits for a function that gains by them, where the processor has them.

LLVM knows them to be there on Intel's server processors and yet keeps to 256 bits: the first of these
(Skylake, Cascade Lake) lower their clock for the wide ones. Those since Ice Lake hardly do, but
have two units for wide vectors where they have three for narrow ones, so it is not every loop that
gains. A function asks for them by an attribute of its own, and all else in the process, users' own
numba code included, is compiled as it was.
"""

import functools
from typing import Any

import llvmlite.binding as llvm
from numba.core import lowering
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

# Ice Lake has it, Skylake and Cascade Lake have not.
_FEATURE = "avx512vbmi2"
_ATTRIBUTE = '"prefer-vector-width"="512"'


@functools.cache
def has_wide_vectors() -> bool:
    """Whether the processor has vectors of 512 bits that do not slow it down."""
    return bool(llvm.get_host_cpu_features().get(_FEATURE))


class _Lower(lowering.Lower):
    def pre_lower(self) -> None:
        super().pre_lower()
        if has_wide_vectors():
            # Past the set's own ``add``, which takes none but attributes without a value.
            set.add(self.builder.function.attributes, _ATTRIBUTE)


@register_pass(mutates_CFG=True, analysis_only=False)
class _NativeLowering(NativeLowering):
    _name = "ssmlab_native_lowering"

    @property
    def lowering_class(self) -> Any:
        return _Lower


class WideCompiler(CompilerBase):
    """Numba's compiler, which also puts the attribute on what it compiles: a ``pipeline_class``."""

    def define_pipelines(self) -> Any:
        """Numba's own passes, one of them exchanged."""
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (_NativeLowering if stage is NativeLowering else stage, what)
            for stage, what in manager.passes
        ]
        manager.finalize()
        return [manager]
