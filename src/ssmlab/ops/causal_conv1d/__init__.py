"""Causal depthwise convolution over time, with SiLU, states and packing."""

from ssmlab.ops.causal_conv1d.api import causal_conv1d
from ssmlab.ops.causal_conv1d.field import causal_conv1d_fn
from ssmlab.ops.causal_conv1d.update import causal_conv1d_update

__all__ = ["causal_conv1d", "causal_conv1d_fn", "causal_conv1d_update"]
