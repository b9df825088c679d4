"""``ssmlab params``: build the models of a study on the meta device and count their parameters."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmlab.cli.output import print_json, print_table

if TYPE_CHECKING:
    from ssmlab.models.config import LanguageModelConfig
    from ssmlab.training.config import TrialConfig

_TABLE_COLUMNS = 4


def params(
    name: Annotated[str, typer.Argument(help="A study, for example table9.")],
    scale: Annotated[str, typer.Option(help="quick, small or paper.")] = "paper",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a config key.")
    ] = None,
    components: Annotated[
        bool, typer.Option("--components/--totals", help="Show what the numbers are made of.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the parameters of every model of a study, beside the paper's figures."""
    from ssmlab.core.config import parse_assignments
    from ssmlab.models.count import count_parameters
    from ssmlab.paper import get_study

    study = get_study(name)
    trials = study.trials(scale, seeds=1, overrides=parse_assignments(set_ or ()))
    rows: list[dict[str, Any]] = []
    for trial in trials:
        counts = count_parameters(_with_vocabulary(trial.config))
        figure = study.figures.get(trial.row.labels)
        rows.append(
            {
                **dict(zip([axis.name for axis in study.axes], trial.row.labels, strict=True)),
                "parameters": counts["total"],
                "parameters_m": round(counts["total"] / 1e6, 1),
                "paper_m": figure.params_m if figure and scale == "paper" else None,
                "components": counts,
            }
        )
    if json:
        print_json({"study": study.name, "scale": scale, "rows": rows})
        return
    axes = [axis.name for axis in study.axes]
    print_table(
        f"{study.title}: parameters at scale {scale}",
        [*axes, "parameters", "M", "paper's M"],
        [[*(r[a] for a in axes), r["parameters"], r["parameters_m"], r["paper_m"]] for r in rows],
    )
    if components:
        _print_components(axes, rows)


def _with_vocabulary(config: "TrialConfig") -> "LanguageModelConfig":
    """The model with the size of the vocabulary that its tokenizer has before any text is read.

    Raises:
        ConfigError: only the tokenizer's file can tell.
    """
    from ssmlab.core.errors import ConfigError
    from ssmlab.data.config import bpe_vocabulary

    if config.model.vocab_size:
        return config.model
    tokenizer = config.data.tokenizer
    size = 256 if tokenizer == "bytes" else bpe_vocabulary(tokenizer)
    if size is None:
        raise ConfigError(
            f"the size of the vocabulary is that of data.tokenizer={tokenizer!r}, which is not read "
            "here; give it with --set model.vocab_size=SIZE"
        )
    return dataclasses.replace(config.model, vocab_size=size)


def _print_components(axes: list[str], rows: list[dict[str, Any]]) -> None:
    """A line a component, a column a model: four models of the same components to a table, so that
    it fits a narrow terminal. Models with the same counts throughout share a column."""
    models: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for row in rows:
        label = ", ".join(str(row[axis]) for axis in axes)
        models.setdefault(tuple(row["components"].items()), []).append(label)
    by_names: dict[tuple[str, ...], list[tuple[tuple[str, int], ...]]] = {}
    for counts in models:
        by_names.setdefault(tuple(name for name, _ in counts), []).append(counts)
    for names, alike in by_names.items():
        for start in range(0, len(alike), _TABLE_COLUMNS):
            some = alike[start : start + _TABLE_COLUMNS]
            print_table(
                "by component, all layers together",
                ["component", *(" | ".join(models[counts]) for counts in some)],
                [[name, *(counts[line][1] for counts in some)] for line, name in enumerate(names)],
            )
