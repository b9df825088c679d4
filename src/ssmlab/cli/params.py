"""``ssmlab params``: build the models of a study on the meta device and count their parameters."""

from typing import Annotated, Any

import typer

from ssmlab.cli.output import print_json, print_table


def params(
    name: Annotated[str, typer.Argument(help="A study, for example table9.")],
    scale: Annotated[str, typer.Option(help="quick, small or paper.")] = "paper",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a config key.")
    ] = None,
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
        counts = count_parameters(trial.config.model)
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
