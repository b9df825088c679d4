"""Argument checks of the causal convolution beyond those that all operators share.

Shape letters: B batch, L length, D channels, W width (taps), S packed sequences.
"""

from torch import Tensor

from ssmlab.ops._checks import (
    REAL_DTYPES,
    check_device,
    check_dims,
    check_dtype,
    check_shape,
    check_tensor,
    shape_text,
)


def check_activation(operator: str, activation: str | None) -> bool:
    """True for SiLU, False for none."""
    if activation not in (None, "silu", "swish"):
        raise ValueError(
            f"{operator}: activation is {activation!r}, expected None, 'silu' or 'swish'; "
            f"apply any other function to the result of activation=None"
        )
    return activation is not None


def check_filter(
    operator: str, x: Tensor, channels: int, weight: Tensor, bias: Tensor | None
) -> int:
    """W, of a floating-point x, weight (D, W) and bias (D,) on one device, D being ``channels``."""
    check_dtype(operator, "x", x, REAL_DTYPES)
    check_tensor(operator, "weight", weight)
    if weight.dim() == 3 and weight.shape[1] == 1:
        raise ValueError(
            f"{operator}: weight has shape {shape_text(weight.shape)}, expected (D, W); for the "
            f"weight of a depthwise nn.Conv1d pass weight.squeeze(1)"
        )
    check_dims(operator, "weight", weight, (2,), "(D, W)")
    width = weight.shape[1]
    check_shape(operator, "weight", weight, (channels, max(width, 1)), "(D, W), D from x, W >= 1")
    check_dtype(operator, "weight", weight, REAL_DTYPES)
    if bias is not None:
        check_tensor(operator, "bias", bias)
        check_shape(operator, "bias", bias, (channels,), "(D,), D from x")
        check_dtype(operator, "bias", bias, REAL_DTYPES)
    check_device(operator, x.device, weight=weight, bias=bias)
    return width


def check_state(
    operator: str, name: str, x: Tensor, state: Tensor, shape: tuple[int, ...], why: str
) -> None:
    """A floating-point state of ``shape`` on x's device."""
    check_tensor(operator, name, state)
    check_shape(operator, name, state, shape, why)
    check_dtype(operator, name, state, REAL_DTYPES)
    check_device(operator, x.device, **{name: state})
