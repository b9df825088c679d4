"""The Mamba block that makes things again in its backward pass is the block that keeps them."""

import dataclasses

import pytest
import torch
from torch import Tensor

from ssmlab.blocks.mamba import Mamba
from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.core.errors import ConfigError
from ssmlab.mixers.linear import Linear
from ssmlab.mixers.s6_config import S6Config
from ssmlab.ops import mamba_inner
from ssmlab.ops.mamba_inner import api

WIDTH = 8


def results(mamba: Mamba, x: Tensor, level: str, **options) -> list[Tensor]:
    """Output and gradients with ``recompute`` set to ``level``."""
    mamba.config = dataclasses.replace(mamba.config, recompute=level)
    y = mamba(x, **options)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *mamba.parameters()])]


@pytest.mark.parametrize("level", ["inputs", "scan"])
@pytest.mark.parametrize(
    "ssm",
    [
        {},
        {"selective_delta": False},
        {"selective_B": False},
        {"selective_delta": False, "selective_B": False, "selective_C": False},
        {"a_init": "s4d-lin"},  # complex
        {"a_init": "s4d-lin", "selective_B": False},
        {"selective_A": True},  # runs unfused
    ],
    ids=lambda ssm: "-".join(ssm) or "plain",
)
def test_the_same_numbers(ssm: dict, level: str) -> None:
    torch.manual_seed(0)
    mamba = Mamba(MambaConfig(bias=True, ssm=S6Config(d_state=4, **ssm)), WIDTH).double()
    x = torch.randn(2, 11, WIDTH, dtype=torch.float64, requires_grad=True)
    expected = results(mamba, x, "none")
    torch.testing.assert_close(results(mamba, x, level), expected, rtol=1e-10, atol=1e-12)
    offsets = torch.tensor([0, 4, 11], dtype=torch.int32)
    expected = results(mamba, x[:1], "none", cu_seqlens=offsets)
    actual = results(mamba, x[:1], level, cu_seqlens=offsets)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def calls(monkeypatch):
    """Counts how often the fused block ran."""
    calls: list[str] = []

    def counted(*args, recompute: str, **options) -> Tensor:
        calls.append(recompute)
        return mamba_inner(*args, recompute=recompute, **options)

    monkeypatch.setattr("ssmlab.blocks.recompute.mamba_inner", counted)
    return calls


def test_when_the_fused_block_runs(calls: list[str]) -> None:
    x = torch.randn(1, 5, WIDTH)
    mamba = Mamba(MambaConfig(recompute="scan"), WIDTH)
    mamba(x)
    assert calls == ["scan"]
    with torch.no_grad():
        mamba(x)  # nothing is kept anyway
    mamba(x, return_state=True)
    mamba(x, mamba.init_state(1))
    Mamba(MambaConfig(), WIDTH)(x)  # "auto" on a CPU
    assert calls == ["scan"]


def test_a_selective_A_is_not_fused(calls: list[str]) -> None:
    mamba = Mamba(MambaConfig(recompute="scan", ssm=S6Config(selective_A=True)), WIDTH)
    mamba(torch.randn(1, 5, WIDTH))
    assert calls == []


def test_a_projection_that_was_wrapped_is_called(calls: list[str]) -> None:
    class Doubled(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    torch.manual_seed(0)
    mamba = Mamba(MambaConfig(recompute="scan"), WIDTH)
    x = torch.randn(1, 5, WIDTH)
    before = mamba(x)
    doubled = Doubled(2 * WIDTH, WIDTH)
    doubled.weight = mamba.out_proj.weight
    mamba.out_proj = doubled
    torch.testing.assert_close(mamba(x), 2 * before)
    assert calls == ["scan"]


def test_without_a_compiled_backend_the_block_still_works(monkeypatch) -> None:
    monkeypatch.setattr(api, "choose_backend", lambda asked, device: "reference")
    mamba = Mamba(MambaConfig(recompute="scan"), WIDTH)
    assert mamba(torch.randn(1, 5, WIDTH)).shape == (1, 5, WIDTH)


def test_a_misspelt_level_is_named() -> None:
    with pytest.raises(ConfigError, match="recompute: expected one of 'auto', 'none', 'inputs'"):
        MambaConfig(recompute="full")
