"""The entry point: the tree of commands, and how errors reach the user."""

import os
import sys
from collections.abc import Sequence

import typer
from rich.markup import escape

from ssmlab.cli import (
    bench,
    bench_generate,
    convert,
    doctor,
    evaluate,
    generate,
    params,
    study,
    train,
)
from ssmlab.cli.output import errors
from ssmlab.core.errors import Interrupted, SsmlabError

EXIT_ERROR, EXIT_USAGE, EXIT_BUG, EXIT_INTERRUPTED = 1, 2, 70, 130

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
[bold]ssmlab[/bold]: a lab and a library for selective state space models.

A tour, in the order a newcomer takes:

  [cyan]ssmlab doctor[/cyan]                             is this machine ready?

  [cyan]ssmlab study list[/cyan]                         which experiments of the paper there are

  [cyan]ssmlab study run table7 --scale quick[/cyan]     run one, here, in minutes

  [cyan]ssmlab study status runs/table7-quick[/cyan]     how far it is, from another terminal

  [cyan]ssmlab study report runs/table7-quick[/cyan]     tables, figures, a verdict for each claim

  [cyan]ssmlab params table10[/cyan]                     the paper's models and their sizes

  [cyan]ssmlab bench scan --device cpu[/cyan]            how fast the scan is here

  [cyan]ssmlab generate -m CHECKPOINT -p 'Once'[/cyan]   text from a model that you have

  [cyan]ssmlab train --init-from CHECKPOINT[/cyan]       go on training it on --data FILES

  [cyan]ssmlab eval -m CHECKPOINT --tasks FILE[/cyan]    perplexity and tasks, with no network

  [cyan]ssmlab convert -m CHECKPOINT --to FORMAT[/cyan]  hand it on: mamba_ssm, transformers, ssmlab

Stop a study whenever you like; the same command goes on where it was. Any command that prints a
table takes --json. Add --debug anywhere to see the traceback of an error.
""",
)
app.add_typer(study.app, name="study")
app.command("params")(params.params)
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("eval")(evaluate.evaluate)
app.command("convert")(convert.convert)
bench.app.command("generate")(bench_generate.generate)
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    if version:
        from ssmlab import __version__

        typer.echo(f"ssmlab {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 well, 1 an error that the text explains,
    2 wrong usage, 70 a bug of ours, 130 stopped on request."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or bool(os.environ.get("SSMLAB_DEBUG"))
    given = [argument for argument in given if argument != "--debug"]
    try:
        code = app(args=given, prog_name="ssmlab", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (Interrupted, KeyboardInterrupt) as error:
        if debug:
            raise
        _say(f"[yellow]stopped:[/yellow] {escape(str(error) or 'interrupted')}")
        return EXIT_INTERRUPTED
    except typer.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SsmlabError as error:
        if debug:
            raise
        _say(f"[red]error:[/red] {escape(str(error))}")
        return EXIT_ERROR
    except Exception as error:
        if debug:
            raise
        usage = getattr(error, "format_message", None)  # click's usage errors
        if usage is not None:
            context = getattr(error, "ctx", None)
            if context is not None:
                _say(escape(context.get_usage()))
            _say(f"[red]error:[/red] {escape(usage())}")
            return EXIT_USAGE
        if type(error).__name__ == "Abort":
            return EXIT_INTERRUPTED
        name = type(error).__name__
        _say(
            f"[red]internal error:[/red] {escape(f'{name}: {error}')}\n"
            "This is a bug in ssmlab. Run the command again with --debug and report what it prints."
        )
        return EXIT_BUG


def _say(text: str) -> None:
    # Unwrapped: a path cut in two by a line end could not be copied or searched for.
    errors.print(text, soft_wrap=True)
