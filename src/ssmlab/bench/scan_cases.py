"""What the benchmark of the selective scan runs: inputs, the loops it is held against, the passes.

Shapes: B batch, L length, D channels, N state.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.ops import selective_scan

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
LOOP, PUBLISHED_LOOP = "loop", "published"
LOOPS = (LOOP, PUBLISHED_LOOP)
FORWARD, TRAINING_FORWARD, BOTH = "forward", "forward for training", "forward + backward"
PASSES = (FORWARD, TRAINING_FORWARD, BOTH)

_WARM_UP_LENGTH = 64  # more than the steps between two states that a backend keeps


@dataclass(frozen=True)
class Shape:
    """Sizes of a scan: batch B, length L, channels D, states N per channel."""

    batch: int
    length: int
    channels: int
    states: int

    @property
    def elements(self) -> int:
        """B L D N, the states that a scan goes through."""
        return self.batch * self.length * self.channels * self.states


class ScanInputs(NamedTuple):
    """The tensors of a scan as a Mamba block has them: softplus of delta, skip D and gate z fused."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    delta_bias: Tensor

    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self)

    def map(self, function: Callable[[Tensor], Tensor]) -> "ScanInputs":
        return ScanInputs(*map(function, self))


def make_inputs(shape: Shape, dtype: torch.dtype, seed: int = 0) -> ScanInputs:
    """Inputs on the CPU with decays from nearly 0 to nearly 1, as at the start of training.

    u, delta, z, B and C are of ``dtype``; A, D and the bias in fp32, or fp64 with fp64.
    A is -(n+1) and softplus(bias) log-uniform in [0.001, 0.1] (arXiv 2312.00752, section 3.6).
    """
    generator = torch.Generator().manual_seed(seed)
    own = torch.promote_types(dtype, torch.float32)
    B, L, D, N = shape.batch, shape.length, shape.channels, shape.states

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    step = torch.exp(torch.empty(D).uniform_(-6.9078, -2.3026, generator=generator))
    return ScanInputs(
        u=draw(B, L, D),
        delta=draw(B, L, D),
        A=-torch.arange(1, N + 1, dtype=own).repeat(D, 1),
        B=draw(B, L, N),
        C=draw(B, L, N),
        D=torch.ones(D, dtype=own),
        z=draw(B, L, D),
        delta_bias=torch.log(torch.expm1(step)).to(own),
    )


def loop(x: ScanInputs) -> Tensor:
    """The scan as one would write it with torch operations, step by step; y (B, L, D).

    The steps are taken apart by ``unbind`` and put together by ``stack``, whose gradients are one
    operation each. Indexing by time instead makes the backward pass quadratic in L, since every
    index has a gradient of the full size, and would flatter whatever is compared with it.
    """
    dtype = torch.promote_types(x.u.dtype, torch.float32)
    u = x.u.to(dtype)
    delta = F.softplus(x.delta.to(dtype) + x.delta_bias)
    steps = (t.to(dtype).unbind(1) for t in (u, delta, delta * u, x.B, x.C))
    h = u.new_zeros(u.shape[0], *x.A.shape)
    ys = []
    for _, delta_t, fed_t, B_t, C_t in zip(*steps, strict=True):
        decay = torch.exp(delta_t.unsqueeze(-1) * x.A)
        h = decay * h + fed_t.unsqueeze(-1) * B_t.unsqueeze(1)
        ys.append((h * C_t.unsqueeze(1)).sum(-1))
    y = torch.stack(ys, 1) + u * x.D
    return (y * F.silu(x.z.to(dtype))).to(x.u.dtype)


def published_loop(x: ScanInputs) -> Tensor:
    """The scan in the form in which the reference code of Mamba is published; y (B, L, D).

    What no step needs of the one before it is made for all steps first: decays and inputs of the
    states, (B, D, L, N) each. Steps are taken apart by ``unbind`` for the reason given in ``loop``.
    """
    dtype = torch.promote_types(x.u.dtype, torch.float32)
    u, z = (t.to(dtype).transpose(1, 2) for t in (x.u, x.z))
    delta = F.softplus((x.delta.to(dtype) + x.delta_bias).transpose(1, 2))
    B, C = x.B.to(dtype), x.C.to(dtype)
    decays = torch.exp(torch.einsum("bdl,dn->bdln", delta, x.A))
    fed = torch.einsum("bdl,bln,bdl->bdln", delta, B, u)
    h = u.new_zeros(u.shape[0], *x.A.shape)
    ys = []
    for decay, fed_t, C_t in zip(decays.unbind(2), fed.unbind(2), C.unbind(1), strict=True):
        h = decay * h + fed_t
        ys.append(torch.einsum("bdn,bn->bd", h, C_t))
    y = torch.stack(ys, 2) + u * x.D.unsqueeze(-1)
    return (y * F.silu(z)).transpose(1, 2).to(x.u.dtype)


def scan(backend: str, x: ScanInputs) -> Tensor:
    """y of ``backend``, or of a loop."""
    if backend in LOOPS:
        return loop(x) if backend == LOOP else published_loop(x)
    return selective_scan(*x, delta_softplus=True, backend=backend)


def make_call(
    backend: str, pass_: str, x: ScanInputs, grad_y: Tensor
) -> Callable[[], Tensor | tuple[Tensor, ...]]:
    """The call that runs one pass of one backend and returns y, or gradients if it goes back."""
    leaves = x.map(lambda tensor: tensor.detach().requires_grad_())

    def forward() -> Tensor:
        with torch.no_grad():
            return scan(backend, x)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(scan(backend, leaves), leaves, grad_y)

    if pass_ == FORWARD:
        return forward
    return functools.partial(scan, backend, leaves) if pass_ == TRAINING_FORWARD else both


def prepare(shape: dict[str, int], dtype: str, backend: str, pass_: str) -> Callable[[], Any]:
    """For the memory probe: the inputs made, the code compiled, the call to measure."""
    full = Shape(**shape)
    short = Shape(**{**shape, "length": min(full.length, _WARM_UP_LENGTH)})
    call = None
    for size in (short, full):
        inputs = make_inputs(size, DTYPES[dtype])
        call = make_call(backend, pass_, inputs, torch.ones_like(inputs.u))
        if size is short:
            call()
    assert call is not None
    return call
