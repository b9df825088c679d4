"""Linear attention whose causal mask is a Toeplitz matrix: one filter over time a head."""

from ssmlab.ops.toeplitz_attention.api import toeplitz_attention
from ssmlab.ops.toeplitz_attention.reference import toeplitz_attention_reference

__all__ = ["toeplitz_attention", "toeplitz_attention_reference"]
