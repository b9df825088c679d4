"""The inside of a Mamba block as one operator that keeps little for the backward pass."""

from ssmlab.ops.mamba_inner.api import RECOMPUTE, inner_backend, mamba_inner

__all__ = ["RECOMPUTE", "inner_backend", "mamba_inner"]
