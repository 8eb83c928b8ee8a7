"""The command line. Importing it loads neither torch nor transformers: each command imports what it needs."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn

import typer

from nacre.cli.check import check
from nacre.cli.compare import compare
from nacre.cli.demo import demo
from nacre.cli.export import export
from nacre.cli.import_learned import import_learned
from nacre.cli.init import init
from nacre.cli.inspect import inspect
from nacre.cli.learn import forget, learn
from nacre.cli.predict import evaluate, predict
from nacre.cli.pretrain import pretrain
from nacre.cli.report import report
from nacre.cli.reproduce import reproduce
from nacre.cli.run import run
from nacre.cli.serve import serve
from nacre.cli.sheets import methods, streams
from nacre.cli.sweep import sweep
from nacre.cli.versions import rollback, show, status, versions
from nacre.errors import FailedElsewhere, NacreError, file_error, lost_process, memory_error, name_error
from nacre.launcher import launched
from nacre.printable import one_line

LONGEST_LINE = 4000
"""Characters of an error's line."""
WRONG_COMMAND_LINE: type[Exception] = typer.BadParameter.__mro__[2]
"""click's base of what is wrong with a command line, which typer may bring along under a name of its own."""

STORE = "A store: one model, a new task every week"

app = typer.Typer(
    name="nacre",
    help="Continual learning for language models: one pretrained model, task after task.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, check, run, sweep, reproduce, report, compare, methods, streams, pretrain):
    app.command()(command)
app.add_typer(inspect, name="inspect")
for of_a_store in (init, learn, predict, status, versions, show, rollback, forget, export, serve):
    app.command(rich_help_panel=STORE)(of_a_store)
app.command("eval", rich_help_panel=STORE)(evaluate)
app.command("import", rich_help_panel=STORE)(import_learned)


@app.callback(invoke_without_command=True)
def version_option(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and stop.")
) -> None:
    # Not a docstring: typer would print it in the place of the help.
    if version:
        from nacre import __version__

        typer.echo(f"nacre {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 done; 1 a bug, with its traceback, what `check --strict` found, or a gate that stays closed; 2
    something the user can mend, in one line; 130 interrupted.
    """
    # torch's threads would burn a core each while they wait for one another: two runs with two threads each on two
    # cores took five times as long (docs/performance.md). It is read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal's encoding lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    if sys.flags.optimize > 1:
        _refuse("PYTHONOPTIMIZE=2 and -OO leave docstrings out, which transformers reads; take 1, or neither.")
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except WRONG_COMMAND_LINE as error:
        message = error.format_message()  # type: ignore[attr-defined]
        _refuse(f"{message.removesuffix('.')}; 'nacre COMMAND --help' lists what there is.")
    except FailedElsewhere:  # which the process that failed prints
        sys.exit(2)
    except NacreError as error:
        _refuse(str(error))
    except OSError as error:
        _drop_output()
        _refuse(str(file_error(error)))
    except (MemoryError, RuntimeError) as error:
        lost = lost_process(error) if isinstance(error, RuntimeError) else None
        if (refusal := memory_error(error) or lost) is None:
            raise
        _refuse(str(refusal))
    except UnicodeEncodeError as error:
        if (refusal := name_error(error)) is None:
            raise
        _refuse(str(refusal))
    sys.exit(code)


def _refuse(message: str) -> NoReturn:
    """Print one line, whatever names and values it repeats, and exit with 2."""
    from nacre.cli.screen import print_error

    line = one_line(f"{_whose()}{message}")
    print_error(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ...")
    sys.exit(2)


def _whose() -> str:
    """What tells the line of one of several processes apart; nothing in the first."""
    try:
        number, most = launched()
    except NacreError:
        return ""
    return f"Process {number + 1} of {most}: " if number else ""


def _drop_output() -> None:
    """Forget what a full or closed standard output did not take, which Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
