"""config.json of the mamba_ssm package (``state-spaces/mamba-*``), read and written.

Source: the released code of arXiv 2312.00752. There the vocabulary is padded up to a multiple of
``pad_vocab_size_multiple``, the norm's epsilon is 1e-5, and ``ssm_cfg`` holds the block's own keys,
those left out having the defaults below.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.core.errors import CheckpointError
from ssmlab.mixers.s6_config import S6Config
from ssmlab.models.config import LanguageModelConfig

_TOP: dict[str, Any] = {
    "d_model": None,
    "n_layer": None,
    "vocab_size": None,
    "ssm_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
    "tie_embeddings": True,
    "d_intermediate": 0,
    "attn_layer_idx": [],
    "attn_cfg": {},
}
_SSM: dict[str, Any] = {
    "layer": "Mamba1",
    "d_state": 16,
    "d_conv": 4,
    "expand": 2,
    "dt_rank": "auto",
    "dt_min": 0.001,
    "dt_max": 0.1,
    "dt_init": "random",
    "dt_scale": 1.0,
    "dt_init_floor": 1e-4,
    "conv_bias": True,
    "bias": False,
    "use_fast_path": True,
}
_REQUIRED = ("d_model", "n_layer", "vocab_size")


def read_config(raw: Mapping[str, Any], path: Path) -> LanguageModelConfig:
    """Our config of the same model.

    Raises:
        CheckpointError: an unknown or missing key, or a model that ssmlab does not have.
        ConfigError: a value out of range.
    """
    for key in raw:
        if key not in _TOP:
            raise _unknown(path, key, list(_TOP))
    for key in _REQUIRED:
        if key not in raw:
            raise CheckpointError(f"{path} has no '{key}'; it is not a whole config")
    top = {**_TOP, **raw}
    given = top["ssm_cfg"] or {}
    for key in given:
        if key not in _SSM:
            raise _unknown(path, f"ssm_cfg.{key}", [f"ssm_cfg.{name}" for name in _SSM])
    ssm = {**_SSM, **given}
    for key, value, wanted in (
        ("rms_norm", top["rms_norm"], True),
        ("d_intermediate", top["d_intermediate"], 0),
        ("attn_layer_idx", list(top["attn_layer_idx"] or ()), []),
        ("ssm_cfg.layer", ssm["layer"], "Mamba1"),
    ):
        if value != wanted:
            raise CheckpointError(
                f"{path}: {key} is {value!r}; ssmlab reads models of this format with {key} = "
                f"{wanted!r} only"
            )
    return LanguageModelConfig(
        vocab_size=top["vocab_size"],
        d_model=top["d_model"],
        n_layers=top["n_layer"],
        mamba=MambaConfig(
            expand=ssm["expand"],
            d_conv=ssm["d_conv"],
            conv_bias=ssm["conv_bias"],
            bias=ssm["bias"],
            ssm=S6Config(
                d_state=ssm["d_state"],
                dt_rank=ssm["dt_rank"],
                dt_min=ssm["dt_min"],
                dt_max=ssm["dt_max"],
                dt_init_floor=ssm["dt_init_floor"],
            ),
        ),
        residual_in_fp32=top["residual_in_fp32"],
        tie_embeddings=top["tie_embeddings"],
        pad_vocab_size_multiple=top["pad_vocab_size_multiple"],
    )


def write_config(config: LanguageModelConfig) -> dict[str, Any]:
    """The config.json that mamba_ssm builds the same model from."""
    block, ssm = config.mamba, config.mamba.ssm
    said = {
        "d_state": ssm.d_state,
        "d_conv": block.d_conv,
        "expand": block.expand,
        "dt_rank": ssm.dt_rank,
        "dt_min": ssm.dt_min,
        "dt_max": ssm.dt_max,
        "dt_init_floor": ssm.dt_init_floor,
        "conv_bias": block.conv_bias,
        "bias": block.bias,
    }
    return {
        "d_model": config.d_model,
        "n_layer": config.n_layers,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {key: value for key, value in said.items() if value != _SSM[key]},
        "rms_norm": True,
        "residual_in_fp32": config.residual_in_fp32,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": config.pad_vocab_size_multiple,
        "tie_embeddings": config.tie_embeddings,
    }


def _unknown(path: Path, key: str, known: list[str]) -> CheckpointError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
    return CheckpointError(f"{path}: unknown key '{key}': {hint}")
