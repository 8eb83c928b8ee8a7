"""`nacre eval` and `nacre predict`: what a version of a store scores, and what it answers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from nacre.cli.screen import Grid, percent, screen
from nacre.console import print_json
from nacre.printable import one_line

if TYPE_CHECKING:
    from nacre.store.answering import Question
    from nacre.store.store import Store
    from nacre.tasks.task import Task

MOST_INPUT = 256 * 1024 * 1024
"""Bytes of questions that are read at once."""

VersionOption = Annotated[str, typer.Option(help="The first digits of its name, or 'current'.")]


def evaluate(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store.")],
    version: VersionOption = "current",
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; repeatable. All whose test rows were kept if not given.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the test rows of --task are, if the store has kept none: the same rows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON; progress goes to standard error.")] = False,
) -> None:
    """Score a version again on the test rows of the tasks that it has learned."""
    from nacre.cli.display import Display
    from nacre.files import to_json
    from nacre.store import teaching
    from nacre.store.store import Store

    opened = Store.open(store)
    name = opened.resolve(version)
    tasks = _tasks(opened, name, task, data)
    display = Display(error=as_json)
    with display.interruptible("Nothing was changed."):
        own, scores = teaching.evaluate(opened, name, display, tasks)
    rows, document = [], {}
    for entry in own.tasks:
        if entry.name in scores:
            known, value = entry.score, scores.value(entry.name)
            document[entry.name] = {"score": value, "recorded": None if known is None else known.value}
            rows.append((entry.name, entry.metric, percent(None if known is None else known.value), percent(value)))
    if as_json:
        print_json(to_json({"version": name, "scores": document}))
    else:
        Grid("", (f"version {name}", "metric", "recorded, %", "now, %"), rows, left=frozenset({1})).print(screen())


def predict(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store.")],
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="One question.")] = None,
    input: Annotated[
        str | None, typer.Option(metavar="FILE", help="Questions, a line each; - for standard input. .jsonl is JSON.")
    ] = None,
    task: Annotated[
        str, typer.Option(help="Whose template the questions are put into; none for finished prompts.")
    ] = "",
    version: VersionOption = "current",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Lines are JSON: 'text' or 'messages', perhaps 'task'. Answers are JSON, too."),
    ] = False,
) -> None:
    """Answer questions: a line of output for each line of input, in the same order."""
    from nacre.errors import RecipeError
    from nacre.events import only_warn
    from nacre.files import to_json
    from nacre.store.store import Store

    if (text is None) == (input is None):
        raise RecipeError("Ask one question as TEXT, or several with --input FILE (- for standard input).")
    opened = Store.open(store)
    name = opened.resolve(version)
    as_json = as_json or (input is not None and input.endswith((".jsonl", ".ndjson")))
    questions = _questions(text, input, task, as_json)
    from nacre.store.answering import reply
    from nacre.store.learners import learner_of

    replies = reply(learner_of(opened, name, only_warn), questions) if questions else []
    for each in replies:
        document = {"version": name, **each.document()}
        typer.echo(to_json(document, indent=None) if as_json else one_line(each.answer))


def _questions(text: str | None, input: str | None, task: str, json_lines: bool) -> list[Question]:
    from nacre.errors import DataError
    from nacre.files import open_file, user_path
    from nacre.store.answering import read_questions

    if text is not None:
        return read_questions(text.replace("\n", " ") if not json_lines else text, json_lines=json_lines, task=task)
    if input == "-":
        content = sys.stdin.buffer.read(MOST_INPUT + 1)
    else:
        with open_file(user_path(input or "")) as file:
            content = file.read(MOST_INPUT + 1)
    if len(content) > MOST_INPUT:
        raise DataError(f"--input {input}: at most {MOST_INPUT:,} bytes are read at once; cut it into several.")
    try:
        return read_questions(content.decode("utf-8-sig"), json_lines=json_lines, task=task)
    except UnicodeDecodeError as error:
        raise DataError(f"--input {input}: it is not UTF-8 (byte {error.start}).") from None
    except DataError as error:
        raise DataError(f"--input {input}: {error}") from None


def _tasks(store: Store, name: str, names: list[str] | None, data: str | None) -> list[Task] | None:
    """The tasks that are asked for, with their rows; None for all that the version has kept."""
    from nacre.errors import DataError, RecipeError, nearest
    from nacre.store.rows import test_rows_of
    from nacre.store.source import read_again

    if not names:
        if data is not None:
            raise RecipeError("--data: name the task whose rows these are with --task.")
        return None
    version, found = store.read(name), []
    for each in names:
        entry = version.learned(each)
        if entry is None:
            raise DataError(f"Version {name} has not learned '{each}'. {nearest(each, version.names)}")
        if data is not None:
            found.append(read_again(entry, data, store.settings.identity))
        elif (task := test_rows_of(store, entry)) is not None:
            found.append(task)
        else:
            raise DataError(f"The test rows of '{each}' were not kept: give them with --data.")
    return found
