"""Config of the Mamba block."""

from dataclasses import dataclass

from ssmlab.mixers.checks import check_positive_int
from ssmlab.mixers.inner import InnerMixerConfig


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
    """

    expand: int = 2
    d_conv: int = 4
    conv_bias: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_int("MambaConfig", expand=self.expand, d_conv=self.d_conv)

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
