"""Causal multi-head attention with rotary positions, grouped keys, a cache and a sliding window.

Shapes: B batch, L length, M model width, Q query heads, G key-value heads, E width of a head, P keys
in the cache.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_positive_float, check_positive_int
from ssmlab.mixers.linear import Linear
from ssmlab.mixers.packing import run_packed


@dataclass(frozen=True)
class AttentionConfig:
    """Multi-head attention.

    Attributes:
        n_heads: Q; "auto" is one head for every 64 channels of the model, at least one.
        n_kv_heads: G, which must divide Q; None for Q (no grouping).
        d_head: E; "auto" is d_model / n_heads.
        rope: rotate queries and keys by their positions; False leaves positions to the model.
        rope_base: the longest wavelength is about 2π times this.
        window: how many positions back a query sees, itself included; None for all.
        bias: the projections have biases.
    """

    n_heads: int | Literal["auto"] = "auto"
    n_kv_heads: int | None = None
    d_head: int | Literal["auto"] = "auto"
    rope: bool = True
    rope_base: float = 10000.0
    window: int | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        for name in ("n_heads", "d_head"):
            value = getattr(self, name)
            if isinstance(value, str) and value != "auto":
                raise ConfigError(
                    f"AttentionConfig.{name}: expected a whole number >= 1 or 'auto', got {value!r}"
                )
        given = {
            name: getattr(self, name)
            for name in ("n_heads", "n_kv_heads", "d_head", "window")
            if getattr(self, name) not in ("auto", None)
        }
        check_positive_int("AttentionConfig", **given)
        check_positive_float("AttentionConfig", rope_base=self.rope_base)
        if self.rope and self.d_head != "auto" and self.d_head % 2:
            raise ConfigError(
                f"AttentionConfig.d_head={self.d_head} with rope: channels are rotated in pairs; "
                f"give an even d_head, for example {self.d_head + 1}, or rope=False"
            )
        if self.n_kv_heads is not None and self.n_heads != "auto":
            _check_groups(self.n_heads, self.n_kv_heads)

    def sizes(self, d_model: int) -> tuple[int, int, int]:
        """Q, G and E in a model of width ``d_model``.

        Raises:
            ConfigError: heads that do not divide what they must.
        """
        heads = max(1, d_model // 64) if self.n_heads == "auto" else self.n_heads
        groups = self.n_kv_heads or heads
        _check_groups(heads, groups)
        if self.d_head != "auto":
            return heads, groups, self.d_head
        if d_model % heads:
            divisors = [n for n in range(1, d_model + 1) if d_model % n == 0]
            raise ConfigError(
                f"AttentionConfig.n_heads={heads} does not divide d_model={d_model}; give one of "
                f"{', '.join(map(str, divisors))}, or set d_head"
            )
        width = d_model // heads
        if self.rope and width % 2:
            raise ConfigError(
                f"AttentionConfig: d_model={d_model} / n_heads={heads} is {width} channels a head, "
                "and rope rotates them in pairs; choose n_heads so that it is even, or rope=False"
            )
        return heads, groups, width

    def effective(self, d_model: int) -> "AttentionConfig":
        """The same in a model of width ``d_model``, its sizes resolved."""
        heads, groups, width = self.sizes(d_model)
        base = self.rope_base if self.rope else AttentionConfig.rope_base
        return replace(self, n_heads=heads, n_kv_heads=groups, d_head=width, rope_base=base)


def _check_groups(heads: int, groups: int) -> None:
    if heads % groups:
        divisors = [n for n in range(1, heads + 1) if heads % n == 0]
        raise ConfigError(
            f"AttentionConfig.n_kv_heads={groups} does not divide n_heads={heads}; give one of "
            f"{', '.join(map(str, divisors))}"
        )


class AttentionState(NamedTuple):
    """What attention carries from step to step.

    Attributes:
        keys, values: (B, P, G, E), the keys rotated already; at most window - 1 of them.
        position: (B,) int64, how many steps there have been.
    """

    keys: Tensor
    values: Tensor
    position: Tensor


class Attention(nn.Module):
    """out_proj(softmax(q kᵀ / √E) v), causal, by PyTorch's scaled_dot_product_attention.

    Parameters: ``in_proj`` (M -> Q, G and G heads of E for q, k and v in that order), ``out_proj``.

    Arguments:
        config: the switches.
        d_model: M.
        init_std: standard deviation of the projections; None for the fan-in rule of ``Linear``.
        out_scale: factor on out_proj's start values (1/sqrt of the number of residual additions).

    Source: arXiv 1706.03762, section 3.2; rotary positions arXiv 2104.09864, section 3.2.2; grouped
    keys arXiv 2305.13245; window arXiv 2004.05150.
    """

    def __init__(
        self,
        config: AttentionConfig,
        d_model: int,
        *,
        init_std: float | None = None,
        out_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.heads, self.groups, self.width = config.sizes(d_model)
        inner = (self.heads + 2 * self.groups) * self.width
        self.in_proj = Linear(d_model, inner, bias=config.bias, std=init_std)
        self.out_proj = Linear(
            self.heads * self.width, d_model, bias=config.bias, std=init_std, scale=out_scale
        )

    def forward(
        self,
        x: Tensor,
        state: AttentionState | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, AttentionState]:
        """x (B, L, M) -> y (B, L, M), or (y, state).

        ``cu_seqlens`` packs sequences along L, B = 1 then: each sees itself alone, positions start
        again, and states can be had only of sequences of one length.
        """
        if cu_seqlens is not None:
            return run_packed(self, (x,), state, return_state, cu_seqlens)
        batch, length, _ = x.shape
        sizes = (self.heads, self.groups, self.groups)
        q, k, v = self.in_proj(x).unflatten(-1, (-1, self.width)).split(sizes, dim=2)
        position = None if state is None else state.position
        if self.config.rope:
            cos, sin = self._turns(length, position, x.device)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if state is not None:
            k = torch.cat([state.keys.to(k.dtype), k], 1)
            v = torch.cat([state.values.to(v.dtype), v], 1)
        y = self._attend(q, k, v)
        y = self.out_proj(y.flatten(2))
        if not return_state:
            return y
        if position is None:
            position = torch.zeros(batch, dtype=torch.int64, device=x.device)
        kept = None if self.config.window is None else self.config.window - 1
        if kept is not None and kept < k.shape[1]:
            # A copy, so that what is out of sight is given free.
            k, v = (t[:, t.shape[1] - kept :].clone() for t in (k, v))
        return y, AttentionState(k, v, position + length)

    def step(self, x: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """One step of decoding: x (B, M) -> y (B, M) and the new state."""
        y, state = self(x.unsqueeze(1), state, True)
        return y.squeeze(1), state

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> AttentionState:
        """An empty cache."""
        weight = self.in_proj.weight
        device = device or weight.device
        empty = torch.zeros(
            batch_size, 0, self.groups, self.width, device=device, dtype=dtype or weight.dtype
        )
        position = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return AttentionState(empty, empty.clone(), position)

    def _turns(
        self, length: int, position: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """cos and sin of the rotations, (1 or B, L, 1, E/2), in float64."""
        steps = torch.arange(length, device=device)
        steps = steps[None] if position is None else position[:, None] + steps
        pair = torch.arange(0, self.width, 2, device=device, dtype=torch.float64)
        rates = self.config.rope_base ** -(pair / self.width)
        angle = steps.to(torch.float64)[:, :, None, None] * rates
        return angle.cos(), angle.sin()

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, L, Q, E) against k, v (B, P+L, G, E), the last L of which are the queries' own."""
        if self.groups != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.groups, dim=2) for t in (k, v))
        length, total, window = q.shape[1], k.shape[1], self.config.window
        past = total - length
        if window is None or window >= total:
            if past == 0:
                return _sdpa(q, k, v, is_causal=True)
            if length == 1:
                return _sdpa(q, k, v)
            return _sdpa(q, k, v, mask=_band(length, total, past, total))
        # Blocks of queries against the keys that any of them sees: time and memory O(L · window).
        block = max(window, 64)
        parts = []
        for start in range(0, length, block):
            end = min(start + block, length)
            first, last = max(0, past + start - window + 1), past + end
            mask = _band(end - start, last - first, past + start - first, window)
            parts.append(_sdpa(q[:, start:end], k[:, first:last], v[:, first:last], mask=mask))
        return torch.cat(parts, 1)


def _band(queries: int, keys: int, offset: int, window: int) -> Tensor:
    """Whether query i, at key offset + i, sees key j: at most window - 1 before it, none after."""
    behind = offset + torch.arange(queries)[:, None] - torch.arange(keys)
    return (behind >= 0) & (behind < window)


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    if mask is not None:
        mask = mask.to(q.device)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)
    return y.transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel e together with channel e + E/2."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    one, other = x.to(dtype).chunk(2, dim=-1)
    cos, sin = cos.to(dtype), sin.to(dtype)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1).to(x.dtype)
