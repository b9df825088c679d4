"""Config of the Mamba block."""

import typing
from dataclasses import dataclass
from typing import Literal

from ssmlab.mixers.checks import check_choice, check_positive_int
from ssmlab.mixers.inner import InnerMixerConfig

Recompute = Literal["auto", "none", "inputs", "scan"]


@dataclass(frozen=True)
class MambaConfig(InnerMixerConfig):
    """The Mamba block (section 3.4 of arXiv 2312.00752).

    Attributes:
        expand: E, d_inner = expand * d_model.
        d_conv: width of the causal depthwise convolution.
        conv_bias: the convolution has a bias.
        bias: in_proj and out_proj have biases.
        mixer: the mixer inside, S6 unless another is named; each has its own config (see
            ``InnerMixerConfig``), that of S6 is ``ssm``.
        recompute: what the backward pass makes again instead of keeping it (appendix D). "none":
            nothing. "inputs": the convolution's output, Δ, B and C. "scan": the scan as well, which
            leaves 10 bytes per token and channel of d_model in bfloat16 with expand = 2, input of
            in_proj included. "auto": "scan" on a GPU, where memory is short, else "none". The
            numbers are the same. Without effect where no compiled backend works, where a state is
            given or asked for, and where no gradient is wanted.
    """

    expand: int = 2
    d_conv: int = 4
    conv_bias: bool = True
    bias: bool = False
    recompute: Recompute = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_int("MambaConfig", expand=self.expand, d_conv=self.d_conv)
        check_choice("MambaConfig", "recompute", self.recompute, typing.get_args(Recompute))

    def d_inner(self, d_model: int) -> int:
        """Channels of the mixer inside a block of width ``d_model``."""
        return self.expand * d_model

    def dt_rank(self, d_model: int) -> int:
        """The Δ rank R inside a block of width ``d_model``, "auto" resolved to ceil(d_model / 16).

        Raises:
            ConfigError: a rank above d_inner, which could not add anything.
        """
        return self.resolve_dt_rank(d_model, self.d_inner(d_model))

    def check(self, d_model: int) -> None:
        """Refuse what cannot be built in a model of width ``d_model``.

        Raises:
            ConfigError: heads or ranks that do not fit, with what would.
        """
        self.check_inner(d_model, self.d_inner(d_model))

    def effective(self, d_model: int) -> "MambaConfig":
        """The same in a model of width ``d_model``, with everything without effect at its default."""
        return self.effective_inner(d_model, self.d_inner(d_model))
