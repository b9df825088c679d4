"""What was run, what to be careful about, and how to run it again."""

import json
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ssmlab.studies.report.data import RowView, TrialView
from ssmlab.studies.report.text import count_text, duration, labels_text, millions, plural
from ssmlab.studies.store import StudyResults

Plain = Mapping[str, Any]
Facts = tuple[tuple[str, str], ...]


def facts(
    results: StudyResults,
    rows: Sequence[RowView],
    environments: Sequence[Plain],
    configs: Sequence[Plain],
) -> Facts:
    """Names and values, in the order of the page; what is not known yet is left out."""
    trials = [trial for row in rows for trial in row.trials]
    here = [trial for trial in trials if trial.origin is None]
    others = [trial for trial in trials if trial.origin is not None]
    memory = [t.peak_memory_bytes for t in trials if t.peak_memory_bytes is not None]
    seeds = plural(results.seeds, "seed")
    found = [
        ("Trials", f"{plural(len(rows), 'row')} × {seeds} = {len(trials)}{_taken_over(others)}"),
        ("Data", _data(environments)),
        ("Model", _common(configs, _model)),
        ("Training", _common(configs, _training)),
        ("Optimiser", _common(configs, _optimiser)),
        ("Validation", _common(configs, _validation)),
        ("Training tokens", _both(_tokens, here, others, "in all")),
        ("Time", _both(_time, here, others, "all ended trials together", ", ")),
        ("Peak memory", f"{_bytes(max(memory))}, the largest of the trials" if memory else ""),
        ("Device", _distinct(_device(e) for e in environments)),
        ("System", _distinct(e.get("platform") for e in environments)),
        ("Versions", _distinct(_versions(e) for e in environments)),
        ("Revision", _distinct(e.get("git_revision") for e in environments)),
        ("Changed settings", _settings(results.overrides)),
    ]
    return tuple((name, value) for name, value in found if value)


def notes(
    results: StudyResults, rows: Sequence[RowView], environments: Sequence[Plain]
) -> tuple[str, ...]:
    """What a reader must know before reading the figures."""
    said, axes = [], [axis.name for axis in results.study.axes]
    if any(row.paper_ppl is not None for row in rows):
        said.append(_scale_note(results, rows, environments))
    changed = {k: v for k, v in results.overrides.items() if not k.startswith("data.")}
    if changed:
        said.append(f"Not the scale as it stands; changed: {_settings(changed)}.")
    if results.seeds == 1:
        said.append(
            "One seed a row: there is no spread to test against, so no interval and no verdict. "
            "Run with --seeds 2 or more."
        )
    for state, what in (
        ("diverged", "Diverged, and not in any mean"),
        ("failed", "Stopped by an error; the same command tries again"),
    ):
        named = [
            f"{labels_text(row.labels, axes)}, seed {trial.seed}"
            + (f" ({trial.reason})" if trial.reason else "")
            for row in rows
            for trial in row.trials
            if trial.state == state
        ]
        if named:
            said.append(f"{what}: {'; '.join(named)}.")
    return tuple(said)


def commands(
    results: StudyResults, environments: Sequence[Plain], archive: str | None
) -> tuple[str, ...]:
    """The command lines that give this study and this report again."""
    name = results.study.name
    for environment in environments:
        given = [argument for argument in environment.get("argv") or () if ".py:" in str(argument)]
        if given:  # a study of the user's own is found by its file
            name = str(given[0])
            break
    parts = ["ssmlab", "study", "run", name, "--scale", results.scale]
    parts += ["--seeds", str(results.seeds)]
    for key, value in sorted(results.overrides.items()):
        if key == "data.paths" and isinstance(value, list) and value:
            for path in value:
                parts += ["--data", str(path)]
        else:
            parts += ["--set", f"{key}={_yaml(value)}"]
    out = str(results.folder) if archive is None else f"runs/{results.study.name}-{results.scale}"
    return (
        shlex.join([*parts, "--out", out]),
        shlex.join(["ssmlab", "study", "report", archive or out]),
    )


def _scale_note(
    results: StudyResults, rows: Sequence[RowView], environments: Sequence[Plain]
) -> str:
    changed = [key for key in results.overrides if not key.startswith("data.")]
    if results.scale == "paper" and not changed:
        text = _data(environments) or "unknown"
        return (
            "At the paper's scale. Perplexities compare with the paper's only if the text is the "
            f"Pile cut by GPT-2's tokenizer; here it is: {text}. Orders and ratios of rows compare "
            "in any case."
        )
    sizes = [row.n_params for row in rows if row.n_params is not None]
    printed = [row.paper_params_m for row in rows if row.paper_params_m is not None]
    tokens = [row.tokens for row in rows if row.tokens is not None]
    here = ""
    if sizes and tokens:
        here = f" (models of {_span(sizes)}M parameters, {count_text(max(tokens))} training tokens"
        if printed:
            here += f"; the paper's have {_span([1e6 * size for size in printed])}M parameters"
        here += ")"
    return (
        "Absolute perplexities are not comparable with the paper's: scale, text and tokenizer are "
        f"others{here}. What compares is the order of the rows and the ratios between them."
    )


def _taken_over(trials: Sequence[TrialView]) -> str:
    if not trials:
        return ""
    names = dict.fromkeys(trial.origin for trial in trials)
    return f", of which {len(trials)} taken over from {', '.join(map(str, names))}"


def _both(
    total: Callable[[Sequence[TrialView]], str],
    here: Sequence[TrialView],
    others: Sequence[TrialView],
    what: str,
    separator: str = " ",
) -> str:
    """A total of the trials that ran in this study, and apart from it that of those taken over."""
    own, more = total(here), total(others)
    texts = [f"{own}{separator}{what}"] if own else []
    texts += [f"{more} in trials taken over"] if more else []
    return "; ".join(texts)


def _tokens(trials: Sequence[TrialView]) -> str:
    counts = [trial.tokens for trial in trials if trial.tokens is not None]
    return count_text(sum(counts)) if counts else ""


def _time(trials: Sequence[TrialView]) -> str:
    seconds = [trial.seconds for trial in trials if trial.seconds is not None]
    return duration(math.fsum(seconds)) if seconds else ""


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _span(values: Sequence[float]) -> str:
    low, high = millions(min(values)), millions(max(values))
    return low if low == high else f"{low} to {high}"


def _data(environments: Sequence[Plain]) -> str:
    return _distinct((e.get("data") or {}).get("description") for e in environments)


def _device(environment: Plain) -> str | None:
    name, device = environment.get("device_name"), environment.get("device")
    if device == "cpu":
        threads = environment.get("threads")
        return f"{name or 'CPU'}" + (f", {plural(threads, 'thread')}" if threads else "")
    return f"{name} ({device})" if name and device else name or device


def _versions(environment: Plain) -> str:
    packages = {"ssmlab": environment.get("ssmlab"), "torch": environment.get("torch")}
    packages |= {"Python": environment.get("python"), "CUDA": environment.get("cuda")}
    packages |= environment.get("packages") or {}
    return ", ".join(f"{name} {version}" for name, version in packages.items() if version)


def _model(config: Plain) -> str:
    model = config["model"]
    blocks = plural(model["n_layers"], "block")
    return (
        f"{blocks} (pattern {model['pattern']}), width {model['d_model']}, "
        f"vocabulary {model['vocab_size']:,}"
    )


def _training(config: Plain) -> str:
    training = config["training"]
    tokens = training["steps"] * training["batch_size"] * training["seq_len"]
    return (
        f"{plural(training['steps'], 'step')} of {plural(training['batch_size'], 'sequence')} × "
        f"{training['seq_len']:,} tokens = {count_text(tokens)} tokens a trial; "
        f"precision {training['precision']}"
    )


def _optimiser(config: Plain) -> str:
    training = config["training"]
    betas = ", ".join(f"{beta:g}" for beta in training["betas"])
    return (
        f"AdamW (β {betas}; decay {training['weight_decay']:g}; clip {training['grad_clip']:g}), "
        f"peak rate {training['lr']:g}, {training['warmup_fraction']:.0%} warm-up, "
        f"cosine to {training['lr_min']:g}"
    )


def _validation(config: Plain) -> str:
    return f"at most {config['training']['eval_tokens']:,} held-out tokens an evaluation"


def _common(configs: Sequence[Plain], describe: Callable[[Plain], str]) -> str:
    """What all configs say alike; where rows differ, each of the texts."""
    texts = []
    for config in configs:
        try:
            texts.append(describe(config))
        except (KeyError, TypeError, ValueError):  # written by another version
            continue
    return _distinct(texts)


def _distinct(texts: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _settings(overrides: Plain) -> str:
    return ", ".join(f"{key} = {_yaml(value)}" for key, value in sorted(overrides.items()))


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
