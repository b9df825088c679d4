"""One step of the scan under the name and with the arguments that published models call it by.

Shapes: B batch, D channels, N state, G groups of channels, P slots of a pool of states.
"""

from torch import Tensor

from ssmlab.ops.selective_scan.update import selective_scan_update


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """Drop-in for the function of this name in the field: ``state`` moves on in place.

    :func:`selective_scan_update` is the same with a new state, differentiable.

    Args:
        state: (B, D, N), float32, or of x's dtype; with ``state_batch_indices`` a pool (P, D, N).
        x, dt, z: (B, D).
        A: (D, N).
        B, C: (B, N), or (B, G, N) for G groups of channels.
        D, dt_bias: (D,).
        dt_softplus: apply softplus to dt (after its bias).
        state_batch_indices: (B,) int32 or int64, the slot of each row's state; negative for a row
            that is padding. They must differ. On a GPU neither that nor their range is checked.

    Returns:
        y (B, D) in x's dtype; zero for padding.

    Raises:
        ValueError: shapes, dtypes, devices or indices do not fit, or gradients are recorded.

    Source: Mamba, equation (2a), one step.
    """
    return selective_scan_update(
        *(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus),
        constant_B=False,
        constant_C=False,
        in_place=True,
        state_indices=state_batch_indices,
    )[0]
