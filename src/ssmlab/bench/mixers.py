"""Every mixer over growing lengths: tokens per second and peak memory, beside one matrix product.

Shapes: B batch, L length, D channels. B shrinks as L grows, so that every line works on as many
tokens.
"""

import ctypes
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab.bench.timing import time_in_turn
from ssmlab.core.errors import ConfigError

LENGTHS = (256, 1024, 4096, 16384)
REFERENCE = "linear"
_BUDGET = 6.0  # seconds for one mixer and length, about; a round at least is always run


def _makers(channels: int, longest: int) -> dict[str, Callable[[], nn.Module]]:
    from ssmlab.blocks import H3, H3Config, Hyena, HyenaConfig
    from ssmlab.mixers import (
        S4,
        S4D,
        S6,
        SSD,
        Attention,
        AttentionConfig,
        LongConv,
        LongConvConfig,
        S4Config,
        S4DConfig,
        S6Config,
        SSDConfig,
    )
    from ssmlab.mixers.linear import Linear
    from ssmlab.ops import fft_conv

    filters = LongConvConfig(l_max=longest)
    head = next(n for n in (64, 32, 16, 8, 4, 2, 1) if channels % n == 0)
    attention = AttentionConfig(n_heads=channels // head, rope=head > 1)
    return {
        REFERENCE: lambda: Linear(channels, channels, std=None),
        "s6": lambda: S6(S6Config(), channels, max(1, channels // 32)),
        "ssd": lambda: SSD(SSDConfig(d_head=head), channels),
        "s4d": lambda: S4D(S4DConfig(), channels),
        "s4d-real": lambda: S4D(S4DConfig(a_init="s4d-real"), channels),
        "s4d-scan": lambda: S4D(S4DConfig(mode="scan"), channels),
        "s4": lambda: S4(S4Config(), channels),
        "long-conv": lambda: LongConv(filters, channels),
        "hyena": lambda: Hyena(HyenaConfig(long_conv=filters), channels),
        "h3": lambda: H3(H3Config(), channels),
        "h3-heads": lambda: H3(H3Config(head_dim=min(head, 8)), channels),
        "attention": lambda: Attention(attention, channels),
        "fft-conv": lambda: _Filter(channels, longest, fft_conv),
        "fft-plain": lambda: _Filter(channels, longest, _plain_fft_conv),
    }


class _Filter(nn.Module):
    """A long convolution alone, its taps learned as they are."""

    def __init__(
        self, channels: int, taps: int, convolve: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.randn(channels, taps) / taps)
        self.convolve = convolve

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.k[:, : x.shape[1]])


def _plain_fft_conv(u: Tensor, k: Tensor) -> Tensor:
    """The convolution as one writes it down: what ours is to be compared with."""
    size = 2 * u.shape[1]
    spectrum = torch.fft.rfft(u.float(), n=size, dim=1)
    spectrum = spectrum * torch.fft.rfft(k.float().t(), n=size, dim=0)
    return torch.fft.irfft(spectrum, n=size, dim=1)[:, : u.shape[1]].to(u.dtype)


def names() -> list[str]:
    """The mixers there are, and the convolution alone in two forms; without the reference."""
    return [name for name in _makers(64, 1) if name != REFERENCE]


def run(
    *,
    device: str = "cpu",
    mixers: Sequence[str] = (),
    lengths: Sequence[int] = LENGTHS,
    channels: int = 128,
    tokens: int = 16384,
    dtype: str = "fp32",
    repeats: int = 3,
    round_s: float = 0.2,
) -> list[dict[str, Any]]:
    """Measure and return one row a mixer and length.

    Times are medians of runs in ``repeats`` rounds in this process, the mixers of one length taking
    turns (``time_in_turn``). Memory is that of one forward and backward pass beyond what was
    held before: on CUDA the allocator's peak, on Linux the process's peak resident size.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        mixers: some of ``names()``; all if empty.
        lengths: L, each dividing tokens.
        channels: D.
        tokens: B * L.
        dtype: "fp32" or "bf16", that of the inputs; parameters are fp32, and bf16 runs by autocast.
        repeats: rounds.
        round_s: seconds that a quick mixer is run for, again and again, in each round.

    Returns:
        rows with "mixer", "L", "B", "forward_ms", "both_ms" (forward and backward), "low_ms" and
        "high_ms" (its quartiles), "tokens_per_second" (of both),
        "times_reference" (both_ms over that of one D x D matrix product on the same tokens),
        "peak_mb" (None where it cannot be told) and "parameters".

    Raises:
        ConfigError: names, sizes, dtype or device that cannot be.
    """
    place = _check(device, mixers, lengths, channels, tokens, dtype, repeats)
    makers = _makers(channels, max(lengths))
    chosen = [REFERENCE, *(mixers or names())]
    rows: list[dict[str, Any]] = []
    for length in lengths:
        torch.manual_seed(0)
        batch = tokens // length
        kind = torch.bfloat16 if dtype == "bf16" else torch.float32
        x = torch.randn(batch, length, channels, device=place, dtype=kind)
        runs = {name: _Run(makers[name]().to(place), x, dtype == "bf16") for name in chosen}
        for each in runs.values():
            each.watch_memory()
        cases: dict[tuple[str, str], Callable[[], object]] = {}
        for name, each in runs.items():
            cases[name, "forward"], cases[name, "both"] = each.forward, each.both
        times = time_in_turn(cases, repeats=repeats, budget_s=_BUDGET, round_s=round_s)
        reference = times[REFERENCE, "both"].median_ms
        for name, each in runs.items():
            both = times[name, "both"]
            rows.append(
                {
                    "mixer": name,
                    "L": length,
                    "B": batch,
                    "forward_ms": times[name, "forward"].median_ms,
                    "both_ms": both.median_ms,
                    "low_ms": both.low_ms,
                    "high_ms": both.high_ms,
                    "tokens_per_second": 1e3 * batch * length / both.median_ms,
                    "times_reference": both.median_ms / reference,
                    "peak_mb": each.peak_mb,
                    "parameters": sum(p.numel() for p in each.mixer.parameters()),
                }
            )
    return rows


class _Run:
    """One mixer on one input."""

    def __init__(self, mixer: nn.Module, x: Tensor, autocast: bool) -> None:
        self.mixer, self.x, self.autocast = mixer, x.requires_grad_(), autocast
        self.peak_mb: float | None = None

    def watch_memory(self) -> None:
        """One run for compilers and caches, then one whose memory is watched."""
        self.both()
        watch = _MemoryWatch(self.x.device)
        self.both()
        self.peak_mb = watch.peak_mb()

    def forward(self) -> Tensor:
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.autocast):
            y = self.mixer(self.x)
        self._wait()
        return y

    def both(self) -> None:
        for parameter in self.mixer.parameters():
            parameter.grad = None
        self.x.grad = None
        y = self.forward()
        y.backward(torch.ones_like(y))
        self._wait()

    def _wait(self) -> None:
        if self.x.device.type == "cuda":
            torch.cuda.synchronize(self.x.device)


class _MemoryWatch:
    """The most memory held from now on beyond what is held now."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self.before: int | None = torch.cuda.memory_allocated(device)
            return
        self.before = None
        try:
            # Pages that malloc keeps for later would hide what the next run takes.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak resident size
            self.before = _status_bytes("VmRSS")
        except (OSError, AttributeError):
            pass  # not Linux with glibc: no figure rather than a wrong one

    def peak_mb(self) -> float | None:
        if self.before is None:
            return None
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _status_bytes("VmHWM")
        return max(0, peak - self.before) / 1e6


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {key} in /proc/self/status")


def _check(
    device: str,
    mixers: Sequence[str],
    lengths: Sequence[int],
    channels: int,
    tokens: int,
    dtype: str,
    repeats: int,
) -> torch.device:
    unknown = [name for name in mixers if name not in names()]
    if unknown:
        raise ConfigError(f"unknown mixer '{unknown[0]}': expected some of {', '.join(names())}")
    for name, value in (("channels", channels), ("tokens", tokens), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
    for length in lengths:
        if length < 1 or tokens % length:
            raise ConfigError(
                f"length {length}: expected a divisor of the {tokens} tokens of a batch; choose "
                "another length, or other --tokens"
            )
    if not lengths:
        raise ConfigError("no length given; give at least one, for example 256")
    if dtype not in ("fp32", "bf16"):
        raise ConfigError(f"dtype '{dtype}': expected fp32 or bf16")
    if device != "cpu" and not device.startswith("cuda"):
        raise ConfigError(f"device '{device}': expected cpu, cuda or cuda:N")
    from ssmlab.training.device import select_device

    return select_device(device)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write tokens per second and peak memory against L as a picture; the suffix says the format.

    Raises:
        ConfigError: a suffix that is no picture format.
        StorageError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from ssmlab.core.files import write_atomic

    kinds = Figure().canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".")
    if kind not in kinds:
        raise ConfigError(f"{path}: expected the suffix of a picture, for example .svg or .png")
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, key, label in (
        (axes[0], "tokens_per_second", "tokens per second, forward and backward"),
        (axes[1], "peak_mb", "peak memory beyond inputs and parameters, MB"),
    ):
        for index, name in enumerate(dict.fromkeys(row["mixer"] for row in rows)):
            points = [(r["L"], r[key]) for r in rows if r["mixer"] == name and r[key]]
            # Ten colours go round; a second round is told apart by its marks and lines.
            style = {"color": f"C{index % 10}", "marker": "o"}
            if index >= 10:
                style |= {"marker": "s", "linestyle": ":"}
            if name == REFERENCE:
                style = {"color": "black", "marker": "o", "linestyle": "--"}
            if points:
                axis.plot(*zip(*points, strict=True), label=name, **style)
        axis.set(xscale="log", yscale="log", xlabel="length L", ylabel=label)
        axis.set_xticks(sorted({row["L"] for row in rows}), labels=None)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    try:
        write_atomic(path, lambda temporary: figure.savefig(temporary, format=kind))
    finally:
        pyplot.close(figure)
