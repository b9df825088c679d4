"""S4, the state space mixer with diagonal-plus-low-rank A and HiPPO-LegS start.

Shapes: B batch, L length, D channels, N real numbers of state per channel, K = N/2 conjugate pairs;
H copies of A and B: D, or 1 if tied; F frequencies.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssmlab.core.errors import ConfigError
from ssmlab.mixers.checks import check_positive_int
from ssmlab.mixers.s4d import Mode, Skip, check_lti, start_of_log_dt
from ssmlab.mixers.time_invariant import Discrete, TimeInvariant

# Elements of a (D, K, F) block of Cauchy terms that exist at a time.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class S4Config:
    """S4 (arXiv 2111.00396), A = Λ - P P*, bilinear, started from HiPPO-LegS.

    Attributes:
        d_state: N, real numbers of state per channel, kept as N/2 conjugate pairs.
        tied: all channels share one A and one B; otherwise each has its own. C and Δ are per channel.
        dt_min, dt_max: Δ starts log-uniform in this range, per channel.
        skip_init: start of the skip D: "normal" N(0, 1), or "ones".
        lr: largest peak learning rate of Λ, P, B and Δ, which never decay; None for the model's own.
        mode: over a whole sequence, "conv" (Cauchy kernel and FFT) or "scan" (chunks); same result.
    """

    d_state: int = 64
    tied: bool = False
    dt_min: float = 1e-3
    dt_max: float = 0.1
    skip_init: Skip = "normal"
    lr: float | None = 1e-3
    mode: Mode = "conv"

    def __post_init__(self) -> None:
        check_positive_int("S4Config", d_state=self.d_state)
        check_lti("S4Config", self.dt_min, self.dt_max, self.skip_init, self.lr, self.mode)
        if self.d_state % 2:
            raise ConfigError(
                f"S4Config.d_state={self.d_state}: the state is kept as d_state/2 conjugate pairs, "
                f"so give an even d_state, for example {self.d_state + 1}"
            )


class S4(TimeInvariant):
    """y = SSM(Λ - P P*, B, C, Δ)(x), all of it learned and none of it made from x.

    The kernel is the inverse FFT of its generating function at the roots of unity, four Cauchy sums
    joined by Woodbury's identity. C itself is the parameter, and C̃ = C(1 - Ā^L), which the
    truncation to L taps takes, is made from it: so one set of weights is right for every length, in
    the convolution as in the recurrence. That costs a power of the (N, N) matrices Ā a forward pass.

    Parameters: ``A_log``, ``A_imag`` (H, K), Λ = -exp(A_log) + i A_imag; ``P``, ``B`` (H, K, 2);
    ``C`` (D, K, 2); ``log_dt`` (D,); ``D`` (D,). One of each conjugate pair is kept.

    Arguments:
        config: the switches.
        channels: D.

    Source: arXiv 2111.00396, Theorem 3, Algorithm 1 and appendix C.3. The matrix to invert is
    multiplied out, (1-z) - (1+z)Δ/2 A, so that z = -1 is no special case.
    """

    def __init__(self, config: S4Config, channels: int) -> None:
        super().__init__(channels, config.mode, config.skip_init)
        self.config = config
        copies = 1 if config.tied else channels
        eigenvalues, P, B = hippo_legs(config.d_state)
        self.A_log = nn.Parameter(_copy(-eigenvalues.real, copies).log())
        self.A_imag = nn.Parameter(_copy(eigenvalues.imag, copies))
        self.P = nn.Parameter(_copy(torch.view_as_real(P), copies))
        self.B = nn.Parameter(_copy(torch.view_as_real(B), copies))
        C = torch.randn(channels, config.d_state // 2, dtype=torch.complex64)
        self.C = nn.Parameter(torch.view_as_real(C))
        self.log_dt = nn.Parameter(start_of_log_dt(channels, config.dt_min, config.dt_max))
        self._mark(config.lr, "A_log", "A_imag", "P", "B", "log_dt")

    @property
    def state_size(self) -> int:
        return self.config.d_state

    def kernel(self, length: int) -> Tensor:
        poles, P, B, _, dt = self._factors()
        C = self._truncated(length)
        count = length // 2 + 1
        angle = 2 * math.pi / length * torch.arange(count, dtype=torch.float64, device=dt.device)
        # 1 - z with z = exp(-iθ), in a form that keeps its digits near θ = 0.
        near = (2j * torch.sin(angle / 2) * torch.exp(-0.5j * angle)).to(poles.dtype)
        width = max(1, _BLOCK // C.numel())
        blocks = near.split(width)
        # Blocks of frequencies bound the memory, made again one by one in the backward pass.
        again = len(blocks) > 1 and torch.is_grad_enabled()
        parts: list[Tensor] = []
        for block in blocks:
            given = (block, poles, P, B, C, dt)
            part = (
                checkpoint(_generating_function, *given, use_reentrant=False)
                if again
                else _generating_function(*given)
            )
            assert isinstance(part, Tensor)
            parts.append(part)
        return torch.fft.irfft(torch.cat(parts, 1), n=length, dim=1)

    def discrete(self) -> Discrete:
        """Bilinear Ā (D, N, N) and B̄ (D, N) of the real and imaginary parts of the state, and C."""
        poles, P, B, C, dt = self._factors()
        real, imaginary, p, q = poles.real, poles.imag, P.real, P.imag
        # On (Re h, Im h): Λh, minus P times 2 Re(P* h), the conjugate states being there as well.
        A = torch.cat(
            [
                torch.cat([torch.diag_embed(real), torch.diag_embed(-imaginary)], -1),
                torch.cat([torch.diag_embed(imaginary), torch.diag_embed(real)], -1),
            ],
            -2,
        )
        rows = torch.cat([p, q], -1)
        A = A - 2 * rows.unsqueeze(-1) * rows.unsqueeze(-2)
        half = (dt / 2)[:, None, None] * A
        eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        right = torch.cat([eye + half, (dt[:, None] * _to_rows(B)).unsqueeze(-1)], -1)
        solved = torch.linalg.solve(eye - half, right)
        return Discrete(solved[..., :-1], solved[..., -1], _to_rows(2 * C.conj()))

    def powers(self, discrete: Discrete, steps: int) -> tuple[Tensor, Tensor]:
        # By doubling: from the first m powers to the first 2m by one product with Ā^m.
        reach, read, power = discrete.B.unsqueeze(1), discrete.C.unsqueeze(1), discrete.power
        while read.shape[1] < steps + 1:
            reach = torch.cat([reach, reach @ power.mT], 1)
            read = torch.cat([read, read @ power], 1)
            if read.shape[1] < steps + 1:
                power = power @ power
        return reach[:, :steps], read[:, : steps + 1]

    def advance(self, discrete: Discrete, steps: int, h: Tensor) -> Tensor:
        power = discrete.power if steps == 1 else torch.linalg.matrix_power(discrete.power, steps)
        return h @ power.mT

    def _truncated(self, length: int) -> Tensor:
        """C̃ = C (1 - Ā^L), (D, K)."""
        discrete = self.discrete()
        C = discrete.C.unsqueeze(1)
        rows = (C - C @ torch.linalg.matrix_power(discrete.power, length)).squeeze(1)
        real, imaginary = (rows / 2).chunk(2, dim=-1)
        return torch.complex(real, -imaginary)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Λ, P and B (H, K), C (D, K), all complex, and Δ (D,)."""
        dtype = torch.promote_types(self.log_dt.dtype, torch.float32)
        poles = torch.complex(-self.A_log.to(dtype).exp(), self.A_imag.to(dtype))
        P, B, C = (torch.view_as_complex(v.to(dtype)) for v in (self.P, self.B, self.C))
        return poles, P, B, C, self.log_dt.to(dtype).exp()


def _generating_function(
    one_minus_z: Tensor, poles: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor
) -> Tensor:
    """C (1 - Ā z)^-1 B̄ at the points z, (D, F); C is that of the pairs' first halves.

    (1 - Āz)^-1 B̄ = ((1-z) - (1+z)Δ/2 A)^-1 ΔB, and with w = (1+z)Δ/2, R = ((1-z) - wΛ)^-1,
    the inverse is R - w R P P* R / (1 + w P* R P).
    """
    w = (2 - one_minus_z) * (dt / 2)[:, None]  # (D, F)
    outer, inner = torch.broadcast_tensors(C, P)
    numerators = torch.stack(
        torch.broadcast_tensors(C * B, outer * inner, P.conj() * B, P.conj() * P), -2
    )  # (D, 4, K)
    # A pair adds v / (s - wλ) and its counterpart with v and λ conjugated, z staying as it is.
    w_, s_ = w.unsqueeze(1), one_minus_z
    sums = numerators @ (1 / (s_ - w_ * poles.unsqueeze(-1)))
    sums = sums + numerators.conj() @ (1 / (s_ - w_ * poles.conj().unsqueeze(-1)))
    cb, cp, pb, pp = sums.unbind(1)
    return dt[:, None] * (cb - w * cp * pb / (1 + w * pp))


def hippo_legs(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """HiPPO-LegS as Λ - P P* with normal Λ: Λ, P and B, each (N/2,) complex64.

    A_ij = -√(2i+1)√(2j+1) below the diagonal and -(i+1) on it; adding p pᵀ with p_i = √(i + 1/2)
    leaves -1/2 plus a skew matrix, whose eigenvectors are the basis. Eigenvalues come in conjugate
    pairs, of which those with positive imaginary part are returned.

    Source: arXiv 2111.00396, equation (2) and appendix C.1.
    """
    index = torch.arange(n, dtype=torch.float64)
    root = torch.sqrt(2 * index + 1)
    skew = -0.5 * torch.outer(root, root)
    skew = torch.tril(skew, -1) - torch.tril(skew, -1).mT
    # i times a real skew matrix is Hermitian: real eigenvalues, orthonormal vectors.
    frequencies, vectors = torch.linalg.eigh(-1j * skew)
    keep = slice(n // 2, n)  # ascending, so the second half is positive
    V = vectors[:, keep]
    poles = torch.complex(torch.full((n // 2,), -0.5, dtype=torch.float64), frequencies[keep])
    P = V.conj().mT @ torch.sqrt(index + 0.5).to(V.dtype)
    B = V.conj().mT @ root.to(V.dtype)
    return poles.to(torch.complex64), P.to(torch.complex64), B.to(torch.complex64)


def _to_rows(v: Tensor) -> Tensor:
    return torch.cat([v.real, v.imag], -1)


def _copy(v: Tensor, copies: int) -> Tensor:
    return v.expand(copies, *v.shape).clone()
