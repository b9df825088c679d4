"""Numba kernels of the causal convolution, forward and backward.

The work is cut into tasks: blocks of ROWS rows by COLS channels. In a block, time is the outer loop
and channels the inner one, which LLVM turns into vector instructions. Taps are taken GROUP at a time,
and taps before the first (or before the start of a sequence) read a row of zeros, so that one loop
body serves all.

The backward pass computes the pre-activation again rather than store it. It keeps the gradients of
the last W pre-activations of its block in a ring; a row of dx is ready once W of them are there.

A block's scratch memory has rows of COLS numbers: 0 zeros, 1 bias, 2 and 3 partial sums, 4... the
taps, oldest first, with zeros before the first up to a multiple of GROUP. The backward pass
adds the ring, the sums of the weight's gradient and that of the bias's.

Shape letters: B batch, L length, D channels, W width (taps).
"""

import numpy as np

from ssmlab.ops._cpu.compiling import inline, inline_wide, kernel
from ssmlab.ops.causal_conv1d import elements
from ssmlab.ops.causal_conv1d.elements import at, load, sigmoid, store

ROWS = 128
COLS = 512
GROUP = 4


@inline_wide
def _sum(d, base, rows, w, like, one):
    """base + the sum of w[k] * rows[k] over a group of rows, at channel ``d``."""
    r0, r1, r2, r3 = rows
    s = load(base, d, one) + load(w, d, one) * load(r0, d, like)
    s += load(w, d + COLS, one) * load(r1, d, like)
    s += load(w, d + 2 * COLS, one) * load(r2, d, like)
    return s + load(w, d + 3 * COLS, one) * load(r3, d, like)


@inline_wide
def _combine(out, base, rows, w, n, like, out_like, one):
    """out = base + the sum over a group."""
    for d in range(n):
        store(out, d, _sum(d, base, rows, w, like, one), out_like)


@inline_wide
def _combine_silu(out, base, rows, w, n, like, one):
    """out = silu(s), s being what ``_combine`` gives."""
    for d in range(n):
        s = _sum(d, base, rows, w, like, one)
        store(out, d, s * sigmoid(s), like)


@inline
def _combine_slope(out, base, rows, w, n, dy, like, one):
    """out = dy * silu'(s), s being what ``_combine`` gives."""
    for d in range(n):
        s = _sum(d, base, rows, w, like, one)
        gate = sigmoid(s)
        store(out, d, load(dy, d, like) * gate * (one + s * (one - gate)), one)


@inline
def _accumulate(out, ds, rows, n, like, one):
    """out[k] += ds * rows[k] over a group of rows."""
    r0, r1, r2, r3 = rows
    for d in range(n):
        g = load(ds, d, one)
        store(out, d, load(out, d, one) + g * load(r0, d, like), one)
        store(out, d + COLS, load(out, d + COLS, one) + g * load(r1, d, like), one)
        store(out, d + 2 * COLS, load(out, d + 2 * COLS, one) + g * load(r2, d, like), one)
        store(out, d + 3 * COLS, load(out, d + 3 * COLS, one) + g * load(r3, d, like), one)


@inline
def _add(out, row, n, one):
    for d in range(n):
        store(out, d, load(out, d, one) + load(row, d, one), one)


@inline
def _copy(out, row, n, like, out_like):
    for d in range(n):
        store(out, d, load(row, d, like), out_like)


@inline
def _segment_at(bounds, row):
    """The segment that holds ``row``: the last one that begins at or before it."""
    low, high = 0, bounds.shape[0] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if bounds[middle] <= row:
            low = middle
        else:
            high = middle
    return low


@inline
def _block(task, rows, channels):
    """First row, end of rows, first channel and number of channels of a task."""
    column_blocks = (channels + COLS - 1) // COLS
    row0, col0 = task // column_blocks * ROWS, task % column_blocks * COLS
    return row0, min(row0 + ROWS, rows), col0, min(COLS, channels - col0)


@inline
def _fill_constants(scratch, width, padded, channels, col0, n, taps, bias, one):
    """Write bias and taps to the scratch memory, which is zero."""
    if bias != 0:
        _copy(at(scratch, COLS, one), at(bias, col0, one), n, one, one)
    for k in range(width):
        target = at(scratch, (4 + padded - width + k) * COLS, one)
        _copy(target, at(taps, k * channels + col0, one), n, one, one)


@inline
def _input_row(t, lag, segment, like):
    """Address of the input ``lag`` steps before row ``t`` of a segment: x, its state or zeros."""
    here, row_stride, state, channels, width, zeros = segment
    past = t - lag
    if lag >= width or (past < 0 and state == 0):
        return zeros
    if past < 0:
        return at(state, (past + width - 1) * channels, like)
    return at(here, past * row_stride, like)


@inline
def _input_rows(t, lag, segment, like):
    """Addresses of a group of inputs, the oldest ``lag`` steps before row ``t``."""
    return (
        _input_row(t, lag, segment, like),
        _input_row(t, lag - 1, segment, like),
        _input_row(t, lag - 2, segment, like),
        _input_row(t, lag - 3, segment, like),
    )


@inline
def _sum_older_groups(t, padded, segment, scratch, n, like, one):
    """Address of bias plus all taps but those of the last group, for row ``t``."""
    base = at(scratch, COLS, one)
    for k in range(0, padded - GROUP, GROUP):
        partial = at(scratch, (2 + k // GROUP % 2) * COLS, one)
        w = at(scratch, (4 + k) * COLS, one)
        _combine(partial, base, _input_rows(t, padded - 1 - k, segment, like), w, n, like, one, one)
        base = partial
    return base


@inline
def forward_block(task, shape, bounds, skip, source, addresses, like, one):
    """Of one task, what ``forward`` does."""
    rows, length, channels, width, silu = shape
    taps, bias, state, y = addresses
    row0, row1, col0, n = _block(task, rows, channels)
    padded = (width + GROUP - 1) // GROUP * GROUP
    memory = np.zeros((4 + padded) * COLS)
    scratch = np.int64(memory.ctypes.data)
    last_taps = at(scratch, padded * COLS, one)
    _fill_constants(scratch, width, padded, channels, col0, n, taps, bias, one)
    s = _segment_at(bounds, row0)
    while s < bounds.shape[0] - 1 and bounds[s] < row1:
        start = bounds[s]
        here = at(source[0], start // length * source[1] + start % length * source[2] + col0, like)
        before = at(state, s * (width - 1) * channels + col0, like) if state != 0 else 0
        segment = (here, source[2], before, channels, width, scratch)
        for t in range(max(row0 - start, 0), min(row1, bounds[s + 1]) - start):
            out = at(y, (start + t) * channels + col0, like)
            if skip[s]:
                _copy(out, scratch, n, one, like)
                continue
            base = _sum_older_groups(t, padded, segment, scratch, n, like, one)
            inputs = _input_rows(t, GROUP - 1, segment, like)
            if silu != 0:
                _combine_silu(out, base, inputs, last_taps, n, like, one)
            else:
                _combine(out, base, inputs, last_taps, n, like, like, one)
        s += 1
    memory[0] = 0  # keeps the scratch memory alive until here


@inline
def _ring_row(p, lag, last, ring, zeros, width, one):
    """Address of the gradient of pre-activation ``p + lag``; zeros where nothing is sent to p."""
    q = p + lag
    if lag >= width or q < 0 or q > last:
        return zeros
    return at(ring, q % width * COLS, one)


@inline
def _emit(p, target, last, ring, scratch, padded, width, n, like, one):
    """Write the input gradient of row ``p``: what the outputs p, ..., p+W-1 (up to ``last``) send."""
    base = scratch
    for k in range(0, padded, GROUP):
        sent = (
            _ring_row(p, padded - 1 - k, last, ring, scratch, width, one),
            _ring_row(p, padded - 2 - k, last, ring, scratch, width, one),
            _ring_row(p, padded - 3 - k, last, ring, scratch, width, one),
            _ring_row(p, padded - 4 - k, last, ring, scratch, width, one),
        )
        w = at(scratch, (4 + k) * COLS, one)
        if k == padded - GROUP:
            _combine(target, base, sent, w, n, one, like, one)
        else:
            partial = at(scratch, (2 + k // GROUP % 2) * COLS, one)
            _combine(partial, base, sent, w, n, one, one, one)
            base = partial


@inline
def _backward_block(task, shape, bounds, skip, source, addresses, like, one):
    rows, length, channels, width, silu = shape
    taps, bias, state, dy, dy_batch, dy_row, dx, dstate, sums = addresses
    row0, row1, col0, n = _block(task, rows, channels)
    padded = (width + GROUP - 1) // GROUP * GROUP
    memory = np.zeros((4 + padded + width + padded + 1) * COLS)
    scratch = np.int64(memory.ctypes.data)
    ring = at(scratch, (4 + padded) * COLS, one)
    dw = at(ring, width * COLS, one)
    db = at(dw, padded * COLS, one)
    last_taps = at(scratch, padded * COLS, one)
    _fill_constants(scratch, width, padded, channels, col0, n, taps, bias, one)
    s = _segment_at(bounds, row0)
    while s < bounds.shape[0] - 1 and bounds[s] < row1:
        start, stop = bounds[s], bounds[s + 1]
        batch, local = start // length, start % length
        here = at(source[0], batch * source[1] + local * source[2] + col0, like)
        dy_here = at(dy, batch * dy_batch + local * dy_row + col0, like)
        dx_here = at(dx, start * channels + col0, like)
        before = at(state, s * (width - 1) * channels + col0, like) if state != 0 else 0
        segment = (here, source[2], before, channels, width, scratch)
        first, end = max(row0 - start, 0), min(row1, stop) - start
        if skip[s]:
            for t in range(first, end):
                _copy(at(dx_here, t * channels, like), scratch, n, one, like)
            s += 1
            continue
        state_end = at(dstate, (s + 1) * (width - 1) * channels + col0, like)
        emitted = first if first > 0 or state == 0 else 1 - width
        # Outputs after the block's rows still send gradients to its inputs.
        last = min(end + width - 1, stop - start) - 1
        for t in range(first, last + 1):
            slot = at(ring, t % width * COLS, one)
            dy_t = at(dy_here, t * dy_row, like)
            if silu != 0:
                base = _sum_older_groups(t, padded, segment, scratch, n, like, one)
                inputs = _input_rows(t, GROUP - 1, segment, like)
                _combine_slope(slot, base, inputs, last_taps, n, dy_t, like, one)
            else:
                _copy(slot, dy_t, n, like, one)
            if t < end:
                for k in range(0, padded, GROUP):
                    inputs = _input_rows(t, padded - 1 - k, segment, like)
                    _accumulate(at(dw, k * COLS, one), slot, inputs, n, like, one)
                _add(db, slot, n, one)
            # The last row also completes those after it that later outputs would have reached.
            ready = end - 1 if t == last else t - width + 1
            while emitted <= ready:
                target = at(dx_here if emitted >= 0 else state_end, emitted * channels, like)
                _emit(emitted, target, t, ring, scratch, padded, width, n, like, one)
                emitted += 1
        s += 1
    for k in range(width + 1):
        target = at(
            sums, (task // ((channels + COLS - 1) // COLS) * (width + 1) + k) * channels, one
        )
        source_row = db if k == width else at(dw, (padded - width + k) * COLS, one)
        _copy(at(target, col0, one), source_row, n, one, one)
    memory[0] = 0  # keeps the scratch memory alive until here


def tasks(rows: int, channels: int) -> int:
    """Number of blocks that ``rows`` by ``channels`` are cut into."""
    return -(-rows // ROWS) * -(-channels // COLS)


_kernel = kernel(__file__, str(elements.__file__))


@_kernel
def forward(first, end, shape, bounds, skip, source, addresses, like, one):
    """Run the tasks first, ..., end - 1."""
    for task in range(first, end):
        forward_block(task, shape, bounds, skip, source, addresses, like, one)


@_kernel
def backward(first, end, shape, bounds, skip, source, addresses, like, one):
    """Run the tasks first, ..., end - 1."""
    for task in range(first, end):
        _backward_block(task, shape, bounds, skip, source, addresses, like, one)
