"""S4D, the diagonal time-invariant state space mixer.

Shapes: B batch, L length, D channels, N real numbers of state per channel, K what they are kept
as: N real states, or N/2 complex ones that stand for conjugate pairs; H copies of A and B: D, or 1
if tied.
"""

import math
import typing
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_choice, check_positive_float, check_positive_int
from ssmlab.mixers.time_invariant import Discrete, TimeInvariant

S4DInit = Literal[
    "s4d-lin", "s4d-lin-printed", "s4d-inv", "random-complex", "s4d-real", "constant", "random"
]
Mode = Literal["conv", "scan"]
Skip = Literal["normal", "ones"]
REAL_INITS: tuple[str, ...] = ("s4d-real", "constant", "random")


@dataclass(frozen=True)
class S4DConfig:
    """S4D (arXiv 2206.11893).

    Attributes:
        d_state: N, real numbers of state per channel; a complex A keeps N/2 conjugate pairs.
        a_init: start value of A_n. Complex: "s4d-lin" -1/2 + iπn; "s4d-lin-printed" -1/2 + in, as
            Table 8 of the Mamba paper prints it; "s4d-inv" -1/2 + i(N/π)(N/(2n+1) - 1);
            "random-complex" -1/2 + iπ times numbers drawn from [0, N/2), the range of "s4d-lin".
            Real: "s4d-real" -(n+1); "constant" -1/2; "random" -exp(N(0,1)).
        discretisation: "zoh" or "bilinear".
        tied: all channels share one A and one B; otherwise each has its own. C and Δ are per channel.
        dt_min, dt_max: Δ starts log-uniform in this range, per channel.
        skip_init: start of the skip D: "normal" N(0, 1), or "ones".
        lr: largest peak learning rate of A, B and Δ, which never decay; None for the model's own.
        mode: over a whole sequence, "conv" (FFT) or "scan" (chunks); the result is the same.
    """

    d_state: int = 64
    a_init: S4DInit = "s4d-lin"
    discretisation: Literal["zoh", "bilinear"] = "zoh"
    tied: bool = False
    dt_min: float = 1e-3
    dt_max: float = 0.1
    skip_init: Skip = "normal"
    lr: float | None = 1e-3
    mode: Mode = "conv"

    def __post_init__(self) -> None:
        check_positive_int("S4DConfig", d_state=self.d_state)
        check_choice("S4DConfig", "a_init", self.a_init, typing.get_args(S4DInit))
        check_choice("S4DConfig", "discretisation", self.discretisation, ("zoh", "bilinear"))
        check_lti("S4DConfig", self.dt_min, self.dt_max, self.skip_init, self.lr, self.mode)
        if self.is_complex and self.d_state % 2:
            raise ConfigError(
                f"S4DConfig.d_state={self.d_state} with the complex a_init={self.a_init!r}: the "
                f"state is kept as d_state/2 conjugate pairs, so give an even d_state, for example "
                f"{self.d_state + 1}, or a real a_init ({', '.join(map(repr, REAL_INITS))})"
            )

    @property
    def is_complex(self) -> bool:
        """Whether A, B, C and the state are complex."""
        return self.a_init not in REAL_INITS


class S4D(TimeInvariant):
    """y = SSM(A, B, C, Δ)(x) with diagonal A, all of it learned and none of it made from x.

    Parameters: ``A_log`` (H, K), Re A = -exp(A_log); ``A_imag`` (H, K) for a complex A; ``B`` (H, K),
    ``C`` (D, K), complex ones (…, K, 2); ``log_dt`` (D,); ``D`` (D,).

    Arguments:
        config: the switches.
        channels: D.

    Source: arXiv 2206.11893, sections 3 and 4 (Vandermonde kernel, start values); Algorithm 1 of
    arXiv 2312.00752.
    """

    def __init__(self, config: S4DConfig, channels: int) -> None:
        super().__init__(channels, config.mode, config.skip_init)
        self.config = config
        copies = 1 if config.tied else channels
        decay, frequency = start_of_A(config, copies)
        self.A_log = nn.Parameter(decay.log())
        self.A_imag = None if frequency is None else nn.Parameter(frequency)
        self.B = nn.Parameter(_start_of_B(decay, config.is_complex))
        kind = torch.complex64 if config.is_complex else torch.float32
        C = torch.randn(channels, decay.shape[1], dtype=kind)  # complex: of variance 1 in all
        self.C = nn.Parameter(torch.view_as_real(C) if config.is_complex else C)
        self.log_dt = nn.Parameter(start_of_log_dt(channels, config.dt_min, config.dt_max))
        self._mark(config.lr, "A_log", "A_imag", "B", "log_dt")

    @property
    def state_size(self) -> int:
        return self.config.d_state

    def kernel(self, length: int) -> Tensor:
        """k_t = Re Σ_n w C_n B̄_n Ā_n^t (w = 2 for pairs, else 1), (D, L).

        With t = a + sb, s about √L, the powers factor into those of a and of sb: 2√L exponentials a
        state in place of L, and a matrix product a channel in place of a (D, N, L) tensor.
        """
        log_power, B, C = self._poles()
        fine = 1 << ((length - 1).bit_length() + 1) // 2
        coarse = -(-length // fine)
        weight = 2 if self.config.is_complex else 1
        first = self._raise(log_power, torch.arange(fine, device=B.device))
        second = self._raise(log_power, fine * torch.arange(coarse, device=B.device))
        second = (weight * B * C).unsqueeze(-1) * second
        k = torch.bmm(_to_rows(second.conj(), 1).transpose(1, 2), _to_rows(first, 1))
        return k.flatten(1)[:, :length]

    def discrete(self) -> Discrete:
        """log Ā (D, K), and B̄ and C as they act on the real numbers of the state."""
        log_power, B, C = self._poles()
        weight = 2 if self.config.is_complex else 1
        return Discrete(log_power, _to_rows(B, 1), _to_rows(weight * C.conj(), 1))

    def powers(self, discrete: Discrete, steps: int) -> tuple[Tensor, Tensor]:
        power = self._raise(discrete.power, torch.arange(steps + 1, device=discrete.B.device))
        reach = power[..., :steps] * self._from_rows(discrete.B).unsqueeze(-1)
        read = power.conj() * self._from_rows(discrete.C).unsqueeze(-1)
        return _to_rows(reach, 1).transpose(1, 2), _to_rows(read, 1).transpose(1, 2)

    def advance(self, discrete: Discrete, steps: int, h: Tensor) -> Tensor:
        # Filled on the device: a copy from the host could not be recorded in a CUDA graph.
        power = self._raise(discrete.power, torch.full((1,), steps, device=h.device))
        return _to_rows(power.transpose(1, 2) * self._from_rows(h), -1)

    def _poles(self) -> tuple[Tensor, Tensor, Tensor]:
        """log Ā (D, K), B̄ (D, K) and C (D, K). Of a real Ā that is negative, as bilinear ones may
        be, the logarithm is complex, with imaginary part π."""
        dtype = torch.promote_types(self.log_dt.dtype, torch.float32)
        dt = self.log_dt.to(dtype).exp().unsqueeze(1)
        A = -self.A_log.to(dtype).exp()
        if self.A_imag is not None:
            A = torch.complex(A, self.A_imag.to(dtype))
        B, C = (_as_complex(v.to(dtype), self.config.is_complex) for v in (self.B, self.C))
        x = dt * A
        if self.config.discretisation == "zoh":
            return x, torch.expm1(x) / A * B, C
        ratio, B = (1 + x / 2) / (1 - x / 2), dt * B / (1 - x / 2)
        if self.config.is_complex:
            return ratio.log(), B, C
        # The floor matters only where Ā is exactly zero.
        magnitude = ratio.abs().clamp_min(torch.finfo(dtype).tiny).log()
        return torch.complex(magnitude, math.pi * (ratio < 0).to(dtype)), B, C

    def _raise(self, log_power: Tensor, exponents: Tensor) -> Tensor:
        """Ā^t (D, K, T) for whole exponents t (T,)."""
        if log_power.is_complex() and not self.config.is_complex:
            size = torch.exp(log_power.real.unsqueeze(-1) * exponents)
            odd = (log_power.imag.unsqueeze(-1) > 0) & (exponents % 2 == 1)
            return torch.where(odd, -size, size)
        return torch.exp(log_power.unsqueeze(-1) * exponents)

    def _from_rows(self, v: Tensor) -> Tensor:
        """(..., N) real numbers -> (..., K)."""
        if not self.config.is_complex:
            return v
        real, imaginary = v.chunk(2, dim=-1)
        return torch.complex(real, imaginary)


def _to_rows(v: Tensor, dim: int) -> Tensor:
    """Complex numbers as all real parts, then all imaginary ones, along ``dim``."""
    return torch.cat([v.real, v.imag], dim) if v.is_complex() else v


def _as_complex(v: Tensor, is_complex: bool) -> Tensor:
    return torch.view_as_complex(v) if is_complex else v


def _start_of_B(like: Tensor, is_complex: bool) -> Tensor:
    one = torch.ones_like(like)
    return torch.stack([one, torch.zeros_like(one)], -1) if is_complex else one


def start_of_A(config: S4DConfig, copies: int) -> tuple[Tensor, Tensor | None]:
    """Start values of -Re A (H, K) and, for a complex A, of Im A (H, K)."""
    n = config.d_state
    count = n // 2 if config.is_complex else n
    index = torch.arange(count, dtype=torch.float32).repeat(copies, 1)
    half = torch.full((copies, count), 0.5)
    match config.a_init:
        case "s4d-real":
            return index + 1, None
        case "constant":
            return half, None
        case "random":
            return torch.exp(torch.randn(copies, count)), None
        case "s4d-lin":
            return half, math.pi * index
        case "s4d-lin-printed":
            return half, index
        case "s4d-inv":
            return half, n / math.pi * (n / (2 * index + 1) - 1)
    return half, math.pi * count * torch.rand(copies, count)


def start_of_log_dt(channels: int, low: float, high: float) -> Tensor:
    """log Δ (D,), uniform between the logarithms of ``low`` and ``high``."""
    return math.log(low) + torch.rand(channels) * (math.log(high) - math.log(low))


def check_lti(
    owner: str, dt_min: float, dt_max: float, skip_init: str, lr: float | None, mode: str
) -> None:
    """The checks that configs of time-invariant state space mixers share."""
    check_positive_float(owner, dt_min=dt_min, dt_max=dt_max)
    if dt_min > dt_max:
        raise ConfigError(
            f"{owner}: dt_min={dt_min} is above dt_max={dt_max}; give dt_min <= dt_max"
        )
    check_choice(owner, "skip_init", skip_init, typing.get_args(Skip))
    check_choice(owner, "mode", mode, typing.get_args(Mode))
    if lr is not None:
        check_positive_float(owner, lr=lr)
