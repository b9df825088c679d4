"""Where a training step's time goes, by kind of kernel."""

import re
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# The first pattern that a kernel's name matches decides; CUDA kernels and CPU operators alike.
_KINDS: tuple[tuple[str, str], ...] = (
    ("scan backward", r"scan_backward|scan_sum|general_backward|selective_scan_backward"),
    ("scan forward", r"scan_forward|scan_chunks|general_forward|selective_scan"),
    ("convolution", r"conv_(forward|backward|finish|slope)|causal_conv1d"),
    ("Mamba block, on the CPU", r"mamba_inner"),
    (
        "matrix products",
        r"gemm|cutlass|nvjet|xmma|splitk|cublas|aten::(mm|addmm|bmm|linear|matmul)\b",
    ),
    ("norm", r"rms_?norm|layer_?norm|RowwiseMoments"),
    ("loss", r"loss_rows|softmax|scatter|gather|linear_cross_entropy|nll"),
    ("optimiser", r"multi_tensor|adam|foreach|lpnorm|_norm"),
    ("embedding", r"embedding|indexSelect|index_select|sort|radix"),
)
OTHER = "elementwise, copies and the rest"


def kind_of(name: str) -> str:
    """The kind that a kernel or operator of this name belongs to."""
    for kind, pattern in _KINDS:
        if re.search(pattern, name, re.IGNORECASE):
            return kind
    return OTHER


def time_shares(run: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Share of each kind in the time that the device is busy, largest first; they add up to 1.

    On CUDA the time of kernels, on the CPU that of operators themselves, without those they call.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as recorded:
        run()
        if cuda:
            torch.cuda.synchronize(device)
    totals: dict[str, float] = {}
    for row in recorded.key_averages():
        # An operator's row also holds the time of the kernels that it launched: count these once.
        if cuda and "CUDA" not in str(row.device_type):
            continue
        spent = row.self_device_time_total if cuda else row.self_cpu_time_total
        if spent > 0:
            kind = kind_of(row.key)
            totals[kind] = totals.get(kind, 0.0) + spent
    whole = sum(totals.values())
    ordered = sorted(totals.items(), key=lambda pair: -pair[1])
    return {kind: spent / whole for kind, spent in ordered} if whole else {}
