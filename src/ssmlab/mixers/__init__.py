"""Sequence mixers: (B, L, D) -> (B, L, D), each with a one-step form and its state."""

from ssmlab.mixers.s6 import S6
from ssmlab.mixers.s6_config import S6Config

__all__ = ["S6", "S6Config"]
