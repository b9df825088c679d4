"""Any mixer in the place where a block has its SSM: which one, and its config.

D channels.
"""

import typing
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ConfigError
from ssmlab.mixers.attention import Attention, AttentionConfig
from ssmlab.mixers.checks import check_choice
from ssmlab.mixers.long_conv import LongConv, LongConvConfig
from ssmlab.mixers.s4 import S4, S4Config
from ssmlab.mixers.s4d import S4D, S4DConfig
from ssmlab.mixers.s6 import S6
from ssmlab.mixers.s6_config import S6Config
from ssmlab.mixers.ssd import SSD, SSDConfig
from ssmlab.mixers.time_invariant import gate

MixerName = Literal["s6", "s4d", "s4", "long-conv", "ssd", "attention"]


@dataclass(frozen=True)
class InnerMixerConfig:
    """The mixer inside a block.

    Attributes:
        mixer: which one: "s6", "s4d", "s4", "long-conv" (Hyena's), "ssd" (Mamba-2's) or "attention".
        ssm, s4d, s4, long_conv, ssd, attention: its config; the others have no effect.
    """

    mixer: MixerName = "s6"
    ssm: S6Config = field(default_factory=S6Config)
    s4d: S4DConfig = field(default_factory=S4DConfig)
    s4: S4Config = field(default_factory=S4Config)
    long_conv: LongConvConfig = field(default_factory=LongConvConfig)
    ssd: SSDConfig = field(default_factory=SSDConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)

    def __post_init__(self) -> None:
        check_choice(type(self).__name__, "mixer", self.mixer, typing.get_args(MixerName))

    @property
    def max_length(self) -> int | None:
        """The longest sequence that the mixer takes; None for any."""
        return self.long_conv.l_max if self.mixer == "long-conv" else None

    def resolve_dt_rank(self, d_model: int, channels: int) -> int:
        """S6's rank R of Δ (and a selective A) at width ``d_model``; "auto" is ceil(d_model / 16).

        Raises:
            ConfigError: a rank above the channels, which could not add anything.
        """
        rank = -(-d_model // 16) if self.ssm.dt_rank == "auto" else self.ssm.dt_rank
        has_effect = self.mixer == "s6" and (self.ssm.selective_delta or self.ssm.selective_A)
        if has_effect and rank > channels:
            raise ConfigError(
                f"S6Config.dt_rank={rank} is above the {channels} channels of the mixer in a model "
                f"of d_model {d_model}; give 1 to {channels}, or 'auto'"
            )
        return rank

    def check_inner(self, d_model: int, channels: int) -> None:
        """Refuse a mixer that cannot be built over ``channels``.

        Raises:
            ConfigError: heads or ranks that do not fit, with what would.
        """
        if self.mixer == "s6":
            self.resolve_dt_rank(d_model, channels)
        elif self.mixer == "ssd":
            self.ssd.heads(channels)
        elif self.mixer == "attention":
            self.attention.sizes(channels)

    def effective_inner(self, d_model: int, channels: int) -> Self:
        """The same with the configs of all mixers but the one named at their defaults.

        Raises:
            ConfigError: heads or ranks that do not fit ``channels``.
        """
        used: dict[str, Any] = {}
        match self.mixer:
            case "s6":
                used["ssm"] = self.ssm.effective(self.resolve_dt_rank(d_model, channels))
            case "attention":
                used["attention"] = self.attention.effective(channels)
            case name:
                key = name.replace("-", "_")
                used[key] = getattr(self, key)
        default = InnerMixerConfig()
        names = [part.name for part in fields(InnerMixerConfig) if part.name != "mixer"]
        return replace(self, **{name: used.get(name, getattr(default, name)) for name in names})


def build_inner(config: InnerMixerConfig, d_model: int, channels: int) -> nn.Module:
    """The mixer that ``config`` names over ``channels``: (B, L, D) and a gate -> (B, L, D)."""
    match config.mixer:
        case "s6":
            return S6(config.ssm, channels, config.resolve_dt_rank(d_model, channels))
        case "s4d":
            return S4D(config.s4d, channels)
        case "s4":
            return S4(config.s4, channels)
        case "long-conv":
            return LongConv(config.long_conv, channels)
        case "ssd":
            return SSD(config.ssd, channels)
    return Gated(Attention(config.attention, channels))


class Gated(nn.Module):
    """A mixer without a gate of its own, its output times silu(z) where there is a z."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(
        self,
        x: Tensor,
        z: Tensor | None = None,
        state: Any = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Any:
        """x, z (B, L, D) -> y (B, L, D), or (y, state)."""
        if not return_state:
            return gate(self.mixer(x, state, cu_seqlens=cu_seqlens), z, x.dtype)
        y, state = self.mixer(x, state, True, cu_seqlens)
        return gate(y, z, x.dtype), state

    def step(self, x: Tensor, state: Any, z: Tensor | None = None) -> tuple[Tensor, Any]:
        """x, z (B, D) and state -> y (B, D) and the new state."""
        y, state = self.mixer.step(x, state)  # type: ignore[operator]
        return gate(y, z, x.dtype), state

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """The mixer's state before the first step."""
        return self.mixer.init_state(batch_size, device, dtype)  # type: ignore[operator]
