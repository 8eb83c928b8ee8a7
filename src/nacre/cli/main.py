"""The command line. Importing it loads neither torch nor transformers: each command imports what it needs."""

from __future__ import annotations

import sys

import typer

from nacre.cli.check import check
from nacre.cli.compare import compare
from nacre.cli.demo import demo
from nacre.cli.pretrain import pretrain
from nacre.cli.report import report
from nacre.cli.run import run
from nacre.cli.sheets import methods, streams
from nacre.errors import NacreError

app = typer.Typer(
    name="nacre",
    help="Continual learning for language models: one pretrained model, task after task.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, check, run, report, compare, methods, streams, pretrain):
    app.command()(command)


@app.callback(invoke_without_command=True)
def version_option(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from nacre import __version__

        typer.echo(f"nacre {__version__}")
        raise typer.Exit


def main() -> None:
    """Exit codes: 0 done; 1 a bug, with its traceback, or what `check --strict` found; 2 something the user can mend,
    in one line; 130 interrupted."""
    try:
        app()
    except NacreError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
