"""Whether a model is the paper's own: what the public formats hold and the fast decoder knows."""

import re

from ssmlab.blocks.mamba import Mamba
from ssmlab.blocks.residual import RMSNorm
from ssmlab.mixers.s6 import S6
from ssmlab.models.language_model import LanguageModel

_KNOWN = re.compile(
    r"embedding\.weight|lm_head\.weight|norm_f\.weight|layers\.\d+\.(norm\.weight|mixer\.("
    r"(in_proj|out_proj|conv1d)\.(weight|bias)|ssm\.(x_proj\.weight|dt_proj\.(weight|bias)|A_log|D)))"
)


def not_plain_mamba(model: LanguageModel) -> str | None:
    """Why a model is not a stack of Mamba blocks with selective Δ, B and C, a real A and RMSNorm.

    None if it is. Looks at what was built rather than at the config, so that a switch added
    to the config later cannot slip through.
    """
    for index, layer in enumerate(model.layers):
        mixer = getattr(layer, "mixer", layer)  # learned positions stand in no residual block
        if not isinstance(mixer, Mamba) or not isinstance(mixer.ssm, S6):
            inner = mixer.ssm if isinstance(mixer, Mamba) else mixer
            return f"block {index} is {type(inner).__name__}, not a Mamba block with S6"
        switches = mixer.ssm.config
        for name in ("selective_delta", "selective_B", "selective_C"):
            if not getattr(switches, name):
                return f"block {index} has {name}=False"
        if switches.selective_A:
            return f"block {index} has selective_A=True"
        if switches.is_complex:
            return f"block {index} has a complex A (a_init={switches.a_init!r})"
        if not isinstance(layer.norm, RMSNorm):
            return f"block {index} has {type(layer.norm).__name__}, not RMSNorm"
    others = [name for name, _ in model.named_parameters() if not _KNOWN.fullmatch(name)]
    return f"it has {others[0]}" if others else None
