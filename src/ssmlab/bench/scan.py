"""``ssmlab bench scan``: time, memory and error of the selective scan's backends beside loops.

Shapes: B batch, L length, D channels, N state.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ssmlab.bench import peak, timing
from ssmlab.bench.peak import Peak, available_memory, measure_peak
from ssmlab.bench.scan_cases import (
    BOTH,
    DTYPES,
    FORWARD,
    LOOPS,
    PASSES,
    PUBLISHED_LOOP,
    ScanInputs,
    Shape,
    make_call,
    make_inputs,
)
from ssmlab.bench.timing import Timing, time_in_turn
from ssmlab.core.errors import ConfigError
from ssmlab.ops import available_backends

BACKENDS = {"cpu": ("reference", "cpu")}
"""The backends that are compared on each device."""

# A loop keeps two states a step for its backward pass and makes some more on the way.
_LOOP_STATES_KEPT = 4
_KEEPS_ALL_STATES = (*LOOPS, "reference")
_SHARE_OF_MEMORY = 0.8
_ERROR_ELEMENTS = 1 << 23  # B L D N up to which the error is taken at full length

METHODS = {
    "passes": "Forward without gradients; forward that keeps what the backward pass needs; forward "
    "and backward, to the gradients of all eight inputs. Softplus, skip and gate are part of each.",
    "time": timing.METHOD,
    "times_loop": "How many times faster than a loop of torch operations that makes each step's "
    "decays when they are needed: the ratio of medians.",
    "times_published": "The same against the form in which Mamba's reference code is published: "
    "decays and inputs of all steps first, (B, D, L, N) each, then the loop.",
    "memory": peak.METHOD,
    "memory_ratio": "Peak memory above the inputs, the output included, over inputs plus output.",
    "error": "Norm of the difference from the reference in float64 on the same inputs, over its "
    "norm: of y, or of the gradient where that is largest; at error_length steps.",
}


@dataclass(frozen=True)
class Row:
    """One pass of one backend at one shape and dtype; None where a figure was left out.

    Attributes:
        median_ms, low_ms, high_ms, runs: the median, the quartiles and the number of timed calls.
        times_loop, times_published: the median of each of the two loops over this one.
        extra_bytes, memory_ratio: see ``METHODS``; inputs_bytes and output_bytes beside them.
        error, error_of, error_length: the relative error, of which tensor, over how many steps.
        left_out: what was not measured, and why.
    """

    batch: int
    length: int
    channels: int
    states: int
    dtype: str
    backend: str
    run: str
    inputs_bytes: int
    output_bytes: int
    median_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    runs: int = 0
    times_loop: float | None = None
    times_published: float | None = None
    extra_bytes: int | None = None
    memory_ratio: float | None = None
    error: float | None = None
    error_of: str | None = None
    error_length: int | None = None
    left_out: tuple[str, ...] = ()


def run(
    *,
    device: str = "cpu",
    shapes: Sequence[tuple[int, int, int, int]] = ((4, 1024, 512, 16),),
    dtypes: Sequence[str] = ("fp32",),
    repeats: int = 5,
    threads: int | None = None,
    measure_memory: bool = True,
    on_progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure every backend that works on ``device``, and two loops, at each shape and dtype.

    Args:
        device: "cpu".
        shapes: each (B, L, D, N).
        dtypes: of u, delta, z, B and C: "fp32", "bf16", "fp16" or "fp64".
        repeats: rounds of timed calls.
        threads: torch's threads; None leaves them as they are.
        measure_memory: also start the processes that measure memory, some seconds each.
        on_progress: told what is being done.

    Returns:
        Plain data: where it ran, how each figure was taken (``methods``), and ``rows``.

    Raises:
        ConfigError: an unknown device or dtype, a wrong number, or a shape that does not fit memory.
    """
    check_request(device, shapes, dtypes, repeats, threads)
    backends, missing = [], {}
    working = available_backends()
    for name in BACKENDS[device]:
        why = working.get(name, "it is not part of this version")
        if why is None:
            backends.append(name)
        else:
            missing[name] = why
    before, load = torch.get_num_threads(), _load_average()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        rows: list[Row] = []
        for sizes, dtype in product(shapes, dtypes):
            rows += _measure(Shape(*sizes), dtype, backends, repeats, measure_memory, on_progress)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    return {
        "benchmark": "scan",
        "device": device,
        "threads": used,
        "load_average_before": load,
        "environment": _environment(),
        "methods": METHODS,
        "backends_left_out": missing,
        "rows": [asdict(row) for row in rows],
    }


def check_request(
    device: str,
    shapes: Sequence[tuple[int, int, int, int]],
    dtypes: Sequence[str],
    repeats: int,
    threads: int | None,
) -> None:
    """Raise the ConfigError that :func:`run` would raise for these arguments."""
    if device not in BACKENDS:
        raise ConfigError(
            f"cannot benchmark the scan on device '{device}'; expected {', '.join(BACKENDS)}"
        )
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ConfigError(f"unknown dtype '{dtype}'; expected one of {', '.join(DTYPES)}")
    for name, number in (("repeats", repeats), ("threads", threads)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}; expected a whole number from 1 up")
    available = available_memory()
    size = max(torch.promote_types(DTYPES[dtype], torch.float32).itemsize for dtype in dtypes)
    for sizes in shapes:
        if min(sizes) < 1:
            raise ConfigError(f"the shape {sizes} has a size below 1; expected B,L,D,N from 1 up")
        shape = Shape(*sizes)
        # The inputs, their gradients, the output and the arrays that these are computed in.
        steps = shape.batch * shape.length
        needed = size * steps * (10 * shape.channels + 8 * shape.states)
        if available is not None and needed > available:
            raise ConfigError(
                f"the shape {','.join(map(str, sizes))} needs some {needed / 1e9:.1f} GB of memory, "
                f"and {available / 1e9:.1f} GB are free; choose a smaller one"
            )


def _measure(
    shape: Shape,
    dtype: str,
    backends: Sequence[str],
    repeats: int,
    measure_memory: bool,
    on_progress: Callable[[str], None],
) -> list[Row]:
    title = f"B={shape.batch} L={shape.length} D={shape.channels} N={shape.states} {dtype}"
    inputs = make_inputs(shape, DTYPES[dtype])
    grad_y = torch.ones_like(inputs.u)
    cases = list(product((*LOOPS, *backends), PASSES))
    too_large = {case: why for case in cases if (why := _too_large(shape, dtype, *case))}

    on_progress(f"{title}: errors against float64")
    errors = _errors(shape, dtype, backends)
    on_progress(f"{title}: times, first calls")
    times = time_in_turn(
        {case: make_call(*case, inputs, grad_y) for case in cases if case not in too_large},
        repeats=repeats,
        on_round=lambda done: on_progress(f"{title}: times, round {done} of {repeats} done"),
    )
    rows = []
    for case in cases:
        backend, pass_ = case
        why = too_large.get(case)
        row = Row(
            *(shape.batch, shape.length, shape.channels, shape.states),
            dtype,
            backend,
            pass_,
            inputs_bytes=inputs.bytes(),
            output_bytes=grad_y.nbytes,
            left_out=() if why is None else (f"time and memory: {why}",),
        )
        if why is None:
            row = _with_time(row, times[case], *(times.get((loop, pass_)) for loop in LOOPS))
            if measure_memory:
                on_progress(f"{title}: memory of {backend}, {pass_}")
                row = _with_memory(row, _peak(shape, dtype, backend, pass_))
        if case in errors:
            error, of, length = errors[case]
            row = replace(row, error=error, error_of=of, error_length=length)
        rows.append(row)
    return rows


def _with_time(row: Row, own: Timing, loop: Timing | None, published: Timing | None) -> Row:
    ratios = (None if t is None else t.median_ms / own.median_ms for t in (loop, published))
    return replace(
        row, **asdict(own), **dict(zip(("times_loop", "times_published"), ratios, strict=True))
    )


def _with_memory(row: Row, peak: Peak) -> Row:
    if peak.extra_bytes is None:
        return replace(row, left_out=(*row.left_out, f"memory: {peak.why_not}"))
    ratio = peak.extra_bytes / (row.inputs_bytes + row.output_bytes)
    return replace(row, extra_bytes=peak.extra_bytes, memory_ratio=ratio)


def _peak(shape: Shape, dtype: str, backend: str, pass_: str) -> Peak:
    arguments = {"shape": asdict(shape), "dtype": dtype, "backend": backend, "pass_": pass_}
    return measure_peak(
        "ssmlab.bench.scan_cases:prepare", arguments, threads=torch.get_num_threads()
    )


def _too_large(shape: Shape, dtype: str, backend: str, pass_: str) -> str | None:
    """Why what holds all states, for the backward pass or from the start, does not fit, or None."""
    available = available_memory()
    holds_all = backend == PUBLISHED_LOOP or (pass_ != FORWARD and backend in _KEEPS_ALL_STATES)
    if available is None or not holds_all:
        return None
    size = torch.promote_types(DTYPES[dtype], torch.float32).itemsize
    needed = _LOOP_STATES_KEPT * size * shape.elements
    if needed <= _SHARE_OF_MEMORY * available:
        return None
    return (
        f"it keeps all states at once, some {needed / 1e9:.1f} GB, "
        f"and {available / 1e9:.1f} GB are free"
    )


def _errors(
    shape: Shape, dtype: str, backends: Sequence[str]
) -> dict[tuple[str, str], tuple[float, str, int]]:
    """Relative error, the tensor that has it, and the length: by backend and pass."""
    per_step = shape.elements // shape.length
    length = max(1, min(shape.length, _ERROR_ELEMENTS // per_step))
    inputs = make_inputs(replace(shape, length=length), DTYPES[dtype])
    generator = torch.Generator().manual_seed(1)
    grad_y = torch.randn(inputs.u.shape, generator=generator).to(inputs.u.dtype)
    exact_y, exact_grads = _results("reference", inputs.map(Tensor.double), grad_y.double())
    found = {}
    for backend in (*LOOPS, *backends):
        y, grads = _results(backend, inputs, grad_y)
        found[backend, FORWARD] = (_error(y, exact_y), "y", length)
        of_grads = map(_error, grads, exact_grads)
        worst, name = max(zip(of_grads, ScanInputs._fields, strict=True))
        found[backend, BOTH] = (worst, f"gradient of {name}", length)
    return found


def _results(backend: str, inputs: ScanInputs, grad_y: Tensor) -> tuple[Tensor, list[Tensor]]:
    y = make_call(backend, FORWARD, inputs, grad_y)()
    grads = make_call(backend, BOTH, inputs, grad_y)()
    assert isinstance(y, Tensor)
    return y, list(grads)


def _error(actual: Tensor, exact: Tensor) -> float:
    difference = torch.linalg.vector_norm(actual.double() - exact)
    return (difference / torch.linalg.vector_norm(exact).clamp(min=1e-300)).item()


def _load_average() -> float | None:
    """Processes that ran or waited to, over the last minute, before the benchmark began."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _environment() -> dict[str, Any]:
    from ssmlab.training.environment import describe_environment

    found = describe_environment()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kept = ("ssmlab", "git_revision", "python", "torch", "platform", "cpu")
    return {
        **{key: found[key] for key in kept},
        "numba": found["packages"]["numba"],
        "cores": cores,
    }
