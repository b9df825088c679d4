"""``bench train`` and ``bench memory``: what they count, and that they run small on a CPU."""

import json

import pytest
import torch

from ssmlab.bench import memory, steps, train
from ssmlab.bench.presets import PRESETS, matmul_flops_per_token, preset
from ssmlab.bench.shares import OTHER, kind_of
from ssmlab.cli import main
from ssmlab.core.errors import ConfigError
from ssmlab.models.count import count_parameters
from ssmlab.training.graph import ORDINARY_CALLS

CPU = torch.device("cpu")


def test_presets_have_the_published_sizes() -> None:
    """The paper's 350M ablation model has 371.5M parameters (Table 9, Δ rank 64)."""
    assert count_parameters(PRESETS["370m"])["total"] == pytest.approx(371.5e6, rel=1e-3)
    assert count_parameters(PRESETS["130m"])["total"] == pytest.approx(129e6, rel=1e-2)
    assert preset("tiny", "scan").mamba.recompute == "scan"
    with pytest.raises(ConfigError, match="unknown model '125m': expected one of tiny, 130m"):
        preset("125m", "auto")


def test_flops_are_six_for_each_weight_that_multiplies() -> None:
    config = PRESETS["tiny"]  # 2 layers, width 64, 128 channels, N 16, R 4
    layer = 64 * 256 + 128 * (4 + 32) + 4 * 128 + 128 * 64
    assert matmul_flops_per_token(config) == 6 * (2 * layer + 256 * 64)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void scan_backward<bf16, 1, 4>(Args)", "scan backward"),
        ("scan_forward<bf16, 4, 1>", "scan forward"),
        ("conv_backward<bf16, 4, 2, false>", "convolution"),
        ("nvjet_sm90_tst_128x256", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("aten::add", OTHER),
        ("void at::native::vectorized_layer_norm_kernel", "norm"),
        ("multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimiser"),
    ],
)
def test_kinds_of_kernels(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_what_is_kept_falls_with_what_is_made_again() -> None:
    per = {}
    for level in ("none", "inputs", "scan"):
        peak, kept, per[level] = memory.measure("tiny", level, CPU, 2, 64, "bf16")
        assert peak is None
        assert kept > 0
    assert per["none"] > per["inputs"] > per["scan"]


def test_kept_bytes_count_each_storage_once_and_no_parameter() -> None:
    class Square(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(10))

    step = steps.Step.build(PRESETS["tiny"], CPU, 1, 8)
    step.model = Square()  # type: ignore[assignment]
    x = torch.ones(10, requires_grad=True)

    def forward(ids: torch.Tensor | None = None) -> torch.Tensor:
        y = x * step.model.weight
        return (y * y).sum()  # y is saved twice

    step.forward = forward  # type: ignore[method-assign]
    assert steps.kept_bytes(step) == 2 * 10 * 4  # x and y, float32


def test_rows_of_train() -> None:
    rows = train.run(
        device="cpu", models=["tiny"], batch_size=2, seq_len=32, recompute=["scan"], repeats=2
    )
    (row,) = rows
    assert row["tokens_per_s"] == pytest.approx(2 * 32 / row["step_ms"] * 1e3)
    assert 0 < row["mfu"] < 1
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["peak_gb"] is None


def test_the_largest_batch_is_the_largest_that_fits(monkeypatch) -> None:
    """Against a device whose steps take 2 GB and 0.7 GB a sequence."""
    tried = []

    def peak(batch: int, runs: int) -> int:
        tried.append(batch)
        if batch > 40:
            raise torch.cuda.OutOfMemoryError
        return int((2 + 0.7 * batch) * 1e9)

    monkeypatch.setattr(train, "peak_bytes", peak)
    assert (
        train.largest_batch(lambda batch: batch, CPU, 12.0, "m") == 8
    )  # 14 would fit, in steps of 8
    assert train.largest_batch(lambda batch: batch, CPU, 6.3, "m") == 6
    assert train.largest_batch(lambda batch: batch, CPU, 60.0, "m") == 40  # what the device holds
    with pytest.raises(ConfigError, match=r"m takes 2.7 GB with one sequence, the limit is 1 GB"):
        train.largest_batch(lambda batch: batch, CPU, 1.0, "m")


def test_commands(tmp_path, capsys) -> None:
    out, plot = tmp_path / "rows.json", tmp_path / "figure.png"
    size = ["--seq-len", "32", "--recompute", "none", "--recompute", "scan"]
    files = ["--out", str(out), "--plot", str(plot), "--json"]
    assert main(["bench", "train", "--batch-size", "1", "--repeats", "1", *size, *files]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == rows
    assert [row["recompute"] for row in rows] == ["none", "scan"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main(["bench", "memory", "--batch-size", "1", "--batch-size", "2", *size, *files]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert main(["bench", "memory", "--batch-size", "1", *size]) == 0
    assert "memory of training tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--model", "13b"], "unknown model '13b'"),
        (["train", "--device", "tpu"], "expected auto, cpu, cuda"),
        (["train", "--cuda-graph"], "--cuda-graph needs a CUDA device"),
        (["memory", "--recompute", "all"], "--recompute all: expected one of auto, none"),
    ],
)
def test_bad_arguments(arguments: list[str], words: str, capsys) -> None:
    assert main(["bench", *arguments]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_step_trains_as_an_ordinary_one() -> None:
    device, losses = torch.device("cuda"), []
    for recorded in (False, True):
        step = steps.Step.build(preset("tiny", "scan"), device, 2, 64)
        ids = step.tokens()
        step.tokens = lambda ids=ids: ids  # type: ignore[method-assign]
        if recorded:
            step.record()  # runs some steps
        for _ in range(5 if recorded else 5 + ORDINARY_CALLS + 1):
            step.run()
        losses.append(step.forward(ids).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[0] < 5.4  # from log(256) = 5.55: both have learned
