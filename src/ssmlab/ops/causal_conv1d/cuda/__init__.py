"""The causal convolution on NVIDIA GPUs: kernels compiled at run time."""

from ssmlab.ops.causal_conv1d.cuda.launch import backward, forward, update

__all__ = ["backward", "forward", "update"]
