"""Models that the benchmarks run: the sizes of the published Mamba models, and one for a CPU."""

from dataclasses import replace

import torch

from ssmlab.blocks.mamba_config import MambaConfig, Recompute
from ssmlab.core.errors import ConfigError
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.language_model import LanguageModel

# That of the published checkpoints (GPT-NeoX's tokenizer), padded to 50280. The paper's models of
# sections 4.2.1 and 4.6 have GPT-2's 50257: 16 rows of the embedding fewer, which no figure shows.
_VOCABULARY = 50277


def _mamba(layers: int, width: int) -> LanguageModelConfig:
    return LanguageModelConfig(
        vocab_size=_VOCABULARY, pad_vocab_size_multiple=8, d_model=width, n_layers=layers
    )


# Two Mamba blocks stand for a Transformer's attention and MLP: twice the layers of Table 12.
PRESETS: dict[str, LanguageModelConfig] = {
    "tiny": LanguageModelConfig(vocab_size=256, d_model=64, n_layers=2),
    "130m": _mamba(24, 768),
    "370m": _mamba(48, 1024),
    "790m": _mamba(48, 1536),
    "1.4b": _mamba(48, 2048),
    "2.8b": _mamba(64, 2560),
}


def preset(name: str, recompute: Recompute = "auto") -> LanguageModelConfig:
    """The config called ``name``, its blocks with ``recompute``.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown model '{name}': expected one of {', '.join(PRESETS)}")
    config = PRESETS[name]
    return replace(config, mamba=MambaConfig(recompute=recompute))


def matmul_flops_per_token(config: LanguageModelConfig) -> int:
    """Floating-point operations of a training step's matrix products for each token.

    Six for each weight that multiplies (a product in the forward pass, two in the backward pass, two
    operations each). What is made again to save memory does not count, nor do the scan, the
    convolution and the elementwise work: model FLOPs, so that MFU compares between programs.
    """
    with torch.device("meta"):
        model = LanguageModel(config)
    # A tied head multiplies although its matrix is the embedding's, which does not.
    named = model.named_parameters(remove_duplicate=False)
    products = ("proj.weight", "lm_head.weight")
    return 6 * sum(p.numel() for name, p in named if p.dim() == 2 and name.endswith(products))
