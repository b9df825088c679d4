"""The selective scan under the name and in the layout that published models call it by.

Shapes: B batch, D channels, L length, N state, G groups of channels.
"""

import torch
from torch import Tensor

from ssmlab.ops._checks import check_dims, check_tensor, shape_text
from ssmlab.ops.selective_scan.api import selective_scan

_NAME = "selective_scan_fn"


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Drop-in for the function of this name in the field: channels before length.

    Args:
        u, delta, z: (B, D, L).
        A: (D, N), real or complex.
        B, C: (D, N) constant, (B, N, L) or (B, G, N, L) per step. With complex A, those per step
            are (B, N, 2L) or (B, G, N, 2L) reals, real and imaginary parts interleaved along L;
            complex tensors with L are taken too.
        D, delta_bias: (D,).
        delta_softplus: apply softplus to delta (after its bias).
        return_last_state: return the state after the last step too.

    Returns:
        y (B, D, L) in u's dtype; with ``return_last_state`` also the state (B, D, N).

    Raises:
        ValueError: shapes, dtypes or devices do not fit.

    Source: Mamba, section 3.3 and the code released with it.
    """
    for name, value in (("u", u), ("delta", delta), ("A", A), ("B", B), ("C", C)):
        check_tensor(_NAME, name, value)
    for name, value in (("u", u), ("delta", delta), ("z", z)):
        if value is not None:
            check_dims(_NAME, name, value, (3,), "(B, D, L)")
    length = u.shape[2]
    out = selective_scan(
        u.transpose(1, 2),
        delta.transpose(1, 2),
        A,
        _to_main_layout("B", B, A.is_complex(), length),
        _to_main_layout("C", C, A.is_complex(), length),
        D,
        None if z is None else z.transpose(1, 2),
        delta_bias,
        delta_softplus,
        return_last_state=return_last_state,
    )
    if isinstance(out, tuple):
        return out[0].transpose(1, 2), out[1]
    return out.transpose(1, 2)


def _to_main_layout(name: str, X: Tensor, is_complex: bool, length: int) -> Tensor:
    """(B, [G,] N, L) or its interleaved complex form -> (B, L, [G,] N); (D, N) as it is."""
    check_dims(_NAME, name, X, (2, 3, 4), "(D, N), (B, N, L) or (B, G, N, L)")
    if X.dim() == 2:
        return X
    expected = length
    if is_complex and not X.is_complex():
        expected = 2 * length
    if X.shape[-1] != expected:
        interleaved = " (2L interleaved reals, A being complex)" if expected != length else ""
        raise ValueError(
            f"{_NAME}: {name} has shape {shape_text(X.shape)}, expected {expected} in its last "
            f"dimension{interleaved}; u has length {length}"
        )
    if expected != length:
        pairs = X.float() if X.dtype in (torch.bfloat16, torch.float16) else X
        X = torch.view_as_complex(pairs.unflatten(-1, (length, 2)).contiguous())
    return X.movedim(-1, 1)
