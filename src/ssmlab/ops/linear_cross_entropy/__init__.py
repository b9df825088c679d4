"""The language model's loss out of hidden states, without the whole matrix of logits."""

from ssmlab.ops.linear_cross_entropy.api import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
