"""`nacre methods` and `nacre streams`: lists, and the sheet of each method, modifier and stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nacre.cli.screen import line_width, say, screen
from nacre.documents import shown_text

if TYPE_CHECKING:
    from nacre.tasks.published.streams import Stream

WIDEST = 100
OPEN_CHOICES = "What the sources leave open, what is done here, and why: docs/fidelity.md."


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Print its sheet: of a method, of seq_lora+migu, or of a modifier, +migu.")
    ] = None,
    table: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="Print the list as a table: markdown.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List methods and modifiers, or print the sheet of one: equations, parameters, slots, traits, sources."""
    import json

    from nacre.cli.method_table import markdown_table
    from nacre.errors import RecipeError
    from nacre.registry import METHODS, MODIFIERS

    if table is not None:
        if table != "markdown" or as_json or name is not None:
            raise RecipeError(
                f"--format {shown_text(table)}: markdown is possible, of the list, and not beside --json."
            )
        typer.echo(markdown_table(list_document()["methods"]))
        return
    if name is None:
        document = list_document()
        lines = list_lines(document)
    elif name.startswith("+") or (name not in METHODS.names() and name in MODIFIERS.names()):
        modifier = name.removeprefix("+")
        document, lines = modifier_document(modifier), modifier_lines(modifier)
    else:
        document, lines = method_document(name), method_lines(name)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        _print(lines)


def _print(lines: Iterable[str]) -> None:
    console = screen()
    for line in "\n".join(lines).split("\n"):
        say(console, line)


def list_document() -> dict[str, Any]:
    """All methods with their traits, and all modifiers with their first sentence."""
    from nacre.registry import METHODS, MODIFIERS

    sheets = [method_document(name) for name in METHODS.names()]
    return {
        "methods": [{"name": sheet["name"], "title": sheet["title"], **sheet["traits"]} for sheet in sheets],
        "modifiers": [{"name": name, "does": modifier_document(name)["does"]} for name in MODIFIERS.names()],
    }


def list_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """`list_document` as text.

    Args:
        document: What it gives.
    """
    from nacre.cli.method_table import GROUPS, grouped

    for heading, members in grouped(document["methods"]):
        yield f"{heading}:\n"
        for entry in members:
            traits = [trait for trait, holds in entry.items() if holds is True and trait not in GROUPS[heading]]
            yield f"{entry['name']:<22}{entry['title']}"
            yield f"{'':<22}{', '.join(traits)}"
        yield ""
    yield "Modifiers, as in seq_lora+migu:\n"
    for entry in document["modifiers"]:
        yield _hanging(f"+{entry['name']:<21}", entry["does"])


def method_document(name: str) -> dict[str, Any]:
    """The sheet of a method, with those of the modifiers in its name.

    Args:
        name: As in `seq_lora` or `seq_lora+migu`.

    Raises:
        RecipeError: There is no such method or modifier.
        NacreError: They do not go together.
    """
    from nacre.cli.written_sheets import written_sheet
    from nacre.registry import METHODS, check_spelling

    check_spelling(name)
    sheet = written_sheet(METHODS, name)
    if sheet is not None:
        return sheet
    from nacre.cli.built_sheets import built_method_sheet  # with torch

    return built_method_sheet(name)


def method_lines(name: str) -> Iterator[str]:
    """`method_document` as text."""
    document = method_document(name)
    yield f"{name}: {document['title']}\n"
    yield from _function_lines(document, prefix="")
    for modifier in document["modifiers"]:
        yield f"\n+{modifier['name']}\n"
        yield from _function_lines(modifier, prefix=f"{modifier['name']}.")
    yield f"\nLearning rate when none is given: {document['learning_rate']}"
    yield "\nSlots:"
    for slot, held in document["slots"].items():
        parts = held if isinstance(held, list) else [held]
        for number, part in enumerate(parts or ["none"]):
            yield _hanging(f"  {'' if number else slot:<16}", part or "none")
    yield "\nTraits:"
    for trait, holds in document["traits"].items():
        yield f"  {trait}: {'yes' if holds else 'no'}"
    yield f"\n{OPEN_CHOICES}"


def modifier_document(name: str) -> dict[str, Any]:
    """The sheet of a modifier alone, with the methods that it goes with as they are.

    Args:
        name: The modifier's, without "+".

    Raises:
        RecipeError: There is no such modifier.
    """
    from nacre.cli.written_sheets import written_sheet
    from nacre.registry import METHODS, MODIFIERS

    MODIFIERS.written_hints(name)  # or there is none of this name
    sheet = written_sheet(MODIFIERS, name)
    if sheet is not None and {*sheet["goes with"], *sheet["does not go with"]} == set(METHODS.names()):
        return sheet
    from nacre.cli.built_sheets import built_modifier_sheet  # with torch

    return built_modifier_sheet(name)  # some method came later, or is a third party's


def modifier_lines(name: str) -> Iterator[str]:
    """`modifier_document` as text."""
    document = modifier_document(name)
    yield f"+{name}, a modifier: --method METHOD+{name}\n"
    yield from _function_lines(document, prefix=f"{name}.")
    yield "\nGoes with, as they are:"
    yield _hanging("  ", ", ".join(document["goes with"]) or "none")
    if document["does not go with"]:
        yield "\nDoes not go with, as they are:"
    for sentence in document["does not go with"].values():
        yield _hanging("  ", sentence)
    yield f"\n{OPEN_CHOICES}"


def _function_lines(document: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """The text, the parameters with their explanations, and the assumptions."""
    yield from _reflowed(document["text"])
    yield "\nParameters (--set KEY=VALUE):" if document["types"] else "\nNo parameters."
    for key, kind in document["types"].items():
        yield f"  {prefix}{key} = {document['parameters'][key]!r}    {kind}"
        if key in document["explained"]:
            yield _hanging("      ", document["explained"][key])
    if document["assumed"]:
        yield "\nAssumed, where the sources do not say:"
        for sentence in document["assumed"]:
            yield _hanging("  - ", sentence)


def _reflowed(text: str) -> Iterator[str]:
    """The text with each paragraph in one line, which the screen breaks; indented lines, as of equations, stay."""
    paragraph: list[str] = []
    for line in text.split("\n"):
        if line and not line.startswith(" "):
            paragraph.append(line)
            continue
        if paragraph:
            yield " ".join(paragraph)
            paragraph = []
        yield line
    if paragraph:
        yield " ".join(paragraph)


def _hanging(head: str, text: str) -> str:
    """The text behind its head, in lines that begin where its first one does."""
    return "\n".join(
        wrap(text, line_width(WIDEST), initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
    )


def _stream_document(stream: Stream) -> dict[str, Any]:
    """A stream as plain values; `made` says of which task each is made, and how, where nacre makes them."""
    made = {"made": {task.name: task.said for task in stream.made}} if stream.made else {}
    return {"name": stream.name, "title": stream.title, "source": stream.source, "tasks": stream.tasks, **made}


def streams(
    name: Annotated[str | None, typer.Argument(help="Print the tasks of this stream, or of a stream file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the streams, or the tasks of one."""
    import json

    from nacre.tasks.published.streams import Stream, get_stream, stream_names
    from nacre.tasks.reading.stream_file import is_stream_file, read_stream

    if name is not None and is_stream_file(name):
        own = read_stream(Path(name))
        chosen = [Stream(own.name, f"A stream file: {len(own.tasks)} tasks", name, own.task_names)]
    else:
        chosen = [get_stream(entry) for entry in (stream_names() if name is None else [name])]
    if as_json:
        typer.echo(json.dumps([_stream_document(stream) for stream in chosen]))
        return
    width = max(len(stream.name) for stream in chosen) + 2
    for stream in chosen:
        _print([f"{stream.name:<{width}}{stream.title}", f"{'':<{width}}{' -> '.join(stream.tasks)}"])
        if name is not None:
            _print([f"{'':<{width}}Source: {stream.source}"])
            _print(f"{'':<{width}}{task.name}: {task.said}" for task in stream.made if task.changes)
