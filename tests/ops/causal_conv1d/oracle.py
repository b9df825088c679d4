"""The causal convolution one output at a time in float64, written from its definition.

Shape letters: B batch, L length, D channels, W width (taps), S packed sequences.
"""

import torch
from torch import Tensor


def oracle(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    silu: bool = False,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y and the final state of x (B, L, D), in float64; differentiable."""
    x, weight = x.double(), weight.double()
    width = weight.shape[1]
    past = x.new_zeros(x.shape[0], width - 1, x.shape[2])
    if initial_state is not None:
        past = initial_state.double()
    history = [*past.unbind(1), *x.unbind(1)]
    rows = []
    for t in range(x.shape[1]):
        row = torch.stack([weight[:, k] * history[t + k] for k in range(width)]).sum(0)
        row = row if bias is None else row + bias.double()
        rows.append(row / (1 + torch.exp(-row)) if silu else row)
    kept = history[len(history) - (width - 1) :]
    return torch.stack(rows, 1), torch.stack(kept, 1) if kept else x[:, :0]


def packed_oracle(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    offsets: list[int],
) -> tuple[Tensor, Tensor]:
    """As ``oracle`` for sequences packed along L: each is run alone."""
    ys, states = [], []
    for s in range(len(offsets) - 1):
        piece = x[:, offsets[s] : offsets[s + 1]]
        state = None if initial_state is None else initial_state[s : s + 1]
        if piece.shape[1] == 0:
            none = 0 * x.double().sum() + x.new_zeros(1, weight.shape[1] - 1, x.shape[2])
            states.append(none if state is None else state.double())
            continue
        y, last = oracle(piece, weight, bias, silu, state)
        ys.append(y)
        states.append(last)
    return torch.cat(ys, 1), torch.cat(states)
