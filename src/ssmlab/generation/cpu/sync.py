"""What compiled code lacks: barriers, and arrays and functions at an address."""

from typing import Any

from llvmlite import ir
from numba import types

from ssmlab.ops._cpu.compiling import inline
from ssmlab.ops._cpu.intrinsics import arrive, first_element, untyped_intrinsic

# Waiting threads look this often before they let others run: about a barrier's usual wait.
_SPINS = 4000

_yield = types.ExternalFunction("sched_yield", types.int32())


def _generate_pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


@untyped_intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """An address (int64) as a pointer to float32, for ``numba.carray``."""
    return types.CPointer(types.float32)(types.int64), _generate_pointer


@untyped_intrinsic
def integers(typing_context: Any, address: Any) -> Any:
    """An address (int64) as a pointer to int64, for ``numba.carray``."""
    return types.CPointer(types.int64)(types.int64), _generate_pointer


@untyped_intrinsic
def call_int(typing_context: Any, address: Any) -> Any:
    """Call the C function ``int f(void)`` at an address (int64)."""
    signature = types.int32(types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])

    return signature, generate


@untyped_intrinsic
def _arrived(typing_context: Any, counter: Any) -> Any:
    """counter[0], seeing all that other threads wrote before they added to it."""
    signature = types.int64(counter)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = first_element(context, builder, signature, arguments)
        return builder.load_atomic(place, "acquire", 8)

    return signature, generate


@inline
def barrier(counter: Any, threads: int) -> None:
    """Wait until all ``threads`` have come here.

    counter[0] only ever grows; a counter[1] that is not 0 says that somebody will not come, and lets
    everybody go.
    """
    if threads == 1:
        return
    target = (arrive(counter) // threads + 1) * threads
    looks = 0
    while _arrived(counter) < target:
        looks += 1
        if looks > _SPINS:
            _yield()
            if counter[1] != 0:
                return
