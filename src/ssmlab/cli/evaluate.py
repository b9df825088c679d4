"""``ssmlab eval``: perplexity and tasks, from local files or through the harness."""

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
from ssmlab.cli.output import console, errors, print_json, print_table
from ssmlab.core.errors import DataError


def evaluate(
    model: ModelOption,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="A file of JSON lines, NAME=FILE, or a task of lm-evaluation-harness; repeat."
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text files, folders or globs to measure perplexity on; repeat."),
    ] = None,
    tokenizer: TokenizerOption = None,
    window: Annotated[
        int | None,
        typer.Option(min=2, help="Start anew every so many tokens [default: carry the state on]."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens of --text, at most.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each task, at most.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write results and every question's scores as JSON.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model: perplexity on your text, tasks from local files, or the harness's tasks."""
    from ssmlab.core.files import write_json
    from ssmlab.evaluation import evaluate_task, evaluate_text, load_task

    if not tasks and not text:
        raise DataError("nothing to measure; give --tasks FILE or --text FILE")
    named = [_named(spec) for spec in tasks or ()]
    local = [load_task(path, name, limit) for name, path in named if path is not None]
    foreign = [name for name, path in named if path is None]
    if foreign:
        _check_harness(foreign)
    words = load_tokenizer_for(model, tokenizer)
    loaded = load_model(model, device, dtype)
    results: dict[str, Any] = {"model": model, "tasks": []}
    questions: dict[str, Any] = {}
    for task in local:
        with errors.status(task.name) as status:
            result = evaluate_task(
                loaded,
                words,
                task,
                on_progress=lambda done, of, name=task.name: status.update(f"{name} {done}/{of}"),
            )
        results["tasks"].append(result.to_dict())
        questions[task.name] = result.items
    if text:
        with errors.status("perplexity"):
            found = evaluate_text(loaded, words, text, window=window, max_tokens=max_tokens)
        results["text"] = found.to_dict()
    if foreign:
        results["harness"] = _run_harness(loaded, words, foreign, limit)
    if out is not None:
        write_json(out, {**results, "questions": questions})
    if json:
        print_json(results)
    else:
        _print(results, out)


def _named(spec: str) -> tuple[str | None, str | None]:
    """(name, path) of a local task; (name, None) of the harness's."""
    name, equals, path = spec.partition("=")
    if equals:
        return name, path
    if Path(spec).expanduser().is_file() or spec.endswith((".jsonl", ".json")) or "/" in spec:
        return None, spec
    return spec, None


def _check_harness(names: list[Any]) -> None:
    import importlib.util

    if importlib.util.find_spec("lm_eval") is None:
        raise DataError(
            f"there is no file {names[0]}, and lm-evaluation-harness, whose task it may be, is not "
            "installed; give a file of JSON lines, or install ssmlab[lm-eval]"
        )


def _run_harness(model: Any, words: Any, names: list[Any], limit: int | None) -> dict[str, Any]:
    import lm_eval  # pyright: ignore[reportMissingImports]

    from ssmlab.evaluation.harness import HarnessModel

    # Decorators hide the arguments of both from type checkers.
    run: Any = lm_eval.simple_evaluate
    harness_model: Any = HarnessModel
    try:
        found = run(model=harness_model(model, words), tasks=names, limit=limit, bootstrap_iters=0)
    except Exception as error:  # the harness and its data library raise many kinds
        raise DataError(
            f"lm-evaluation-harness could not run {', '.join(names)}: {error} (its tasks need their "
            "data from the hub; without a network give files of JSON lines)"
        ) from error
    return {
        task: {key: value for key, value in row.items() if isinstance(value, int | float | str)}
        for task, row in found["results"].items()
    }


def _print(results: dict[str, Any], out: Path | None) -> None:
    rows: list[list[Any]] = []
    for task in results["tasks"]:
        names = [name for name in ("acc", "acc_norm", "ppl") if name in task]
        rows += [[task["task"], task["n"], n, task[n]["value"], task[n]["stderr"]] for n in names]
    if "text" in results:
        text = results["text"]
        rows.append(["text", text["tokens"], "ppl", text["ppl"], text["ppl_stderr"]])
        rows.append(["text", text["tokens"], "bits/byte", text["bits_per_byte"], None])
    for task, row in results.get("harness", {}).items():
        for key, value in row.items():
            if isinstance(value, float) and "stderr" not in key:
                error = row.get(key.replace(",", "_stderr,"))
                error = error if isinstance(error, float) else None
                rows.append([task, None, key.split(",")[0], value, error])
    print_table(results["model"], ["task", "n", "figure", "value", "standard error"], rows)
    if out is not None:
        console.print(f"Written: {out}", soft_wrap=True)
