"""The residual addition and norm on NVIDIA GPUs: kernels compiled at run time."""

from ssmlab.ops.add_rms_norm.cuda.launch import backward, forward, works

__all__ = ["backward", "forward", "works"]
