"""Every mixer at a small size, for the tests that all of them must pass."""

import torch
from torch import nn

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

WIDTH = 6
LONG = LongConvConfig(l_max=64, filter_width=5, n_features=5)
S4D_SMALL = S4DConfig(d_state=4)

MAKERS = {
    "s6": lambda: S6(S6Config(d_state=3), WIDTH, 2),
    "s6-selective-a": lambda: S6(S6Config(d_state=3, selective_A=True), WIDTH, 2),
    "s6-selective-a-complex": lambda: S6(
        S6Config(d_state=4, selective_A=True, selective_delta=False, a_init="s4d-lin"), WIDTH, 2
    ),
    "s4d-lin": lambda: S4D(S4D_SMALL, WIDTH),
    "s4d-inv-bilinear": lambda: S4D(
        S4DConfig(d_state=4, a_init="s4d-inv", discretisation="bilinear"), WIDTH
    ),
    "s4d-real-tied": lambda: S4D(S4DConfig(d_state=3, a_init="s4d-real", tied=True), WIDTH),
    # Δ so large that Ā = (1 - |Δa|/2) / (1 + |Δa|/2) is negative.
    "s4d-real-bilinear": lambda: S4D(
        S4DConfig(d_state=3, a_init="random", discretisation="bilinear", dt_min=2.0, dt_max=4.0),
        WIDTH,
    ),
    "s4": lambda: S4(S4Config(d_state=4), WIDTH),
    "s4-tied": lambda: S4(S4Config(d_state=6, tied=True), WIDTH),
    "long-conv": lambda: LongConv(LONG, WIDTH),
    "ssd": lambda: SSD(SSDConfig(d_state=3, d_head=2, n_groups=3, chunk_size=8), WIDTH),
    "attention": lambda: Attention(AttentionConfig(n_heads=3), WIDTH),
    "attention-grouped-window": lambda: Attention(
        AttentionConfig(n_heads=4, n_kv_heads=2, d_head=2, window=5, bias=True), WIDTH
    ),
    "attention-no-rope": lambda: Attention(AttentionConfig(n_heads=2, rope=False), WIDTH),
    "hyena": lambda: Hyena(HyenaConfig(long_conv=LONG), WIDTH),
    "hyena-order-3": lambda: Hyena(HyenaConfig(order=3, long_conv=LONG, bias=False), WIDTH),
    "h3": lambda: H3(H3Config(s4d=S4D_SMALL, d_shift=5), WIDTH),
    "h3-heads": lambda: H3(H3Config(s4d=S4D_SMALL, d_shift=5, head_dim=2), WIDTH),
    "h3-s6": lambda: H3(H3Config(mixer="s6", ssm=S6Config(d_state=3), d_shift=5), WIDTH),
    "h3-long-conv": lambda: H3(
        H3Config(mixer="long-conv", long_conv=LONG, head_dim=3, d_shift=5), WIDTH
    ),
}
TIME_INVARIANT = [name for name in MAKERS if name.startswith("s4")]


def make(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MAKERS[name]().double()


def sequence(batch: int = 2, length: int = 20, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, WIDTH, dtype=torch.float64, generator=generator)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
