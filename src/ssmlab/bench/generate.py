"""How fast text is generated.

Decoding beside the time to read the weights once, the prefill beside its matrix products alone, and
both beside transformers on the same weights.

All of a row is measured in one process, the things compared by turns, and medians are taken.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.bench.ceilings import copy_rate
from ssmlab.bench.presets import preset
from ssmlab.bench.timing import time_in_turn
from ssmlab.checkpoints.formats import public_name
from ssmlab.checkpoints.transformers import write_config
from ssmlab.core.errors import ConfigError
from ssmlab.generation.decoder import make_decoder
from ssmlab.generation.states import read_rows
from ssmlab.models.language_model import LanguageModel
from ssmlab.models.plain import not_plain_mamba

_WARMUP = 12  # steps before the clock: a GPU records the third, a CPU tries two ways in ten


def random_model(name: str, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """A model of a public shape with random weights.

    Raises:
        ConfigError: an unknown shape.
    """
    config = preset(name)
    torch.manual_seed(0)
    return LanguageModel(config).to(device=device, dtype=dtype).eval()


def bench_decode(
    model: LanguageModel,
    batches: Sequence[int],
    repeats: int,
    reference: Any = None,
    new_tokens: int = 16,
) -> list[dict[str, Any]]:
    """A row for each batch size.

    On a CPU the weights are read once between the steps, and timed; on a GPU, where no single
    operation reads them all, that time is their bytes over the rate of a large copy, and steps in
    the ordinary way are timed beside those of a CUDA graph.

    Args:
        model: whose steps are timed.
        batches: batch sizes.
        repeats: timed steps.
        reference: transformers' model of the same weights, or None.
        new_tokens: tokens of a whole ``generate``, ours and theirs, greedy, after a prompt of 16.
    """
    device = model.embedding.weight.device
    on_gpu = device.type == "cuda"
    rate = copy_rate(device) if on_gpu else 0.0
    rows = []
    for batch in batches:
        ids = _tokens(model, batch, 16)
        with torch.no_grad():
            cases = {"step": _stepper(model, ids, None)}
            if on_gpu:
                cases["eager"] = _stepper(model, ids, "eager")
            else:
                cases["read"] = lambda: read_weights(model)
            times = _seconds(cases, repeats, device)
        step = times["step"]
        floor = weight_bytes(model) / rate if on_gpu else times["read"]
        row: dict[str, Any] = {
            "batch": batch,
            "tokens/s": batch / step,
            "ms/step": step * 1e3,
            "weights read ms": floor * 1e3,
            "step/read": step / floor,
        }
        if on_gpu:
            row |= {"eager ms/step": times["eager"] * 1e3, "eager/step": times["eager"] / step}
        if reference is not None:
            whole = {
                "ours": lambda ids=ids: model.generate(ids, max_new_tokens=new_tokens),
                "theirs": lambda ids=ids: _their_generate(reference, ids, new_tokens),
            }
            times = _seconds(whole, max(1, repeats // 5), device)
            row |= {
                "generate tokens/s": batch * new_tokens / times["ours"],
                "transformers tokens/s": batch * new_tokens / times["theirs"],
                "speed-up": times["theirs"] / times["ours"],
            }
        rows.append(row)
    return rows


def bench_prefill(
    model: LanguageModel, length: int, repeats: int, reference: Any = None
) -> dict[str, Any]:
    """Reading a prompt of ``length`` tokens: time to the logits of the next one."""
    ids = _tokens(model, 1, length)
    cases: dict[str, Callable[[], object]] = {
        "ours": lambda: read_rows(model, [ids[0].cpu()], model.init_state(1)),
        "products": lambda: matrix_products(model, length),
    }
    if reference is not None:
        cases["theirs"] = lambda: reference(ids, use_cache=True, logits_to_keep=1)
    with torch.no_grad():
        times = _seconds(cases, repeats, ids.device)
    ours, products = times["ours"], times["products"]
    row: dict[str, Any] = {
        "length": length,
        "tokens/s": length / ours,
        "ms": ours * 1e3,
        "products ms": products * 1e3,
        "prefill/products": ours / products,
    }
    if reference is not None:
        row |= {"transformers ms": times["theirs"] * 1e3, "speed-up": times["theirs"] / ours}
    return row


def weight_bytes(model: LanguageModel) -> int:
    """Bytes of all weights, a tied one once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def read_weights(model: LanguageModel) -> None:
    """Read every weight once: the least that a step has to do."""
    for parameter in model.parameters():
        parameter.sum()


def matrix_products(model: LanguageModel, length: int) -> None:
    """The matrix products of a prefill alone: every linear map of the blocks, the head once."""
    weight = model.embedding.weight
    inputs: dict[int, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not name.startswith("layers.") or parameter.dim() != 2 or name.endswith("A_log"):
            continue
        width = parameter.shape[1]
        if width not in inputs:
            inputs[width] = weight.new_ones(length, width)
        F.linear(inputs[width], parameter)
    F.linear(weight.new_ones(1, weight.shape[1]), model.lm_head.weight)


def their_model(model: LanguageModel) -> Any:
    """transformers' model over the very same memory.

    Raises:
        ConfigError: transformers is not installed, or has no such model.
    """
    try:
        from transformers import MambaConfig, MambaForCausalLM
        from transformers.utils import logging
    except ImportError as error:
        raise ConfigError("transformers is not installed; leave out --transformers") from error
    reason = not_plain_mamba(model)
    if reason is not None:
        raise ConfigError(f"transformers has no such model: {reason}")
    logging.set_verbosity_error()
    said = write_config(model.config, str(model.embedding.weight.dtype).split(".")[1], None)
    kept = {key: value for key, value in said.items() if key not in ("architectures", "dtype")}
    with torch.device("meta"):
        other = MambaForCausalLM(MambaConfig(**kept))
    weights = {public_name(n, "embeddings"): p.detach() for n, p in model.named_parameters()}
    weights.setdefault("lm_head.weight", weights["backbone.embeddings.weight"])
    other.load_state_dict(weights, assign=True)
    return other.eval()


def _stepper(model: LanguageModel, ids: Tensor, backend: str | None) -> Callable[[], object]:
    """One more step after the prompts ``ids`` (B, L), over and over."""
    logits, state = model.prefill(ids)
    decoder, token = make_decoder(model, state, backend), logits.argmax(-1)
    for _ in range(_WARMUP):
        decoder.step(token)
    return lambda: decoder.step(token)


def _seconds(
    cases: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Median of each case, one call a round."""
    times = time_in_turn(cases, repeats=repeats, round_s=0, device=device)
    return {name: time.median_ms / 1e3 for name, time in times.items()}


def _tokens(model: LanguageModel, batch: int, length: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (batch, length), generator=draw)
    return ids.to(model.embedding.weight.device)


def _their_generate(reference: Any, ids: Tensor, new_tokens: int) -> None:
    reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False
    )
