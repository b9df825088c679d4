"""Every kind of scan kernel once on a small shape: a program for compute-sanitizer to watch."""

import torch

from ssmlab.ops.selective_scan import selective_scan
from tests.ops.selective_scan.cuda_cases import make_case


def main() -> None:
    """Run forward and backward of each case and wait for the device."""
    bounds = [0, 5, 5, 40, 71]
    cases = [
        make_case(2, 71, 72, 16, dtype=torch.bfloat16),
        make_case(1, 71, 36, 17, dtype=torch.float16, B="group"),
        make_case(1, 71, 7, 3),
        make_case(1, 700, 8, 16, dtype=torch.bfloat16),
        make_case(1, 71, 40, 16, bounds=bounds),
        make_case(1, 40, 33, 5, complex_A=True, B="constant", bounds=[0, 9, 40]),
    ]
    for case in cases:
        args = [None if t is None else t.detach().requires_grad_() for t in case.args]
        u, delta, A, B, C, D, z, bias, state = args
        y, last = selective_scan(
            u, delta, A, B, C, D, z, bias, case.softplus, state,
            return_last_state=True, cu_seqlens=case.cu_seqlens, backend="cuda",
        )  # fmt: skip
        (y.float().sum() + last.abs().sum()).backward()
    torch.cuda.synchronize()
    print("done")


if __name__ == "__main__":
    main()
