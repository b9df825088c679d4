"""The H3 block: a shift SSM and a diagonal SSM (or any mixer) between two products.

Shapes: B batch, L length, M model width, H heads, E width of a head, T taps of the shift SSM.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ssmlab.blocks.calls import is_plain
from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_positive_int
from ssmlab.mixers.inner import InnerMixerConfig, MixerName, build_inner
from ssmlab.mixers.linear import Linear, mark_no_weight_decay
from ssmlab.mixers.long_conv import LongConv
from ssmlab.mixers.packing import full_precision, run_packed
from ssmlab.mixers.s4 import S4
from ssmlab.mixers.s4d import S4D
from ssmlab.ops import causal_conv1d, causal_conv1d_update, fft_conv, toeplitz_attention


@dataclass(frozen=True)
class H3Config(InnerMixerConfig):
    """The H3 block (arXiv 2212.14052, section 3).

    Attributes:
        mixer: what stands in the diagonal SSM's place: S4D, as H3 has it, unless another is named;
            each has its own config (see ``InnerMixerConfig``).
        head_dim: E; with 1 the products are elementwise. Must divide d_model.
        d_shift: T, states of the shift SSM, which is a filter of that many taps.
        bias: in_proj and out_proj have biases.
    """

    mixer: MixerName = "s4d"
    head_dim: int = 1
    d_shift: int = 64
    bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_int("H3Config", head_dim=self.head_dim, d_shift=self.d_shift)

    def heads(self, d_model: int) -> int:
        """H in a model of width ``d_model``.

        Raises:
            ConfigError: head_dim does not divide d_model.
        """
        if d_model % self.head_dim:
            divisors = [n for n in range(1, d_model + 1) if d_model % n == 0]
            raise ConfigError(
                f"H3Config.head_dim={self.head_dim} does not divide d_model={d_model}; give one of "
                f"{', '.join(map(str, divisors))}"
            )
        return d_model // self.head_dim

    def check(self, d_model: int) -> None:
        """Refuse what cannot be built in a model of width ``d_model``.

        Raises:
            ConfigError: heads or ranks that do not fit, with what would.
        """
        self.check_inner(d_model, self.heads(d_model))

    def effective(self, d_model: int) -> "H3Config":
        """The same in a model of width ``d_model``, with everything without effect at its default."""
        return self.effective_inner(d_model, self.heads(d_model))


class H3State(NamedTuple):
    """What an H3 block carries from step to step.

    Attributes:
        shift: (B, T-1, M), the last keys.
        ssm: the state of the mixer inside, its tensors (B, E², ...).
    """

    shift: Tensor
    ssm: Any


class H3(nn.Module):
    """out_proj(q ⊙ SSM(shift(k) ⊙ v)) with (q, k, v) = in_proj(x).

    With heads of E > 1 channels the inner product is an outer one, E x E numbers a head, each of
    which runs through the head's channel of the mixer, and q contracts it as in linear attention. So
    the mixer has H = M / E channels and sees E² sequences of them for each of the batch. Where it is
    a filter (S4D, S4, LongConv), a whole sequence without a state is ``ops.toeplitz_attention``,
    which keeps none of the E² sequences.

    Arguments:
        config: widths and switches.
        d_model: M.
        init_std: standard deviation of the projections; None for the fan-in rule of ``Linear``.
        out_scale: factor on out_proj's start values (1/sqrt of the number of residual additions).

    Source: arXiv 2212.14052, section 3 and Algorithm 1.
    """

    def __init__(
        self,
        config: H3Config,
        d_model: int,
        *,
        init_std: float | None = None,
        out_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        heads = config.heads(d_model)
        self.in_proj = Linear(d_model, 3 * d_model, bias=config.bias, std=init_std)
        self.shift = ShiftSSM(d_model, config.d_shift)
        self.ssm = build_inner(config, d_model, heads)
        self.out_proj = Linear(d_model, d_model, bias=config.bias, std=init_std, scale=out_scale)

    def forward(
        self,
        x: Tensor,
        state: H3State | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, H3State]:
        """x (B, L, M) -> y (B, L, M), or (y, state). ``cu_seqlens`` packs sequences, B = 1 then;
        with heads of several channels they are run one after another."""
        if cu_seqlens is not None and self.head_dim > 1:
            return run_packed(self, (x,), state, return_state, cu_seqlens)
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        k = self.shift(k, None if state is None else state.shift, return_state, cu_seqlens)
        shift = None
        if return_state:
            k, shift = k
        if self.head_dim > 1 and state is None and not return_state:
            y = self._attend(q, k, v)
            if y is not None:
                return self.out_proj(y)
        kv = self._outer(k, v)
        before = None if state is None else pytree.tree_map(lambda t: t.flatten(0, 1), state.ssm)
        if not return_state:
            y = self.ssm(kv, None, before, cu_seqlens=cu_seqlens)
            return self.out_proj(self._contract(q, y))
        y, after = self.ssm(kv, None, before, True, cu_seqlens)
        assert shift is not None
        return self.out_proj(self._contract(q, y)), H3State(shift, self._rows(after))

    def step(self, x: Tensor, state: H3State) -> tuple[Tensor, H3State]:
        """One step of decoding: x (B, M) -> y (B, M) and the new state."""
        q, k, v = self.in_proj(x).unsqueeze(1).chunk(3, dim=-1)
        k, shift = self.shift.step(k.squeeze(1), state.shift)
        kv = self._outer(k.unsqueeze(1), v).squeeze(1)
        before = pytree.tree_map(lambda t: t.flatten(0, 1), state.ssm)
        y, after = self.ssm.step(kv, before)  # type: ignore[operator]
        y = self._contract(q, y.unsqueeze(1)).squeeze(1)
        return self.out_proj(y), H3State(shift, self._rows(after))

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> H3State:
        """The state before the first step: zeros."""
        shift = self.shift.init_state(batch_size, device, dtype)
        rows = batch_size * self.head_dim**2
        ssm = self.ssm.init_state(rows, device, dtype)  # type: ignore[operator]
        return H3State(shift, self._rows(ssm))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        """q, k, v (B, L, M) -> (B, L, M) without the outer products, where the mixer is one filter a
        head; else None."""
        if type(self.ssm) not in (S4D, S4, LongConv) or not is_plain(self.ssm):
            return None
        with full_precision(q.device):
            taps = self.ssm.whole_filter(q.shape[1])  # type: ignore[operator]
            if taps is None:
                return None
            q, k, v = (t.unflatten(-1, (-1, self.head_dim)) for t in (q, k, v))
            return toeplitz_attention(q, k, v, taps).flatten(2)

    def _outer(self, k: Tensor, v: Tensor) -> Tensor:
        """k, v (B, L, M) -> their products (B E², L, H)."""
        if self.head_dim == 1:
            return k * v
        k, v = (t.unflatten(-1, (-1, self.head_dim)) for t in (k, v))
        return torch.einsum("blhi,blhj->bijlh", k, v).flatten(0, 2)

    def _contract(self, q: Tensor, kv: Tensor) -> Tensor:
        """q (B, L, M) with (B E², L, H) -> (B, L, M)."""
        if self.head_dim == 1:
            return q * kv
        q = q.unflatten(-1, (-1, self.head_dim))
        kv = kv.unflatten(0, (-1, self.head_dim, self.head_dim))
        return torch.einsum("blhi,bijlh->blhj", q, kv.to(q.dtype)).flatten(2)

    def _rows(self, state: Any) -> Any:
        """The first dimension (B E²) -> (B, E²), so that rows are the batch's everywhere."""
        square = self.head_dim**2
        return pytree.tree_map(lambda t: t.unflatten(0, (-1, square)), state)


class ShiftSSM(nn.Module):
    """y_t = Σ_n C_n h_t[n] + D x_t, where h shifts by one place a step and takes in B x_t.

    That is a filter of T taps k_t = Σ_n C_{n+t} B_n. B starts as the first unit vector, so that h is
    at first the last T inputs; C starts U(±1/√T), D N(0, 1).

    Source: arXiv 2212.14052, section 3.1.
    """

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        start = torch.zeros(channels, taps)
        start[:, 0] = 1
        self.B = mark_no_weight_decay(nn.Parameter(start))
        bound = 1 / math.sqrt(taps)
        self.C = mark_no_weight_decay(
            nn.Parameter(torch.empty(channels, taps).uniform_(-bound, bound))
        )
        self.D = mark_no_weight_decay(nn.Parameter(torch.randn(channels)))

    def kernel(self) -> Tensor:
        """The taps (M, T), that of the present input first, D in it."""
        dtype = torch.promote_types(self.B.dtype, torch.float32)
        size = 2 * self.B.shape[1]
        B, C = (torch.fft.rfft(v.to(dtype), n=size) for v in (self.B, self.C))
        taps = torch.fft.irfft(C * B.conj(), n=size)[:, : self.B.shape[1]]
        skip = torch.zeros_like(taps)
        skip[:, 0] = 1
        return taps + self.D.to(dtype).unsqueeze(1) * skip

    def forward(
        self, x: Tensor, state: Tensor | None, return_state: bool, cu_seqlens: Tensor | None
    ) -> Any:
        """x (B, L, M) -> y (B, L, M), or (y, state (B, T-1, M))."""
        with full_precision(x.device):
            taps = self.kernel()
            if state is None and not return_state and cu_seqlens is None:
                return fft_conv(x, taps)
            return causal_conv1d(
                x,
                taps.flip(1),
                initial_state=state,
                return_final_state=return_state,
                cu_seqlens=cu_seqlens,
            )

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, M) -> y (B, M) and the new state."""
        with full_precision(x.device):
            return causal_conv1d_update(x, state, self.kernel().flip(1))

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Zeros (B, T-1, M)."""
        channels, taps = self.B.shape
        return torch.zeros(
            batch_size,
            taps - 1,
            channels,
            device=device or self.B.device,
            dtype=dtype or self.B.dtype,
        )
