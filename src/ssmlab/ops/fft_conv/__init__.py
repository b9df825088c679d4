"""Causal convolution with a filter as long as the sequence: by the FFT or products of matrices."""

from ssmlab.ops.fft_conv.api import fft_conv
from ssmlab.ops.fft_conv.reference import fft_conv_reference

__all__ = ["fft_conv", "fft_conv_reference"]
