"""How fast text is generated.

Decoding beside the time to read the weights once, the prefill beside its matrix products alone, and
both beside transformers on the same weights.

All of a row is measured in one process, the things compared by turns, and medians are taken.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmlab.checkpoints.formats import public_name
from ssmlab.checkpoints.transformers import write_config
from ssmlab.core.errors import ConfigError
from ssmlab.generation.decoder import make_decoder
from ssmlab.generation.states import read_rows
from ssmlab.models.config import LanguageModelConfig
from ssmlab.models.language_model import LanguageModel
from ssmlab.models.plain import not_plain_mamba

# Shapes of the public models: d_model and number of layers, vocabulary 50277 padded to 50280.
SHAPES = {
    "130m": (768, 24),
    "370m": (1024, 48),
    "790m": (1536, 48),
    "1.4b": (2048, 48),
    "2.8b": (2560, 64),
}


def random_model(name: str, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """A model of a public shape with random weights.

    Raises:
        ConfigError: an unknown shape.
    """
    if name not in SHAPES:
        raise ConfigError(f"--shape is '{name}', expected one of {', '.join(SHAPES)}")
    width, layers = SHAPES[name]
    config = LanguageModelConfig(
        vocab_size=50277, d_model=width, n_layers=layers, pad_vocab_size_multiple=8
    )
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

    Args:
        model: whose steps are timed.
        batches: batch sizes.
        repeats: timed steps.
        reference: transformers' model of the same weights, or None.
        new_tokens: tokens of a whole ``generate``, ours and theirs, greedy, after a prompt of 16.
    """
    rows = []
    for batch in batches:
        ids = _tokens(model, batch, 16)
        with torch.no_grad():
            logits, state = model.prefill(ids)
            decoder = make_decoder(model, state)
            token = logits.argmax(-1)
            step, floor = by_turns(
                [lambda d=decoder, t=token: d.step(t), lambda: read_weights(model)], repeats, model
            )
        row: dict[str, Any] = {
            "batch": batch,
            "tokens/s": batch / step,
            "ms/step": step * 1e3,
            "weights read ms": floor * 1e3,
            "step/read": step / floor,
        }
        if reference is not None:
            ours, theirs = by_turns(
                [
                    lambda ids=ids: model.generate(ids, max_new_tokens=new_tokens),
                    lambda ids=ids: _their_generate(reference, ids, new_tokens),
                ],
                max(1, repeats // 5),
                model,
            )
            row |= {
                "generate tokens/s": batch * new_tokens / ours,
                "transformers tokens/s": batch * new_tokens / theirs,
                "speed-up": theirs / ours,
            }
        rows.append(row)
    return rows


def bench_prefill(
    model: LanguageModel, length: int, repeats: int, reference: Any = None
) -> dict[str, Any]:
    """Reading a prompt of ``length`` tokens: time to the logits of the next one."""
    ids = _tokens(model, 1, length)
    with torch.no_grad():
        ours, products = by_turns(
            [
                lambda: read_rows(model, [ids[0].cpu()], model.init_state(1)),
                lambda: matrix_products(model, length),
            ],
            repeats,
            model,
        )
        row: dict[str, Any] = {
            "length": length,
            "tokens/s": length / ours,
            "ms": ours * 1e3,
            "products ms": products * 1e3,
            "prefill/products": ours / products,
        }
        if reference is not None:
            (theirs,) = by_turns(
                [lambda: reference(ids, use_cache=True, logits_to_keep=1)],
                max(1, repeats // 3),
                model,
            )
            row |= {"transformers ms": theirs * 1e3, "speed-up": theirs / ours}
    return row


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


def by_turns(
    actions: Sequence[Callable[[], object]], repeats: int, model: LanguageModel
) -> list[float]:
    """Median seconds of each action, run by turns after a first round that does not count."""
    device = model.embedding.weight.device
    times: list[list[float]] = [[] for _ in actions]
    for round_ in range(repeats + 1):
        for kept, action in zip(times, actions, strict=True):
            _wait(device)
            start = time.perf_counter()
            action()
            _wait(device)
            if round_:
                kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in times]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _tokens(model: LanguageModel, batch: int, length: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (batch, length), generator=draw)
    return ids.to(model.embedding.weight.device)


def _their_generate(reference: Any, ids: Tensor, new_tokens: int) -> None:
    reference.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False
    )
