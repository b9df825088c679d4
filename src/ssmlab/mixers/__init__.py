"""Sequence mixers: (B, L, D) -> (B, L, D), each with a one-step form and its state."""
