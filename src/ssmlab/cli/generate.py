"""``ssmlab generate``: continue a prompt, streamed to the terminal."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmlab.cli.models import (
    DeviceOption,
    DtypeOption,
    ModelOption,
    TokenizerOption,
    load_model,
    load_tokenizer_for,
)
from ssmlab.cli.output import console, errors, print_json
from ssmlab.core.errors import GenerationError


def generate(
    model: ModelOption,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Text to go on from; repeat for several. - is stdin."),
    ] = None,
    tokenizer: TokenizerOption = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=0)] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k most likely tokens; 0 all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the most likely up to this sum.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Keep those this share as likely as the top.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 discourages repeats.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; repeat.")] = None,
    stop_token: Annotated[
        list[str] | None, typer.Option(help="Stop at this token, a name or an id; repeat.")
    ] = None,
    ignore_end: Annotated[bool, typer.Option(help="Go on after the end-of-text token.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    save_state: Annotated[
        Path | None, typer.Option(help="Write the state after the text, to go on from.")
    ] = None,
    load_state: Annotated[
        Path | None, typer.Option(help="Go on from a saved state; --prompt is then added to it.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Continue a prompt, token by token, as the text comes."""
    import torch

    from ssmlab.generation import Generated, GenerationConfig, Session, stream

    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        repetition_penalty=repetition_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=tuple(stop or ()),
        stop_tokens=tuple(int(t) if t.isdigit() else t for t in stop_token or ()),
        stop_at_end=not ignore_end,
    )
    texts = [sys.stdin.read() if text == "-" else text for text in prompt or ()]
    if not texts and load_state is None:
        raise GenerationError("no prompt was given; give --prompt TEXT (or - for standard input)")
    words = load_tokenizer_for(model, tokenizer)
    loaded = load_model(model, device, dtype)
    source: Any = texts
    if load_state is not None:
        source = Session.load(load_state, loaded)
        if texts:
            source.append(
                [torch.from_numpy(ids) for ids in words.encode([t.encode() for t in texts])]
            )
    live = not json and (len(texts) == 1 or (not texts and len(source.tokens) == 1))
    pieces = stream(loaded, source, tokenizer=words, config=config)
    if live and texts:
        sys.stdout.write(texts[0])
        sys.stdout.flush()
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            result: Generated = end.value
            break
        if live:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
    if live:
        sys.stdout.write("\n")
    _show(result, texts, json, live)
    if save_state is not None:
        result.session.save(save_state)
        errors.print(f"state saved in {save_state}", soft_wrap=True)


def _show(result: Any, texts: list[str], json: bool, live: bool) -> None:
    if json:
        rows = [
            {
                "prompt": texts[i] if i < len(texts) else None,
                "text": text,
                "finish": result.finish[i],
                "tokens": result.tokens[i].tolist(),
                "logprobs": result.logprobs[i].tolist(),
            }
            for i, text in enumerate(result.texts)
        ]
        print_json(rows)
    elif not live:
        for i, text in enumerate(result.texts):
            console.rule(f"{i + 1}", align="left")
            sys.stdout.write((texts[i] if i < len(texts) else "") + text + "\n")
            sys.stdout.flush()
