"""SSD, the selective mixer of Mamba-2: one scalar A a head.

Shapes: B batch, L length, D channels, H heads, P channels of a head, G groups of heads, N state.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_positive_float, check_positive_int
from ssmlab.mixers.linear import Linear, mark_no_weight_decay
from ssmlab.mixers.packing import full_precision, run_packed
from ssmlab.mixers.time_invariant import gate
from ssmlab.ops import ssd, ssd_update


@dataclass(frozen=True)
class SSDConfig:
    """Switches of the SSD mixer (arXiv 2405.21060).

    Attributes:
        d_state: N, states of each channel.
        d_head: P, which must divide the channels.
        n_groups: G, heads share B and C by groups; it must divide the number of heads.
        chunk_size: steps of a chunk in the matrix form; changes time and memory, not the result.
        a_min, a_max: -A starts uniform in this range, per head.
        dt_min, dt_max: Δ starts log-uniform in this range, per head.
    """

    d_state: int = 64
    d_head: int = 64
    n_groups: int = 1
    chunk_size: int = 64
    a_min: float = 1.0
    a_max: float = 16.0
    dt_min: float = 1e-3
    dt_max: float = 0.1

    def __post_init__(self) -> None:
        check_positive_int(
            "SSDConfig",
            d_state=self.d_state,
            d_head=self.d_head,
            n_groups=self.n_groups,
            chunk_size=self.chunk_size,
        )
        ranges = {"a": (self.a_min, self.a_max), "dt": (self.dt_min, self.dt_max)}
        for name, (low, high) in ranges.items():
            check_positive_float("SSDConfig", **{f"{name}_min": low, f"{name}_max": high})
            if low > high:
                raise ConfigError(
                    f"SSDConfig: {name}_min={low} is above {name}_max={high}; give min <= max"
                )

    def heads(self, channels: int) -> int:
        """H among ``channels``.

        Raises:
            ConfigError: d_head does not divide the channels, or n_groups the heads.
        """
        for what, part, whole in (
            ("d_head", self.d_head, channels),
            ("n_groups", self.n_groups, channels // self.d_head),
        ):
            if whole == 0 or whole % part:
                of = f"the {channels} channels" if what == "d_head" else f"the {whole} heads"
                valid = ", ".join(str(n) for n in range(1, whole + 1) if whole % n == 0) or "less"
                raise ConfigError(
                    f"SSDConfig.{what}={part} does not divide {of} of the mixer; give one of {valid}"
                )
        return channels // self.d_head


class SSD(nn.Module):
    """y = SSM(A, B, C, Δ)(x) with one A and one Δ a head, and Δ, B and C made from x.

    It stands where S6 does, so it makes Δ, B and C from its own input, as S6's ``x_proj``; Mamba-2's
    block makes them beside x from the block's input.

    Parameters: ``x_proj.weight`` (rows for Δ, B, C in that order), ``dt_bias``, ``A_log`` and ``D``,
    each (H,).

    Arguments:
        config: the switches.
        channels: D.

    Source: arXiv 2405.21060, sections 3 to 6.
    """

    def __init__(self, config: SSDConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        heads = config.heads(channels)
        shared = config.n_groups * config.d_state
        self.sizes = (heads, shared, shared)
        self.x_proj = Linear(channels, sum(self.sizes), std=None)
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        delta = torch.exp(low + torch.rand(heads) * (high - low))
        # log(exp(Δ) - 1), written so that small Δ keep their digits.
        self.dt_bias = nn.Parameter(delta + torch.log(-torch.expm1(-delta)))
        A = config.a_min + torch.rand(heads) * (config.a_max - config.a_min)
        self.A_log = nn.Parameter(A.log())
        self.D = nn.Parameter(torch.ones(heads))
        for parameter in (self.dt_bias, self.A_log, self.D):
            mark_no_weight_decay(parameter)

    def forward(
        self,
        x: Tensor,
        z: Tensor | None = None,
        state: Tensor | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mix over time.

        Args:
            x: (B, L, D).
            z: (B, L, D); the output is multiplied by silu(z).
            state: (B, H, P, N) before the first step; zeros if not given.
            return_state: return the state after the last step too.
            cu_seqlens: (S+1,) int32 offsets of S sequences packed along L, with B = 1; they are run
                one after another.

        Returns:
            y (B, L, D), or (y, state).
        """
        if cu_seqlens is not None:
            return run_packed(self, (x, z), state, return_state, cu_seqlens)
        delta, A, B, C = self._signals(x)
        with full_precision(x.device):
            y, last = ssd(
                x.unflatten(-1, (-1, self.config.d_head)),
                delta,
                A,
                B,
                C,
                self.D,
                initial_state=state,
                return_last_state=True,
                chunk_size=self.config.chunk_size,
            )
            y = gate(y.flatten(2), z, x.dtype)
        return (y, last) if return_state else y

    def step(self, x: Tensor, state: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step of decoding: x (B, D), state (B, H, P, N) -> y (B, D) and the new state."""
        delta, A, B, C = self._signals(x)
        with full_precision(x.device):
            heads = x.unflatten(-1, (-1, self.config.d_head))
            y, state = ssd_update(state, heads, delta, A, B, C, self.D)
            return gate(y.flatten(1), z, x.dtype), state

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Zeros (B, H, P, N) in fp32, or fp64 for fp64 parameters, whatever ``dtype`` is."""
        kind = torch.promote_types(self.D.dtype, torch.float32)
        shape = (batch_size, self.D.shape[0], self.config.d_head, self.config.d_state)
        return torch.zeros(shape, device=device or self.D.device, dtype=kind)

    def _signals(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Δ (..., H), A (H,), B and C (..., G, N)."""
        delta, B, C = self.x_proj(x).split(self.sizes, dim=-1)
        dtype = torch.promote_types(self.A_log.dtype, torch.float32)
        delta = F.softplus(delta.to(dtype) + self.dt_bias.to(dtype))
        B, C = (t.unflatten(-1, (self.config.n_groups, -1)) for t in (B, C))
        return delta, -self.A_log.to(dtype).exp(), B, C
