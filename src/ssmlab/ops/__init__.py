"""Operators: pure functions on tensors, each with a plain reference and faster backends."""

from ssmlab.ops.add_rms_norm import add_rms_norm
from ssmlab.ops.causal_conv1d import causal_conv1d, causal_conv1d_fn, causal_conv1d_update
from ssmlab.ops.fft_conv import fft_conv
from ssmlab.ops.linear_cross_entropy import linear_cross_entropy
from ssmlab.ops.mamba_inner import mamba_inner
from ssmlab.ops.selective_scan import (
    available_backends,
    selective_scan,
    selective_scan_fn,
    selective_scan_update,
    selective_state_update,
)
from ssmlab.ops.ssd import ssd, ssd_update
from ssmlab.ops.toeplitz_attention import toeplitz_attention

__all__ = [
    "add_rms_norm",
    "available_backends",
    "causal_conv1d",
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "fft_conv",
    "linear_cross_entropy",
    "mamba_inner",
    "selective_scan",
    "selective_scan_fn",
    "selective_scan_update",
    "selective_state_update",
    "ssd",
    "ssd_update",
    "toeplitz_attention",
]
