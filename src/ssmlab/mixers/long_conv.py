"""The implicit long convolution of Hyena: a filter as long as the sequence, made by a small network.

Shapes: B batch, L length, D channels, P past inputs.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_positive_float, check_positive_int
from ssmlab.mixers.linear import mark_learning_rate, mark_no_weight_decay
from ssmlab.mixers.packing import full_precision, run_packed
from ssmlab.mixers.time_invariant import gate
from ssmlab.ops import fft_conv
from ssmlab.ops._filters import with_skip


@dataclass(frozen=True)
class LongConvConfig:
    """Filter network and window of the implicit convolution (arXiv 2302.10866, section 3.3).

    Attributes:
        l_max: length of the longest sequence; time runs from 0 to 1 over it. Longer ones are refused.
        filter_width: width of the network's hidden layers.
        n_hidden: hidden layers after the first.
        n_features: features of time: t itself and (n_features - 1) / 2 cosines and sines; odd.
        sine_frequency: start of the frequencies of the sine activations, which are learned.
        window_fast, window_slow: share of l_max within which the fastest and the slowest channel's
            window falls to ``window_target``.
        window_target: see above.
        lr: largest peak learning rate of the filter network, which never decays; None for the
            model's own.
    """

    l_max: int = 2048
    filter_width: int = 64
    n_hidden: int = 2
    n_features: int = 33
    sine_frequency: float = 14.0
    window_fast: float = 0.3
    window_slow: float = 1.5
    window_target: float = 0.01
    lr: float | None = 1e-3

    def __post_init__(self) -> None:
        owner = "LongConvConfig"
        check_positive_int(
            owner,
            l_max=self.l_max,
            filter_width=self.filter_width,
            n_features=self.n_features,
        )
        count = self.n_hidden
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ConfigError(f"{owner}.n_hidden: expected a whole number >= 0, got {count!r}")
        check_positive_float(
            owner,
            sine_frequency=self.sine_frequency,
            window_fast=self.window_fast,
            window_slow=self.window_slow,
            window_target=self.window_target,
        )
        if self.n_features % 2 == 0:
            raise ConfigError(
                f"{owner}.n_features={self.n_features}: t and pairs of cosine and sine; give an odd "
                f"number, for example {self.n_features + 1}"
            )
        if self.window_target >= 1:
            raise ConfigError(
                f"{owner}.window_target: expected a number in (0, 1), got {self.window_target}"
            )
        if self.lr is not None:
            check_positive_float(owner, lr=self.lr)


class LongConv(nn.Module):
    """y = k * x + D x, gated by silu(z); k = window · network(features of time).

    No recurrence of fixed size gives this filter. Decoding keeps all past inputs, and a step costs
    as much as one output of the sum: O(L D) time and memory.

    Parameters: ``network`` (linear maps and sine frequencies), ``D`` (D,), which starts N(0, 1).

    Arguments:
        config: the filter.
        channels: D.

    Source: arXiv 2302.10866, section 3.3 and appendix D; in the terms of the Mamba paper
    (section 2), the global convolution that stands in S4's place.
    """

    deltas: Tensor

    def __init__(self, config: LongConvConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        width = config.filter_width
        layers: list[nn.Module] = [nn.Linear(config.n_features, width)]
        for _ in range(config.n_hidden):
            layers += [_Sine(width, config.sine_frequency), nn.Linear(width, width)]
        layers += [_Sine(width, config.sine_frequency), nn.Linear(width, channels, bias=False)]
        self.network = nn.Sequential(*layers)
        for parameter in self.network.parameters():
            mark_no_weight_decay(parameter)
            if config.lr is not None:
                mark_learning_rate(parameter, config.lr)
        self.D = mark_no_weight_decay(nn.Parameter(torch.randn(channels)))
        rate = -math.log(config.window_target)
        deltas = torch.linspace(rate / config.window_slow, rate / config.window_fast, channels)
        self.register_buffer("deltas", deltas, persistent=False)
        self._cache: tuple[object, Tensor] | None = None

    def kernel(self, length: int) -> Tensor:
        """The first ``length`` taps, (D, L), in fp32 (fp64 for fp64 parameters).

        Raises:
            ValueError: length above l_max.
        """
        config = self.config
        if length > config.l_max:
            raise ValueError(
                f"{type(self).__name__}: a sequence of {length} steps, expected at most l_max = "
                f"{config.l_max}: the filter has no taps beyond; set a larger l_max"
            )
        dtype = torch.promote_types(self.D.dtype, torch.float32)
        step = torch.arange(length, dtype=dtype, device=self.D.device).unsqueeze(1)
        bands = (config.n_features - 1) // 2
        time = step / max(1, config.l_max - 1)
        # Frequencies from almost none to one below the number of bands, in turns over l_max.
        turns = torch.linspace(1e-4, max(bands - 1, 1e-4), bands, dtype=dtype, device=step.device)
        angle = 2 * math.pi / config.l_max * step * turns
        features = torch.cat([time, angle.cos(), -angle.sin()], 1)
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                bias = None if layer.bias is None else layer.bias.to(dtype)
                features = F.linear(features, layer.weight.to(dtype), bias)
            else:
                features = layer(features)
        return (features * torch.exp(-time * self.deltas.to(dtype))).t()

    def whole_filter(self, length: int) -> Tensor:
        """All that the mixer does to a whole sequence without past inputs: the taps (D, L), the skip
        in the first of them."""
        return with_skip(self.kernel(length), self.D)

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
            state: (B, P, D), all inputs before the first step; none if not given.
            return_state: return all inputs, (B, P+L, D), too.
            cu_seqlens: (S+1,) int32 offsets of S sequences packed along L, with B = 1; they are run
                one after another, and can give a state only if they are of one length.

        Returns:
            y (B, L, D) in x's dtype, or (y, state).

        Raises:
            ValueError: more than l_max steps, those of the state included.
        """
        if cu_seqlens is not None:
            return run_packed(self, (x, z), state, return_state, cu_seqlens)
        inputs = x if state is None else torch.cat([state.to(x.dtype), x], 1)
        with full_precision(x.device):
            y = fft_conv(inputs, self.kernel(inputs.shape[1]), self.D)[:, -x.shape[1] :]
            y = gate(y, z, x.dtype)
        return (y, inputs) if return_state else y

    def step(self, x: Tensor, state: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step of decoding: x (B, D), state (B, P, D) -> y (B, D), state (B, P+1, D)."""
        inputs = torch.cat([state.to(x.dtype), x.unsqueeze(1)], 1)
        with full_precision(x.device):
            taps = self._taps_for_decoding(inputs.shape[1])
            wide = inputs.to(torch.promote_types(taps.dtype, x.dtype))
            y = torch.einsum("bpd,dp->bd", wide, taps.flip(1).to(wide.dtype))
            y = y + self.D.to(wide.dtype) * wide[:, -1]
            return gate(y, z, x.dtype), inputs

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """No inputs yet: (B, 0, D)."""
        shape = (batch_size, 0, self.D.shape[0])
        return torch.zeros(shape, device=device or self.D.device, dtype=dtype or self.D.dtype)

    def _taps_for_decoding(self, length: int) -> Tensor:
        """``kernel(length)``; while no gradient is wanted and no parameter has changed, a part of the
        whole filter, made once."""
        if torch.is_grad_enabled() or length > self.config.l_max:
            return self.kernel(length)
        key = tuple((p.data_ptr(), p._version, p.dtype, p.device) for p in self.parameters())
        if self._cache is None or self._cache[0] != key:
            self._cache = (key, self.kernel(self.config.l_max))
        return self._cache[1][:, :length]


class _Sine(nn.Module):
    """sin(frequency · x), a learned frequency a feature."""

    def __init__(self, width: int, frequency: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.full((width,), frequency))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency.to(x.dtype) * x)
