"""Count the parameters of a model without giving it memory."""

import torch

from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.language_model import LanguageModel


def count_parameters(config: LanguageModelConfig) -> dict[str, int]:
    """Numbers of parameters by component, and their ``total``; a tied head counts once.

    The components of all layers are summed under the name they have within a layer, for example
    ``mixer.in_proj``. Built on the meta device: nothing is allocated.

    Raises:
        ConfigError: the config cannot be built, or its vocab_size is still 0.
    """
    with torch.device("meta"):
        model = LanguageModel(config)
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        within = parts[2:] if parts[0] == "layers" else parts
        component = ".".join(within[:2]) if within[0] == "mixer" else within[0]
        counts[component] = counts.get(component, 0) + parameter.numel()
    return {**counts, "total": sum(counts.values())}
