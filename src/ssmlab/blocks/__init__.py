"""What surrounds a mixer: the Mamba, H3 and Hyena blocks, the MLPs, norm and residual."""

from ssmlab.blocks.h3 import H3, H3Config, H3State
from ssmlab.blocks.hyena import Hyena, HyenaConfig, HyenaState
from ssmlab.blocks.mamba import Mamba, MambaState
from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.blocks.mlp import GatedMLP, MLPConfig
from ssmlab.blocks.plain_mlp import PlainMLP, PlainMLPConfig
from ssmlab.blocks.positions import LearnedPositions
from ssmlab.blocks.residual import LayerNorm, ResidualBlock, RMSNorm

__all__ = [
    "H3",
    "GatedMLP",
    "H3Config",
    "H3State",
    "Hyena",
    "HyenaConfig",
    "HyenaState",
    "LayerNorm",
    "LearnedPositions",
    "MLPConfig",
    "Mamba",
    "MambaConfig",
    "MambaState",
    "PlainMLP",
    "PlainMLPConfig",
    "RMSNorm",
    "ResidualBlock",
]
