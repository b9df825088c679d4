"""What surrounds a mixer: the Mamba block, the gated MLP, norm and residual."""

from ssmlab.blocks.mamba import Mamba, MambaState
from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.blocks.mlp import GatedMLP, MLPConfig
from ssmlab.blocks.residual import ResidualBlock, RMSNorm

__all__ = [
    "GatedMLP",
    "MLPConfig",
    "Mamba",
    "MambaConfig",
    "MambaState",
    "RMSNorm",
    "ResidualBlock",
]
