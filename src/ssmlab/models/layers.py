"""One letter of a layer pattern -> one residual block."""

from torch import nn

from ssmlab.blocks.h3 import H3
from ssmlab.blocks.hyena import Hyena
from ssmlab.blocks.mamba import Mamba
from ssmlab.blocks.mlp import GatedMLP
from ssmlab.blocks.plain_mlp import PlainMLP
from ssmlab.blocks.positions import LearnedPositions
from ssmlab.blocks.residual import ResidualBlock
from ssmlab.mixers.attention import Attention
from ssmlab.models.config import LanguageModelConfig


def build_layers(config: LanguageModelConfig) -> nn.ModuleList:
    """All layers of a model, learned positions first where there are some.

    The last matrix of every block starts smaller by 1/sqrt(n_layers), one residual addition a block.
    """
    layers = [build_layer(letter, config) for letter in config.layers]
    if config.positions == "learned":
        first = LearnedPositions(config.max_positions, config.d_model, config.init_std)
        return nn.ModuleList([first, *layers])
    return nn.ModuleList(layers)


def build_layer(letter: str, config: LanguageModelConfig) -> ResidualBlock:
    """The residual block of one letter."""
    width, out_scale = config.d_model, config.n_layers**-0.5
    std = config.init_std if config.linear_init == "normal" else None
    match letter:
        case "M":  # has start values of its own, as the released code
            mixer: nn.Module = Mamba(config.mamba, width, out_scale=out_scale)
        case "H":
            mixer = H3(config.h3, width, init_std=std, out_scale=out_scale)
        case "Y":
            mixer = Hyena(config.hyena, width, init_std=std, out_scale=out_scale)
        case "A":
            mixer = Attention(config.attention, width, init_std=std, out_scale=out_scale)
        case "F":
            mixer = GatedMLP(config.mlp, width, init_std=std, out_scale=out_scale)
        case "P":
            mixer = PlainMLP(config.plain_mlp, width, init_std=std, out_scale=out_scale)
        case _:
            raise AssertionError(f"letter {letter!r} passed the config's check")
    return ResidualBlock(mixer, width, config.norm_eps, config.norm)
