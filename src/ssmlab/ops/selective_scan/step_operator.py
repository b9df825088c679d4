"""One step of the scan on a GPU as torch custom operators: a new state, or the state in place.

Shapes: B batch, D channels, N state, G groups, P slots of a pool of states.
"""

import torch
from torch import Tensor

from ssmlab.ops._cuda import unavailable_reason, warn_once


def works(operator: str, state: Tensor, u: Tensor, A: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernel computes this step; a GPU without working kernels gets one warning."""
    if u.device.type != "cuda":
        return False
    reason = unavailable_reason(u.device.index)
    if reason is not None:
        warn_once(operator, reason)
        return False
    from ssmlab.ops.selective_scan.cuda.step import supports

    return supports(state, u, A, *others)


@torch.library.custom_op("ssmlab::selective_scan_update", mutates_args=())
def update_op(
    state: Tensor,
    slots: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """y (B, D) and the new states (B, D, N); B and C are (B, G, N), or constant (1, D, N)."""
    from ssmlab.ops.selective_scan.cuda.step import step

    target = state.new_empty((u.shape[0], *state.shape[1:]))
    y = step(state, target, slots, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return y, target


@update_op.register_fake
def _(state, slots, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    return u.new_empty(u.shape), state.new_empty((u.shape[0], *state.shape[1:]))


@torch.library.custom_op("ssmlab::selective_scan_update_", mutates_args=("state",))
def update_op_(
    state: Tensor,
    slots: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """As ``update_op``, the states moved on in place."""
    from ssmlab.ops.selective_scan.cuda.step import step

    return step(state, state, slots, u, delta, A, B, C, D, z, delta_bias, delta_softplus)


@update_op_.register_fake
def _(state, slots, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    return u.new_empty(u.shape)
