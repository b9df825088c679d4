"""The Mamba block, the gated MLP, norm and residual."""

import pytest
import torch

from ssmlab.blocks.mamba import Mamba
from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.blocks.mlp import GatedMLP, MLPConfig
from ssmlab.blocks.residual import ResidualBlock, RMSNorm
from ssmlab.core.errors import ConfigError
from ssmlab.mixers.s6_config import S6Config

WIDTH = 8


def block(**values) -> Mamba:
    torch.manual_seed(0)
    config = MambaConfig(ssm=S6Config(d_state=3), **values)
    return Mamba(config, WIDTH).double()


@pytest.mark.parametrize("d_conv", [1, 2, 4, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_step_equals_the_whole_sequence(d_conv, bias):
    mamba = block(d_conv=d_conv, conv_bias=bias, bias=bias)
    x = torch.randn(2, 10, WIDTH, dtype=torch.float64)
    y, last = mamba(x, return_state=True)
    state, steps = mamba.init_state(2), []
    for t in range(10):
        out, state = mamba.step(x[:, t], state)
        steps.append(out)
    torch.testing.assert_close(torch.stack(steps, 1), y, rtol=1e-10, atol=1e-12)
    for one, other in zip(state, last, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cut", [1, 2, 5, 9])
def test_going_on_from_a_state_equals_one_run(cut):
    mamba = block()
    x = torch.randn(2, 10, WIDTH, dtype=torch.float64)
    first, state = mamba(x[:, :cut], return_state=True)
    rest = mamba(x[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), mamba(x), rtol=1e-10, atol=1e-12)


def test_no_output_sees_a_later_input():
    mamba = block()
    x = torch.randn(1, 12, WIDTH, dtype=torch.float64)
    changed = x.clone()
    changed[:, 7] += 1
    before, after = mamba(x), mamba(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any(-1).all()


def test_packing_lets_nothing_across():
    mamba = block()
    a, b = (torch.randn(1, length, WIDTH, dtype=torch.float64) for length in (5, 2))
    offsets = torch.tensor([0, 5, 7], dtype=torch.int32)
    packed = mamba(torch.cat([a, b], 1), cu_seqlens=offsets)
    torch.testing.assert_close(packed, torch.cat([mamba(a), mamba(b)], 1), rtol=1e-10, atol=1e-12)


def test_rank_above_the_channels_is_refused():
    config = MambaConfig(ssm=S6Config(dt_rank=17))
    with pytest.raises(ConfigError, match=r"dt_rank=17.*16 channels.*1 to 16"):
        Mamba(config, WIDTH)


def test_auto_rank_is_a_sixteenth_of_the_width_rounded_up():
    assert [MambaConfig().dt_rank(width) for width in (8, 16, 17, 1024)] == [1, 1, 2, 64]


def test_rms_norm_against_its_definition_in_low_precision():
    norm = RMSNorm(32, eps=1e-5)
    x = 100 * torch.randn(4, 32)
    expected = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(norm(x), expected)
    low = norm.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.02, atol=0.01)


def test_residual_stays_in_fp32_around_a_bf16_mixer():
    mlp = GatedMLP(MLPConfig(), WIDTH)
    residual_block = ResidualBlock(mlp, WIDTH, 1e-5).bfloat16()
    residual = torch.randn(2, 3, WIDTH)
    out, _ = residual_block(residual)
    assert out.dtype == torch.float32
    branch = mlp(residual_block.norm(residual)).float()
    torch.testing.assert_close(out, residual + branch)


def test_gated_mlp_auto_width_matches_a_plain_mlp_of_expansion_4():
    assert MLPConfig().hidden(768) == 2048
    assert MLPConfig(d_hidden=100).hidden(768) == 100
    mlp = GatedMLP(MLPConfig(), 768)
    assert sum(p.numel() for p in mlp.parameters()) == 8 * 768 * 768


def test_gated_mlp_has_no_memory():
    mlp = GatedMLP(MLPConfig(bias=True), WIDTH)
    x = torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(mlp(x)[:, 3], mlp.step(x[:, 3])[0])
