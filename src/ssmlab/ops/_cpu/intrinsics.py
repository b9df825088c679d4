"""What compiled code lacks: prefetching, and counters that several threads add to."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 16  # elements of a cache line, if they are float32

# The decorator's result is called without the typing context, which type checkers cannot know.
untyped_intrinsic: Any = intrinsic


def element_pointer(context: Any, builder: Any, signature: Any, arguments: Any, index: Any) -> Any:
    """Where element ``index`` of the first argument, an array (1-d), lies."""
    kind = signature.args[0]
    array = context.make_array(kind)(context, builder, arguments[0])
    return cgutils.get_item_pointer(context, builder, kind, array, [index])


def first_element(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Where element 0 of the first argument lies."""
    zero = context.get_constant(types.intp, 0)
    return element_pointer(context, builder, signature, arguments, zero)


def _make_prefetch(to_write: int) -> Any:
    @untyped_intrinsic
    def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
        """Ask for the cache line of array[index] (1-d) to be brought into the second cache.

        An index outside of the array does no harm.
        """
        signature = types.void(array, types.intp)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = element_pointer(context, builder, signature, arguments, arguments[1])
            byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.VoidType(), [byte, number, number, number]),
                "llvm.prefetch.p0i8",
            )
            second_cache, data = number(2), number(1)
            builder.call(
                function, [builder.bitcast(place, byte), number(to_write), second_cache, data]
            )
            return context.get_dummy_value()

        return signature, generate

    return prefetch


prefetch, prefetch_to_write = _make_prefetch(0), _make_prefetch(1)


def _make_count(order: str) -> Any:
    @untyped_intrinsic
    def count(typing_context: Any, counter: Any) -> Any:
        """Add 1 to counter[0] (int64) and return what it was, in one step for all threads."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = first_element(context, builder, signature, arguments)
            return builder.atomic_rmw("add", place, ir.IntType(64)(1), order)

        return types.int64(counter), generate

    return count


take = _make_count("monotonic")  # for numbers that are to be given out once
arrive = _make_count("acq_rel")  # who sees the count also sees what was written before it
