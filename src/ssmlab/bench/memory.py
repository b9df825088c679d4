"""``ssmlab bench memory``: memory of a training step over batch sizes, as Table 15 of the paper."""

from dataclasses import replace
from typing import Any

import torch

from ssmlab.bench.presets import preset
from ssmlab.bench.steps import Step, bench_device, kept_bytes, peak_bytes, release
from ssmlab.bench.train import device_name
from ssmlab.blocks.mamba_config import Recompute

_GB = 1e9
# Table 15 of arXiv 2312.00752: GB of training at length 2048 on one A100 80GB, by batch size:
# a Transformer of 125M with FlashAttention-2 and torch.compile, and Mamba of 125M.
TABLE15 = {
    1: (4.6, 4.8),
    2: (5.2, 5.8),
    4: (6.9, 7.3),
    8: (11.5, 12.3),
    16: (20.7, 23.1),
    32: (34.5, 38.2),
}


def run(
    *,
    device: str,
    model: str = "130m",
    batch_sizes: list[int] | None = None,
    seq_len: int = 2048,
    recompute: list[Recompute] | None = None,
    precision: str = "auto",
) -> list[dict[str, Any]]:
    """A row for each batch size and way to recompute.

    ``peak_gb`` is the most that torch holds during a step (weights, gradients and AdamW's moments in
    fp32 included), None on the CPU; ``kept_gb`` what autograd keeps from the forward to the
    backward pass; ``bytes_per_channel`` that of the blocks for each token, layer and channel of the
    model, which appendix D puts at 16 (by the difference to a model of half the layers, so without
    embedding, head and loss). A batch that does not fit the device has None.

    Raises:
        ConfigError: an unknown model or device.
    """
    place = bench_device(device)
    rows = []
    for level in recompute or ["none", "inputs", "scan"]:
        for batch in batch_sizes or list(TABLE15):
            printed = TABLE15.get(batch, (None, None))
            if (model, seq_len) != ("130m", 2048):
                printed = (None, None)
            peak, kept, per = measure(model, level, place, batch, seq_len, precision)
            rows.append(
                {
                    "batch_size": batch,
                    "recompute": level,
                    "peak_gb": None if peak is None else peak / _GB,
                    "kept_gb": None if kept is None else kept / _GB,
                    "bytes_per_channel": per,
                    "paper_mamba_gb": printed[1],
                    "paper_transformer_gb": printed[0],
                    "model": model,
                    "seq_len": seq_len,
                    "device": device_name(place),
                }
            )
    return rows


def measure(
    model: str,
    recompute: Recompute,
    device: torch.device,
    batch: int,
    seq_len: int,
    precision: str = "auto",
) -> tuple[int | None, int | None, float | None]:
    """Peak bytes of a step, bytes kept for the backward pass, and those of a layer per channel."""
    config = preset(model, recompute)
    step = half = None
    try:
        step = Step.build(config, device, batch, seq_len, precision)
        kept = kept_bytes(step)
        peak = peak_bytes(step)
        # Two depths: their difference is what layers keep, without embedding, head and loss.
        del step
        step = None
        release(device)
        shallow = replace(config, n_layers=config.n_layers // 2)
        half = Step.build(shallow, device, batch, seq_len, precision)
        layers = config.n_layers - shallow.n_layers
        per = (kept - kept_bytes(half)) / (layers * batch * seq_len * config.d_model)
        return peak, kept, per
    except torch.cuda.OutOfMemoryError:
        return None, None, None
    finally:
        del step, half
        release(device)
