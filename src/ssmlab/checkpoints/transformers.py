"""config.json of transformers' ``MambaForCausalLM``, read and written.

There every row of the embedding is a token. A model whose vocabulary is padded keeps its own size
in two keys that transformers carries along without using them.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssmlab.blocks.mamba_config import MambaConfig
from ssmlab.checkpoints.formats import shown_names
from ssmlab.core.errors import CheckpointError
from ssmlab.mixers.s6_config import S6Config
from ssmlab.models.config import LanguageModelConfig

_UNPADDED, _MULTIPLE = "unpadded_vocab_size", "pad_vocab_size_multiple"

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50280,
    "hidden_size": 768,
    "state_size": 16,
    "num_hidden_layers": 32,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "residual_in_fp32": True,
    "time_step_rank": "auto",
    "time_step_min": 0.001,
    "time_step_max": 0.1,
    "time_step_floor": 1e-4,
    "tie_word_embeddings": True,
}
# Keys that change nothing in what the weights compute: start values, other implementations of the
# same arithmetic, bookkeeping of the library, and what converted checkpoints kept of their origin.
_WITHOUT_EFFECT = {
    "time_step_scale", "time_step_init_scheme", "initializer_range", "rescale_prenorm_residual",
    "use_cache", "use_mambapy", "use_associative_scan", "model_type", "architectures",
    "torch_dtype", "dtype", "transformers_version", "bos_token_id", "eos_token_id",
    "pad_token_id", "name_or_path", "_name_or_path", "intermediate_size", "d_inner", "d_model",
    "n_layer", "ssm_cfg", "rms_norm", "fused_add_norm", "layer_types", "is_encoder_decoder",
    "output_hidden_states", "output_attentions", "return_dict", "problem_type", "id2label",
    "label2id", "chunk_size_feed_forward", "use_return_dict", "auto_map",
    _UNPADDED, _MULTIPLE,
}  # fmt: skip


def read_config(raw: Mapping[str, Any], path: Path) -> LanguageModelConfig:
    """Our config of the same model.

    Raises:
        CheckpointError: another kind of model, or values that contradict each other.
        ConfigError: a value out of range.
    """
    kind = raw["model_type"]
    if kind != "mamba":
        raise CheckpointError(
            f"{path}: model_type is {kind!r}; of transformers' models ssmlab reads 'mamba' "
            "(MambaForCausalLM) only"
        )
    unknown = [key for key in raw if key not in _DEFAULTS and key not in _WITHOUT_EFFECT]
    if unknown:
        warnings.warn(
            f"{path}: keys not known here were ignored: {shown_names(unknown)}; if one of them "
            "changes what the model computes, its numbers will differ",
            stacklevel=2,
        )
    said = {**_DEFAULTS, **{key: raw[key] for key in raw if key in _DEFAULTS}}
    if said["hidden_act"] not in ("silu", "swish"):
        raise CheckpointError(f"{path}: hidden_act is {said['hidden_act']!r}, expected 'silu'")
    inner = raw.get("intermediate_size", said["expand"] * said["hidden_size"])
    if inner != said["expand"] * said["hidden_size"]:
        raise CheckpointError(
            f"{path}: intermediate_size is {inner}, but expand x hidden_size is {said['expand']} x "
            f"{said['hidden_size']}"
        )
    rows, tokens = said["vocab_size"], raw.get(_UNPADDED, said["vocab_size"])
    multiple = raw.get(_MULTIPLE, 1) if _UNPADDED in raw else 1
    if tokens != rows and -(-tokens // multiple) * multiple != rows:
        raise CheckpointError(
            f"{path}: vocab_size is {rows}, but {_UNPADDED} {tokens} padded to a multiple of "
            f"{multiple} is {-(-tokens // multiple) * multiple}"
        )
    return LanguageModelConfig(
        vocab_size=tokens,
        d_model=said["hidden_size"],
        n_layers=said["num_hidden_layers"],
        mamba=MambaConfig(
            expand=said["expand"],
            d_conv=said["conv_kernel"],
            conv_bias=said["use_conv_bias"],
            bias=said["use_bias"],
            ssm=S6Config(
                d_state=said["state_size"],
                dt_rank=said["time_step_rank"],
                dt_min=said["time_step_min"],
                dt_max=said["time_step_max"],
                dt_init_floor=said["time_step_floor"],
            ),
        ),
        norm_eps=said["layer_norm_epsilon"],
        residual_in_fp32=said["residual_in_fp32"],
        tie_embeddings=said["tie_word_embeddings"],
        pad_vocab_size_multiple=multiple,
    )


def write_config(config: LanguageModelConfig, dtype: str, end: int | None) -> dict[str, Any]:
    """The config.json that ``AutoModelForCausalLM`` builds the same model from.

    Args:
        config: ours.
        dtype: name of the weights' type, for example "float32".
        end: the tokenizer's end-of-text token, where generation stops; None for no such token.
    """
    block, ssm = config.mamba, config.mamba.ssm
    said = {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "dtype": dtype,
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": block.d_inner(config.d_model),
        "num_hidden_layers": config.n_layers,
        "state_size": ssm.d_state,
        "expand": block.expand,
        "conv_kernel": block.d_conv,
        "use_bias": block.bias,
        "use_conv_bias": block.conv_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": config.residual_in_fp32,
        "time_step_rank": block.dt_rank(config.d_model),
        "time_step_min": ssm.dt_min,
        "time_step_max": ssm.dt_max,
        "time_step_floor": ssm.dt_init_floor,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    if config.padded_vocab_size != config.vocab_size:
        said |= {_UNPADDED: config.vocab_size, _MULTIPLE: config.pad_vocab_size_multiple}
    return said
