"""What compiled code lacks: barriers, arrays and functions at an address, and prefetching."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ssmlab.ops._cpu.compiling import inline

# Waiting threads look this often before they let others run: about a barrier's usual wait.
_SPINS = 4000

_yield = types.ExternalFunction("sched_yield", types.int32())


# The decorator's result is called without the typing context, which type checkers cannot know.
_intrinsic: Any = intrinsic


def _generate_pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


@_intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """An address (int64) as a pointer to float32, for ``numba.carray``."""
    return types.CPointer(types.float32)(types.int64), _generate_pointer


@_intrinsic
def integers(typing_context: Any, address: Any) -> Any:
    """An address (int64) as a pointer to int64, for ``numba.carray``."""
    return types.CPointer(types.int64)(types.int64), _generate_pointer


@_intrinsic
def call_int(typing_context: Any, address: Any) -> Any:
    """Call the C function ``int f(void)`` at an address (int64)."""
    signature = types.int32(types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])

    return signature, generate


@_intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index] (1-d) to be brought into the second cache."""
    signature = types.void(array, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        values = context.make_array(kind)(context, builder, arguments[0])
        place = cgutils.get_item_pointer(context, builder, kind, values, [arguments[1]])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, number, number, number]),
            "llvm.prefetch.p0i8",
        )
        read, second_cache, data = number(0), number(2), number(1)
        builder.call(function, [builder.bitcast(place, byte), read, second_cache, data])
        return context.get_dummy_value()

    return signature, generate


def _first_element(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kind = signature.args[0]
    array = context.make_array(kind)(context, builder, arguments[0])
    zero = context.get_constant(types.intp, 0)
    return cgutils.get_item_pointer(context, builder, kind, array, [zero])


@_intrinsic
def _arrive(typing_context: Any, counter: Any) -> Any:
    """Add 1 to counter[0] (int64) and return what it was, in one step for all threads."""
    signature = types.int64(counter)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _first_element(context, builder, signature, arguments)
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", place, one, "acq_rel")

    return signature, generate


@_intrinsic
def _arrived(typing_context: Any, counter: Any) -> Any:
    """counter[0], seeing all that other threads wrote before they added to it."""
    signature = types.int64(counter)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _first_element(context, builder, signature, arguments)
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
    target = (_arrive(counter) // threads + 1) * threads
    looks = 0
    while _arrived(counter) < target:
        looks += 1
        if looks > _SPINS:
            _yield()
            if counter[1] != 0:
                return
