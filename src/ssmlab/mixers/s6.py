"""S6, the selective state space mixer (Algorithm 2 of the Mamba paper), all its switches.

Shapes: B batch, L length, D channels, N real numbers of state per channel, K what the state is kept
as: N real, or N/2 complex ones; R rank of the Δ projection.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmlab.mixers.linear import Linear, mark_no_weight_decay
from ssmlab.mixers.s6_config import S6Config
from ssmlab.mixers.time_invariant import gate
from ssmlab.ops import selective_scan, selective_scan_update

MATCHED_STD = 0.14
LEAST_FACTOR = 1e-4
"""Least factor on A where A is selective. Inputs of the scan are divided by it: below, rounding of
float32 would be seen in the gradient."""


class S6(nn.Module):
    """y = SSM(A, B, C, Δ)(x) with Δ, B and C each made from x or learned and constant.

    A is learned and constant, or, with ``selective_A``, times a factor made from x for each channel:

        A_t = A a_t,  a_t = max(softplus(s_A(x_t) + log(e - 1)), LEAST_FACTOR)

    with s_A(x) = W_A(V_A x) of rank R, as s_Δ. So a_t = 1 where s_A(x_t) = 0. Since a_t is the same
    for all states of a channel, the scan of Δ'_t = Δ_t a_t and x'_t = x_t / a_t is the one wanted:
    exp(Δ'_t A) = exp(Δ_t A_t) and Δ'_t B_t x'_t = Δ_t B_t x_t.

    Parameters are named as in the public Mamba checkpoints: ``x_proj.weight`` (rows for Δ, B, C in
    that order, those that are selective), ``dt_proj.weight`` (D, R), ``dt_proj.bias`` (D,),
    ``A_log`` (D, K), ``D`` (D,). Besides: ``A_imag`` (D, K) for a complex A, ``B``, ``C`` (D, N)
    where they are constant (complex ones as pairs of real and imaginary part), and for a selective A
    ``A_proj.weight`` (D, R) and R more rows of ``x_proj.weight``, the last.

    Arguments:
        config: the switches.
        channels: D.
        dt_rank: R; unused where neither Δ nor A is selective.

    Source: sections 3.2, 3.5.2 and 3.6 of arXiv 2312.00752; start values of Δ and A as in the
    released code.
    """

    def __init__(self, config: S6Config, channels: int, dt_rank: int) -> None:
        super().__init__()
        self.config = config
        n = config.d_state
        self.sizes = (
            dt_rank if config.selective_delta else 0,
            n if config.selective_B else 0,
            n if config.selective_C else 0,
            dt_rank if config.selective_A else 0,
        )
        self.x_proj = Linear(channels, sum(self.sizes), std=None) if any(self.sizes) else None
        self.dt_proj = _DeltaProjection(config, channels, self.sizes[0])
        decay, frequency = start_of_A(config, channels)
        self.A_log = mark_no_weight_decay(nn.Parameter(decay.log()))
        self.A_imag = None if frequency is None else mark_no_weight_decay(nn.Parameter(frequency))
        start_B, start_C = start_of_constants(config, channels)
        self.B = None if config.selective_B else mark_no_weight_decay(nn.Parameter(start_B))
        self.C = None if config.selective_C else mark_no_weight_decay(nn.Parameter(start_C))
        self.D = mark_no_weight_decay(nn.Parameter(torch.ones(channels)))
        # Last, so that without it the other start values are drawn as ever.
        self.A_proj = Linear(dt_rank, channels, std=None) if config.selective_A else None

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
            state: (B, D, K), the state before the first step; zeros if not given. With
                ``cu_seqlens`` (S, D, K).
            return_state: return the state after the last step too.
            cu_seqlens: (S+1,) int32 offsets of S sequences packed along L, with B = 1.

        Returns:
            y (B, L, D), or (y, state).
        """
        u, delta, B, C, inside = self._operands(x, z)
        result = selective_scan(
            u,
            delta,
            self._A(),
            B,
            C,
            initial_state=state,
            return_last_state=return_state,
            cu_seqlens=cu_seqlens,
            **inside,
        )
        if inside:
            return result
        if isinstance(result, tuple):
            return self._around(result[0], x, z), result[1]
        return self._around(result, x, z)

    def step(self, x: Tensor, state: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step of decoding: x (B, D), state (B, D, K) -> y (B, D), state (B, D, K)."""
        return self._step(x, state, z, in_place=False)

    def step_(self, x: Tensor, state: Tensor, z: Tensor | None = None) -> Tensor:
        """As ``step``, the new state written over the old one."""
        return self._step(x, state, z, in_place=True)[0]

    def _step(
        self, x: Tensor, state: Tensor, z: Tensor | None, in_place: bool
    ) -> tuple[Tensor, Tensor]:
        u, delta, B, C, inside = self._operands(x, z)
        y, state = selective_scan_update(
            state,
            u,
            delta,
            self._A(),
            B,
            C,
            constant_B=not self.config.selective_B,
            constant_C=not self.config.selective_C,
            in_place=in_place,
            **inside,
        )
        return (y if inside else self._around(y, x, z)), state

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Zeros (B, D, K) in fp32 (fp64 for fp64 parameters), or complex of that precision.

        ``dtype`` is that of the activations; the state does not follow it below fp32.
        """
        A = self.A_log
        wide = torch.promote_types(A.dtype, torch.float32)
        kind = wide if self.A_imag is None else wide.to_complex()
        return torch.zeros(batch_size, *A.shape, device=device or A.device, dtype=kind)

    def constants(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A (D, K), and B and C (D, K) where they do not depend on the input, else None."""
        B, C = (None if factor is None else self._pairs(factor) for factor in (self.B, self.C))
        return self._A(), B, C

    def _operands(
        self, x: Tensor, z: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """The scan's u and Δ (..., D), its B and C, and what else it does: D u, gate, bias, softplus.

        With a selective A that is nothing: Δ is done, in fp32 at least, and ``_around`` does the rest
        with the x that was not divided.
        """
        delta, B, C, low_rank = self._signals(x)
        bias = self.dt_proj.bias
        if self.A_proj is None:
            rest = {"D": self.D, "z": z, "delta_bias": bias, "delta_softplus": True}
            return x, delta, B, C, rest
        wide = torch.promote_types(bias.dtype, torch.float32)
        # log(e - 1) is where softplus is 1.
        factor = F.softplus(self.A_proj(low_rank).to(wide) + math.log(math.expm1(1)))
        factor = factor.clamp(min=LEAST_FACTOR)
        delta = F.softplus(delta.to(wide) + bias.to(wide))
        return x.to(wide) / factor, delta * factor, B, C, {}

    def _around(self, y: Tensor, x: Tensor, z: Tensor | None) -> Tensor:
        """(y + D x) silu(z) in x's dtype."""
        return gate(y + self.D.to(y.dtype) * x.to(y.dtype), z, x.dtype)

    def _signals(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Δ before its bias and softplus (..., D), B and C, (..., N or K) or constant (D, K), and
        what a selective A is made from (..., R)."""
        if self.x_proj is not None:
            low_rank, B, C, low_rank_A = self.x_proj(x).split(self.sizes, dim=-1)
        else:
            low_rank = B = C = low_rank_A = x
        if self.dt_proj.weight is not None:
            delta = F.linear(low_rank, self.dt_proj.weight)
        else:
            delta = x.new_zeros(()).expand_as(x)
        return (
            delta,
            self._pairs(B if self.B is None else self.B),
            self._pairs(C if self.C is None else self.C),
            low_rank_A,
        )

    def _A(self) -> Tensor:
        """A (D, K) with negative real part, in fp32 at least."""
        A_log = self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32))
        decay = -torch.exp(A_log)
        return decay if self.A_imag is None else torch.complex(decay, self.A_imag.to(decay.dtype))

    def _pairs(self, factor: Tensor) -> Tensor:
        """Complex numbers out of neighbouring reals, where A is complex."""
        if not self.config.is_complex:
            return factor
        wide = factor.to(torch.promote_types(factor.dtype, torch.float32))
        real, imaginary = wide.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.complex(real, imaginary)


class _DeltaProjection(nn.Module):
    """Weight (D, R), none for a static Δ, and bias (D,), the inverse softplus of Δ's start value."""

    def __init__(self, config: S6Config, channels: int, rank: int) -> None:
        super().__init__()
        bound = rank**-0.5 if rank else 0.0
        weight = torch.empty(channels, rank).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight) if rank else None
        delta = start_of_delta(config, channels)
        # log(exp(Δ) - 1), written so that small Δ keep their digits.
        self.bias = mark_no_weight_decay(nn.Parameter(delta + torch.log(-torch.expm1(-delta))))


def start_of_delta(config: S6Config, channels: int) -> Tensor:
    """Start values of Δ (D,), drawn from [dt_min, dt_max] and at least dt_init_floor."""
    fraction = torch.rand(channels)
    if config.dt_init == "log-uniform":
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        delta = torch.exp(low + fraction * (high - low))
    else:
        delta = config.dt_min + fraction * (config.dt_max - config.dt_min)
    return delta.clamp(min=config.dt_init_floor)


def start_of_A(config: S6Config, channels: int) -> tuple[Tensor, Tensor | None]:
    """Start values of -Re A (D, K) and, for a complex A, of Im A (D, K). Table 8, section 3.6."""
    count = config.d_state // 2 if config.is_complex else config.d_state
    index = torch.arange(count, dtype=torch.float32).repeat(channels, 1)
    if config.a_init == "s4d-real":
        return index + 1, None
    if config.a_init == "random":
        return torch.exp(torch.randn(channels, count)), None
    half = torch.full((channels, count), 0.5)
    if config.a_init == "constant":
        return half, None
    return half, index * math.pi if config.a_init == "s4d-lin" else index


def start_of_constants(config: S6Config, channels: int) -> tuple[Tensor, Tensor]:
    """Start values of a constant B and a constant C, both (D, N); complex ones in pairs of reals.

    The size of "matched" is that of x_proj's output at the start: the input of the block is
    normalised, in_proj takes it to an rms of 0.58, the convolution and SiLU to 0.24, x_proj to 0.14.
    """
    B, C = torch.randn(channels, config.d_state), torch.randn(channels, config.d_state)
    if config.constant_init == "matched":
        return B * MATCHED_STD, C * MATCHED_STD
    one = torch.ones(channels, config.d_state)
    if config.is_complex:
        one[:, 1::2] = 0
    return one, C
