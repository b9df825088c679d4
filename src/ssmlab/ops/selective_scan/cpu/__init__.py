"""The cpu backend: Numba kernels behind the operator's forward and backward.

Shapes: B batch, L length, D channels, N state, G groups, S sequences.
"""

from ssmlab.ops.selective_scan.cpu.launch import backward, forward

__all__ = ["backward", "forward"]
