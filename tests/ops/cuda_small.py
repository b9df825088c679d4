"""Every kind of kernel on small shapes: a program for compute-sanitizer to watch.

``python -m tests.ops.cuda_small [GROUP ...]`` runs the groups named (all without a name). Kernels are
compiled with line information, so that a report names source lines. Let each tensor have an
allocation of its own, or reads beyond it go unseen: ``PYTORCH_NO_CUDA_MEMORY_CACHING=1``.
"""

import sys

import torch

from ssmlab.ops import add_rms_norm, causal_conv1d, causal_conv1d_update, selective_state_update
from ssmlab.ops._cuda import launch_count
from ssmlab.ops._cuda.compile import OPTIONS
from ssmlab.ops.linear_cross_entropy.cuda import loss_rows
from ssmlab.ops.selective_scan.cuda import fast
from ssmlab.ops.selective_scan.cuda.plan import BackwardPlan, Device, ForwardPlan, all_plans
from tests.ops.selective_scan.cuda_cases import Case, make_case, scan, time_case

DEVICE = "cuda"
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
BOUNDS = [0, 5, 5, 40, 71, 160]


def run_fast(
    case: Case, forward: ForwardPlan | None = None, backward: BackwardPlan | None = None
) -> None:
    """The fast kernels of a case forward and backward."""
    given = (*case.args, case.cu_seqlens, case.softplus)
    y, last, kept = fast.forward(*given, save=True, plan=forward)
    grad_last = torch.ones_like(last)
    fast.backward(torch.ones_like(y), grad_last, kept, *given, plan=backward, reverse_plan=forward)


def whole() -> None:
    """Time in one piece: every layout, aligned rows and others, full tiles and ragged ones."""
    for states, dtype in ((16, BF16), (16, FP32), (4, BF16), (8, FP16), (32, BF16), (64, FP32)):
        run_fast(make_case(2, 64, 72, states, dtype=dtype, device=DEVICE))
    run_fast(make_case(1, 71, 36, 17, dtype=FP16, B="group", device=DEVICE))
    run_fast(make_case(1, 71, 7, 3, device=DEVICE))
    run_fast(make_case(2, 33, 40, extras=False, softplus=False, dtype=BF16, device=DEVICE))
    run_fast(make_case(1, 71, 24, bounds=[0, 5, 5, 40, 71], device=DEVICE))
    for plan in all_plans(Device(), 2)[0]:
        case = make_case(1, 40, 64, 4 * plan.S * plan.WS, dtype=BF16, device=DEVICE)
        fast.forward(*case.args, case.cu_seqlens, case.softplus, save=False, plan=plan)


SPLIT = [
    (ForwardPlan(4, 1, 4, 4, 2, 2, 32), BackwardPlan(1, 4, 16, 1, 200, 56, 2, 32)),
    (ForwardPlan(2, 2, 2, 4, 2, 2, 64), BackwardPlan(1, 4, 8, 2, 0, 0, 2, 64)),
]


def split() -> None:
    """Time split: first chunks beside the others' states, and the reverse pass."""
    for plans in SPLIT:
        run_fast(make_case(2, 150, 64, dtype=BF16, device=DEVICE), *plans)
    run_fast(make_case(1, 71, 7, 3, device=DEVICE), *SPLIT[0])
    run_fast(make_case(1, 160, 40, bounds=BOUNDS, device=DEVICE), *SPLIT[1])
    # More chunks than the kernels scan over themselves.
    run_fast(make_case(1, 600, 8, dtype=BF16, device=DEVICE), *SPLIT[0])


def constant() -> None:
    """B, C or both constant."""
    for B, C in (("constant", "constant"), ("constant", "group"), ("step", "constant")):
        run_fast(make_case(2, 71, 72, dtype=BF16, B=B, C=C, device=DEVICE))
        run_fast(make_case(1, 37, 6, 17, B=B, C=C, device=DEVICE))
        run_fast(make_case(1, 160, 40, B=B, C=C, bounds=BOUNDS, device=DEVICE), *SPLIT[0])


def along_time() -> None:
    """Rows of u, delta, z and y along time, (B, D, L)."""
    for states, dtype in ((16, BF16), (16, FP32), (4, BF16), (8, FP16), (32, BF16), (64, FP32)):
        run_fast(time_case(2, 60, 72, states, dtype=dtype, device=DEVICE))
    run_fast(time_case(1, 68, 24, dtype=FP16, B="group", device=DEVICE))
    run_fast(time_case(2, 36, 40, extras=False, softplus=False, dtype=BF16, device=DEVICE))
    run_fast(time_case(2, 68, 72, dtype=BF16, B="constant", C="constant", device=DEVICE))
    for plans in SPLIT:
        run_fast(time_case(2, 152, 64, dtype=BF16, device=DEVICE), *plans)


def general() -> None:
    """The kernels of complex A, of float64 and of many states."""
    for case in (
        make_case(1, 40, 33, 5, complex_A=True, B="constant", bounds=[0, 9, 40], device=DEVICE),
        make_case(2, 33, 24, complex_A=True, B="group", C="step", device=DEVICE),
        make_case(1, 40, 8, 300, groups=4, device=DEVICE),
        make_case(2, 33, 24, dtype=torch.float64, C="constant", device=DEVICE),
    ):
        leaves, y, last = scan(case)
        torch.autograd.grad((y, last), leaves, (torch.ones_like(y), torch.ones_like(last)))


def convolution() -> None:
    """The convolution, its gradients and its step."""
    for width, channels, dtype in ((4, 64, BF16), (4, 7, BF16), (3, 48, FP32), (9, 24, FP16)):
        x, dy = (torch.ones(2, 37, channels, device=DEVICE, dtype=dtype) for _ in range(2))
        weight, bias = torch.ones(channels, width), torch.ones(channels)
        state = torch.ones(2, width - 1, channels, dtype=dtype)
        leaves = [t.to(DEVICE).requires_grad_() for t in (x, weight, bias, state)]
        torch.autograd.grad(causal_conv1d(*leaves[:3], "silu", leaves[3]), leaves, dy)
        with torch.no_grad():
            causal_conv1d_update(x[:, 0], leaves[3].clone(), *leaves[1:3], "silu")


def step() -> None:
    """The scan's step of decoding, in place."""
    for states, dtype in ((16, BF16), (3, FP32), (130, FP16)):
        batch, channels = 3, 24
        pool = torch.ones(batch, channels, states, device=DEVICE)
        rows = [torch.ones(batch, channels, device=DEVICE, dtype=dtype) for _ in range(3)]
        factors = [torch.ones(batch, 1, states, device=DEVICE, dtype=dtype) for _ in range(2)]
        A = -torch.ones(channels, states, device=DEVICE)
        D, bias = (torch.ones(channels, device=DEVICE) for _ in range(2))
        selective_state_update(pool, *rows[:2], A, *factors, D, rows[2], bias, True)


def norm() -> None:
    """The addition and norm: a warp, several warps and a whole block a row, and any types."""
    for width in (7, 33, 384, 1000, 4096, 16384):
        for types in ((BF16, FP32, FP32, BF16), (FP32, FP32, FP32, FP32), (None, FP16, FP32, BF16)):
            shapes = ((37, width), (37, width), (width,))
            x, residual, weight = (
                None if t is None else torch.ones(s, device=DEVICE, dtype=t).requires_grad_()
                for s, t in zip(shapes, types[:3], strict=True)
            )
            y, total = add_rms_norm(x, residual, weight, 1e-5, types[3])
            leaves = [t for t in (x, residual, weight) if t is not None]
            torch.autograd.grad((y, total), leaves, (torch.ones_like(y), torch.ones_like(total)))


def loss() -> None:
    """The loss of rows of logits, between whose two matrix products it stands."""
    for vocabulary in (1, 7, 4099):
        for dtype in (BF16, FP16, FP32):
            width = -(-vocabulary // 64) * 64
            logits = torch.ones(5, width, device=DEVICE, dtype=dtype)
            targets = torch.tensor([0, vocabulary - 1, -100, vocabulary // 2, 0], device=DEVICE)
            share = torch.full((), 0.25, device=DEVICE)
            for save in (False, True):
                loss_rows(logits, vocabulary, targets, share, -100, save)


_ALL = (whole, split, constant, along_time, general, convolution, step, norm, loss)
GROUPS = {f.__name__: f for f in _ALL}


def main(names: list[str]) -> None:
    """Run the groups and wait for the device."""
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise SystemExit(f"no group {unknown[0]}: {', '.join(GROUPS)}")
    OPTIONS["lineinfo"] = True
    for name in names or GROUPS:
        before = launch_count()
        GROUPS[name]()
        torch.cuda.synchronize()
        print(f"{name}: {launch_count() - before} launches")


if __name__ == "__main__":
    main(sys.argv[1:])
