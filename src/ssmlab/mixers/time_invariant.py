"""What time-invariant state space mixers share: convolution, chunked scan, one step, packing.

Shapes: B batch, L length, D channels, N real numbers of state per channel, T steps of a chunk.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmlab.mixers.linear import mark_learning_rate, mark_no_weight_decay
from ssmlab.mixers.packing import full_precision, run_packed
from ssmlab.ops import fft_conv
from ssmlab.ops._filters import toeplitz_matrix, with_skip

_CHUNK = 64


class Discrete(NamedTuple):
    """h_t = Ā h_{t-1} + B̄ x_t, y_t = C h_t, in real numbers.

    Attributes:
        power: Ā as the mixer keeps it, (D, K) where it is diagonal, else (D, N, N).
        B: B̄, (D, N).
        C: (D, N).
    """

    power: Tensor
    B: Tensor
    C: Tensor


class TimeInvariant(nn.Module):
    """y = k * x + D x, gated by silu(z), with k_t = C Ā^t B̄.

    Over a whole sequence it is one FFT convolution ("conv"), or a scan over chunks ("scan"), which
    also goes on from a state and gives the last one. Both give the same result; where a state is
    given or wanted the scan is taken. The state is (B, D, N) real numbers, complex ones as all real
    parts and then all imaginary parts.

    A mixer below gives ``kernel``, ``discrete``, ``powers`` and ``advance``.
    """

    def __init__(self, channels: int, mode: str, skip_init: str) -> None:
        super().__init__()
        self.mode = mode
        skip = torch.randn(channels) if skip_init == "normal" else torch.ones(channels)
        self.D = mark_no_weight_decay(nn.Parameter(skip))
        self._cache: tuple[object, Discrete] | None = None

    def kernel(self, length: int) -> Tensor:
        """k_0 ... k_{L-1}, (D, L), in the computing dtype."""
        raise NotImplementedError

    def whole_filter(self, length: int) -> Tensor | None:
        """All that the mixer does to a whole sequence without a state: the taps (D, L), the skip in
        the first of them; None where that is not a convolution (mode "scan")."""
        return with_skip(self.kernel(length), self.D) if self.mode == "conv" else None

    def discrete(self) -> Discrete:
        """Ā, B̄ and C."""
        raise NotImplementedError

    def powers(self, discrete: Discrete, steps: int) -> tuple[Tensor, Tensor]:
        """Ā^t B̄ for t = 0 ... T-1, (D, T, N), and C Ā^t for t = 0 ... T, (D, T+1, N)."""
        raise NotImplementedError

    def advance(self, discrete: Discrete, steps: int, h: Tensor) -> Tensor:
        """Ā^steps h for h (D, B, N)."""
        raise NotImplementedError

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
            state: (B, D, N) before the first step; zeros if not given. With ``cu_seqlens`` (S, D, N).
            return_state: return the state after the last step too.
            cu_seqlens: (S+1,) int32 offsets of S sequences packed along L, with B = 1; they are run
                one after another.

        Returns:
            y (B, L, D) in x's dtype, or (y, state); the state is fp32, or fp64 for fp64 parameters.
        """
        if cu_seqlens is not None:
            return run_packed(self, (x, z), state, return_state, cu_seqlens)
        with full_precision(x.device):
            if state is None and not return_state and self.mode == "conv":
                y, last = fft_conv(x, self.kernel(x.shape[1]), self.D), None
            else:
                y, last = self.scan(x, state)
            y = gate(y, z, x.dtype)
        return y if not return_state or last is None else (y, last)

    def scan(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """y (B, L, D) and the last state (B, D, N): matrix products within chunks of T steps, and a
        recurrence from chunk to chunk."""
        batch, length, channels = x.shape
        discrete = self.discrete()
        dtype = torch.promote_types(discrete.B.dtype, x.dtype)
        steps = min(_CHUNK, 1 << (length - 1).bit_length())
        chunks = -(-length // steps)
        reach, read = (m.to(dtype) for m in self.powers(discrete, steps))
        into = reach.flip(1)  # (D, T, N): from step t to the end of its chunk

        wide = F.pad(x.to(dtype), (0, 0, 0, chunks * steps - length))
        wide = wide.view(batch, chunks, steps, channels).permute(3, 0, 1, 2)  # (D, B, chunks, T)
        added = torch.einsum("dbct,dtn->cdbn", wide, into)
        if state is None:
            h = added.new_zeros(channels, batch, added.shape[-1])
        else:
            h = state.to(dtype).transpose(0, 1)
        before = []
        for chunk in range(chunks):
            before.append(h)
            if chunk + 1 < chunks:
                h = self.advance(discrete, steps, h) + added[chunk]
        rest = length - (chunks - 1) * steps  # the last chunk may be short
        h = self.advance(discrete, rest, h) + torch.einsum(
            "dbt,dtn->dbn", wide[:, :, -1, :rest], into[:, steps - rest :]
        )

        taps = torch.einsum("dn,dtn->dt", read[:, 0], reach)
        y = torch.einsum("dbct,dst->bcsd", wide, toeplitz_matrix(taps, steps))
        y = y + torch.einsum("cdbn,dsn->bcsd", torch.stack(before), read[:, 1:])
        y = y.reshape(batch, chunks * steps, channels)[:, :length]
        return y + self.D.to(dtype) * x.to(dtype), h.transpose(0, 1)

    def step(self, x: Tensor, state: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step of decoding: x (B, D), state (B, D, N) -> y (B, D), state (B, D, N)."""
        with full_precision(x.device):
            discrete = self._discrete_for_decoding()
            wide = x.to(torch.promote_types(discrete.B.dtype, x.dtype))
            h = self.advance(discrete, 1, state.transpose(0, 1)).transpose(0, 1)
            h = h + wide.unsqueeze(-1) * discrete.B
            y = (h * discrete.C).sum(-1) + self.D.to(wide.dtype) * wide
            return gate(y, z, x.dtype), h

    def init_state(
        self, batch_size: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Zeros (B, D, N) in fp32 (fp64 for fp64 parameters), whatever ``dtype`` activations have."""
        kind = torch.promote_types(self.D.dtype, torch.float32)
        shape = (batch_size, self.D.shape[0], self.state_size)
        return torch.zeros(shape, device=device or self.D.device, dtype=kind)

    @property
    def state_size(self) -> int:
        """N."""
        raise NotImplementedError

    def _discrete_for_decoding(self) -> Discrete:
        """The discretisation, kept from step to step while no gradient is wanted and no parameter
        has changed."""
        if torch.is_grad_enabled():
            return self.discrete()
        key = tuple((p.data_ptr(), p._version, p.dtype, p.device) for p in self.parameters())
        if self._cache is None or self._cache[0] != key:
            self._cache = (key, self.discrete())
        return self._cache[1]

    def _mark(self, lr: float | None, *names: str) -> None:
        """Parameters of the dynamics: no weight decay, and a learning rate of their own."""
        for name in names:
            parameter = getattr(self, name)
            if parameter is not None:
                mark_no_weight_decay(parameter)
                if lr is not None:
                    mark_learning_rate(parameter, lr)


def gate(y: Tensor, z: Tensor | None, dtype: torch.dtype) -> Tensor:
    """y times silu(z) where there is a z, as ``dtype``."""
    if z is not None:
        y = y * F.silu(z.to(torch.promote_types(z.dtype, torch.float32)))
    return y.to(dtype)
