"""Sequence mixers: (B, L, D) -> (B, L, D), each with a one-step form and its state."""

from ssmlab.mixers.attention import Attention, AttentionConfig, AttentionState
from ssmlab.mixers.inner import InnerMixerConfig, build_inner
from ssmlab.mixers.long_conv import LongConv, LongConvConfig
from ssmlab.mixers.s4 import S4, S4Config
from ssmlab.mixers.s4d import S4D, S4DConfig
from ssmlab.mixers.s6 import S6
from ssmlab.mixers.s6_config import S6Config
from ssmlab.mixers.ssd import SSD, SSDConfig

__all__ = [
    "S4",
    "S4D",
    "S6",
    "SSD",
    "Attention",
    "AttentionConfig",
    "AttentionState",
    "InnerMixerConfig",
    "LongConv",
    "LongConvConfig",
    "S4Config",
    "S4DConfig",
    "S6Config",
    "SSDConfig",
    "build_inner",
]
