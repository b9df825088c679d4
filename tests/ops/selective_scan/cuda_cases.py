"""Random arguments of the selective scan, and a comparison of a backend with float64."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssmlab.ops import _cuda
from ssmlab.ops.selective_scan import selective_scan
from ssmlab.ops.selective_scan.reference import scan_reference

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
# Relative error of a tensor's norm: results are rounded to the input's type.
TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.bfloat16: 4e-3,
    torch.float16: 1e-3,
}


@dataclass
class Case:
    """Arguments by name, and the last two of the operator."""

    tensors: dict[str, Tensor | None]
    cu_seqlens: Tensor | None
    softplus: bool
    grads: dict[str, Tensor] = field(default_factory=dict)

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments in the operator's order, without the switches."""
        return tuple(self.tensors[name] for name in NAMES)


def scan(case: Case, backend: str = "cuda") -> tuple[list[Tensor], Tensor, Tensor]:
    """The arguments that are there, as leaves of a graph, in the operator's order; y; last state."""
    args = [None if t is None else t.detach().requires_grad_() for t in case.args]
    u, delta, A, B, C, D, z, bias, state = args
    y, last = selective_scan(
        u, delta, A, B, C, D, z, bias, case.softplus, state,
        return_last_state=True, cu_seqlens=case.cu_seqlens, backend=backend,
    )  # fmt: skip
    return [t for t in args if t is not None], y, last


def make_case(
    batch: int = 2,
    length: int = 33,
    channels: int = 24,
    states: int = 16,
    *,
    dtype: torch.dtype = torch.float32,
    complex_A: bool = False,
    B: str = "step",
    C: str = "step",
    groups: int = 2,
    extras: bool = True,
    softplus: bool = True,
    bounds: list[int] | None = None,
    device: str = "cuda",
    seed: int = 0,
) -> Case:
    """Random arguments; B and C are "constant", "step" or "group"."""
    generator = torch.Generator(device).manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    value = {torch.float32: torch.complex64, torch.float64: torch.complex128}[wide]

    def normal(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device=device).to(
            dtype
        )

    def factor(kind: str) -> Tensor:
        kinds = dtype if not complex_A else value
        shapes = {
            "constant": (channels, states),
            "step": (batch, length, states),
            "group": (batch, length, groups, states),
        }
        if kind == "constant" and not complex_A:
            kinds = wide
        if complex_A:
            return torch.complex(normal(*shapes[kind]).double(), normal(*shapes[kind]).double()).to(
                kinds
            )
        return normal(*shapes[kind], dtype=kinds)

    A = -torch.rand(channels, states, generator=generator, dtype=torch.float64, device=device) * 4
    A = A - 0.05
    if complex_A:
        A = torch.complex(A, 3 * normal(channels, states, dtype=torch.float64)).to(value)
    sequences = batch if bounds is None else len(bounds) - 1
    state = normal(sequences, channels, states, dtype=wide)
    if complex_A:
        state = torch.complex(state, normal(sequences, channels, states, dtype=wide))
    delta = normal(batch, length, channels) if softplus else normal(batch, length, channels).abs()
    return Case(
        {
            "u": normal(batch, length, channels),
            "delta": delta,
            "A": A if complex_A else A.to(wide),
            "B": factor(B),
            "C": factor(C),
            "D": normal(channels, dtype=wide) if extras else None,
            "z": normal(batch, length, channels) if extras else None,
            "delta_bias": normal(channels, dtype=wide) - 2 if extras and softplus else None,
            "initial_state": state if extras else None,
        },
        None if bounds is None else torch.tensor(bounds, dtype=torch.int32, device=device),
        softplus,
    )


def turned(x: Tensor) -> Tensor:
    """The same (B, L, D) numbers, in memory as (B, D, L)."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def time_case(*args: Any, names: tuple[str, ...] = ("u", "delta", "z"), **kwargs: Any) -> Case:
    """``make_case`` with the tensors ``names`` turned."""
    case = make_case(*args, **kwargs)
    for name in names:
        x = case.tensors[name]
        case.tensors[name] = None if x is None else turned(x)
    return case


def reference(case: Case, grad_y: Tensor, grad_last: Tensor | None) -> tuple[Tensor, ...]:
    """y, last state and gradients in float64, on the CPU and by plain torch."""

    def wide(t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        kind = torch.complex128 if t.is_complex() else torch.float64
        return t.detach().to("cpu", kind).requires_grad_()

    args = [wide(t) for t in case.args]
    cu = None if case.cu_seqlens is None else case.cu_seqlens.cpu()
    y, last = scan_reference(*args, cu, case.softplus)  # type: ignore[arg-type]
    total = (y * grad_y.cpu().double()).sum()
    if grad_last is not None:
        other = grad_last.cpu().to(last.dtype)
        total = total + (last.real * other.real).sum()
        if last.is_complex():
            total = total + (last.imag * other.imag).sum()
    grads = torch.autograd.grad(total, [t for t in args if t is not None])
    return (y.detach(), last.detach(), *grads)


def error(got: Tensor, expected: Tensor) -> float:
    """Relative error in the norm; NaN anywhere gives NaN."""
    got = got.detach().to("cpu", expected.dtype)
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def run(case: Case, grad_y: Tensor, grad_last: Tensor | None) -> tuple[Tensor, ...]:
    """y, the last state and the gradients of all tensors that are there."""
    leaves, y, last = scan(case)
    outputs, seeds = (y,), (grad_y.to(y.dtype),)
    if grad_last is not None:
        outputs, seeds = (y, last), (*seeds, grad_last.to(last.dtype))
    grads = torch.autograd.grad(outputs, leaves, seeds)
    return (y.detach(), last.detach(), *grads)


def compare(case: Case, dtype: torch.dtype, with_last: bool = True) -> None:
    """Compare y, the last state and all gradients with float64."""
    u, A = case.tensors["u"], case.tensors["A"]
    assert u is not None
    assert A is not None
    generator = torch.Generator("cuda").manual_seed(7)
    grad_y = torch.randn(u.shape, generator=generator, device="cuda").to(u.dtype)
    sequences = u.shape[0] if case.cu_seqlens is None else case.cu_seqlens.shape[0] - 1
    grad_last = None
    if with_last:
        kind = torch.complex64 if A.is_complex() else torch.float32
        grad_last = torch.randn(sequences, *A.shape, generator=generator, device="cuda", dtype=kind)
    launched = _cuda.launch_count()
    got = run(case, grad_y, grad_last)
    assert _cuda.launch_count() > launched
    expected = reference(case, grad_y, grad_last)
    names = ["y", "last", *(n for n in NAMES if case.tensors[n] is not None)]
    errors = {n: error(g, e) for n, g, e in zip(names, got, expected, strict=True)}
    wrong = {n: e for n, e in errors.items() if not e < TOLERANCE[dtype]}
    assert not wrong, f"relative errors {wrong} of {errors}"
