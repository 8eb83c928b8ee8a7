"""``nacre methods`` and ``nacre streams``: what there is, and the sheet of each."""

from __future__ import annotations

from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="Print this method's sheet.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the methods, or print the sheet of one: equations, parameters, traits, sources."""
    import inspect
    import json

    from nacre.registry import METHODS, build_method

    if name is None:
        rows = [(entry, build_method(entry)) for entry in METHODS.names()]
        if as_json:
            typer.echo(json.dumps([{"name": entry, "title": method.title, **method.traits} for entry, method in rows]))
            return
        for entry, method in rows:
            held = ", ".join(trait for trait, holds in method.traits.items() if holds)
            typer.echo(f"{entry:<14}{method.title}\n{'':<14}{held}")
        return
    function, method = METHODS.function(name), build_method(name)
    signature = inspect.signature(function)
    parameters = {key: parameter.default for key, parameter in signature.parameters.items()}
    if as_json:
        sheet = {
            "name": name,
            "title": method.title,
            "sheet": inspect.getdoc(function),
            "parameters": parameters,
            "learning_rate": method.adapter.learning_rate,
            "traits": method.traits,
            "sources": method.sources,
        }
        typer.echo(json.dumps(sheet, indent=2))
        return
    typer.echo(f"{name}: {method.title}\n\n{inspect.getdoc(function)}\n\nParameters (--set KEY=VALUE):")
    for key, parameter in signature.parameters.items():
        typer.echo(f"  {key} = {parameter.default!r}    {inspect.formatannotation(parameter.annotation)}")
    typer.echo(f"\nLearning rate when none is given: {method.adapter.learning_rate}\n\nTraits:")
    for trait, holds in method.traits.items():
        typer.echo(f"  {trait}: {'yes' if holds else 'no'}")


def streams(
    name: Annotated[str | None, typer.Argument(help="Print this stream's tasks.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the streams, or the tasks of one."""
    import json

    from nacre.tasks.streams import get_stream, stream_names

    chosen = [get_stream(entry) for entry in (stream_names() if name is None else [name])]
    if as_json:
        typer.echo(
            json.dumps([{"name": s.name, "title": s.title, "source": s.source, "tasks": s.tasks} for s in chosen])
        )
        return
    for stream in chosen:
        typer.echo(f"{stream.name:<10}{stream.title}\n{'':<10}{' -> '.join(stream.tasks)}")
        if name is not None:
            typer.echo(f"{'':<10}Source: {stream.source}")
