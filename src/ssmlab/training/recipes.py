"""The two training recipes of the Mamba paper, as changes of ``TrainingConfig``.

Source: arXiv 2312.00752, appendix E.2.1 and Table 12.
"""

from typing import Any

# Peak learning rates that the paper takes over from GPT-3, by parameters of the model.
GPT3_PEAK = {"125M": 6e-4, "350M": 3e-4, "760M": 2.5e-4, "1.3B": 2e-4}

_COMMON = {"weight_decay": 0.1, "grad_clip": 1.0, "warmup_fraction": 0.1}


def gpt3_recipe(peak: float) -> dict[str, Any]:
    """GPT-3's, which the plain Transformer and Hyena have: a cosine from ``peak`` to a tenth of it
    (as GPT-3 itself; the paper does not say where its own ends) and PyTorch's betas."""
    return {**_COMMON, "lr": peak, "lr_min": peak / 10, "betas": [0.9, 0.999]}


def improved_recipe(peak: float) -> dict[str, Any]:
    """The improved one, of Mamba, Transformer++, H3++ and Hyena+: a cosine from five times GPT-3's
    ``peak`` to 1e-5, and betas 0.9 and 0.95. (No biases and RMSNorm belong to it too: they are the
    architectures' in ``ssmlab.models.BASELINES``.)"""
    return {**_COMMON, "lr": 5 * peak, "lr_min": 1e-5, "betas": [0.9, 0.95]}
