"""`nacre check`: what is odd about the rows, before anything is trained on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nacre.cli.screen import WARNING, Grid, say, screen
from nacre.console import print_json

if TYPE_CHECKING:
    from nacre.models.families import Lengths
    from nacre.models.host import Host
    from nacre.tasks.checking.finding import FindingKind
    from nacre.tasks.task import Task
    from nacre.tasks.template import Identity

STRICT = ("leak", "unreadable")
OF_A_MODEL = ("truncation", "spelling")
"""Kinds of findings that need a model."""


def check(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="Folder of the tasks, hub:NAME or hub:published; none for the demo's."),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            help="A stream ('nacre streams'), a stream file (.yaml), or task names: a,b,c. All tasks if not given."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Count what is too long or cannot be written: folder, name, or 'demo'.")
    ] = None,
    max_source_length: Annotated[int, typer.Option(min=1, help="Tokens that an input may have (with --model).")] = 512,
    max_target_length: Annotated[
        int, typer.Option(min=1, help="Tokens that a target may have, which a decoder-only model's positions hold too.")
    ] = 50,
    identity: Annotated[str, typer.Option(help="Lines that tell the model its task: none, task or full.")] = "none",
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows that cannot be read.")] = False,
    fold_labels: Annotated[
        bool, typer.Option("--fold-labels", help="Labels that differ only in case or white space are one label.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help=f"Exit with 1 on a finding of the kinds {' or '.join(STRICT)}.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look for leaks, repeats, labels nobody uses, prompts that tell the task, and texts that are cut.

    Exits with 0 whatever is found; see --strict. A run stores the same in its checks.json.
    """
    from nacre.errors import RecipeError
    from nacre.models.quiet import quiet_transformers
    from nacre.runs.checks import checks_of, tasks_to_check
    from nacre.tasks.checking.finding import FINDING_KINDS, plain
    from nacre.tasks.reading.choices import Choices

    lines: dict[str, Identity] = {"none": "none", "task": "task", "full": "full"}
    if identity not in lines:
        raise RecipeError(f"--identity {identity}: {', '.join(lines)} are possible.")
    tasks, unreadable = tasks_to_check(data, stream, lines[identity], Choices(0, skip_bad_rows, fold_labels))
    with quiet_transformers():
        checks = checks_of(tasks, _reader(model, max_source_length, max_target_length) if model is not None else None)
    findings = [*map(plain, unreadable), *checks["findings"]]
    if as_json:
        print_json(json.dumps({**checks, "findings": findings}))
    else:
        _print(tasks, checks, findings, FINDING_KINDS)
    if strict and any(finding["kind"] in STRICT for finding in findings):
        raise typer.Exit(1)


def _reader(model: str, source: int, target: int) -> tuple[Host, Lengths]:
    """The host that is to read the texts, and how long they may be for it."""
    from nacre.models.families import Lengths
    from nacre.models.loading import load_host

    return load_host(model), Lengths(source, target)


def _print(
    tasks: Sequence[Task],
    checks: Mapping[str, Any],
    findings: Iterable[Mapping[str, Any]],
    kinds: Mapping[FindingKind, str],
) -> None:
    console = screen()
    _sizes(tasks, checks["truncated"]).print(console)
    by_kind: dict[FindingKind, list[Mapping[str, Any]]] = {kind: [] for kind in kinds}
    for finding in findings:
        by_kind[finding["kind"]].append(finding)
    for kind, some in by_kind.items():
        if kind in OF_A_MODEL and checks["truncated"] is None:
            continue
        console.print()
        say(console, f"{kind}: {kinds[kind]}: {len(some) or 'none'}", WARNING if some else "")
        for finding in some:
            say(console, f"  {finding['sentence']}")
            pairs = [row for row in finding["rows"] if len(row) > 1]
            for row in pairs:
                say(console, f"    {' = '.join(row)}")
            if pairs and finding["count"] > len(pairs):
                say(console, f"    and {finding['count'] - len(pairs)} more")


def _sizes(tasks: Sequence[Task], truncated: Mapping[str, Any] | None) -> Grid:
    """Rows of each split, the size of the label set and, if they were counted, the texts that are cut."""
    headings = ("task", "train", "validation", "test", "labels", *(("cut",) if truncated else ()))
    rows = []
    for task in tasks:
        sizes = [f"{len(split):,}" for split in (task.train, task.validation, task.test)]
        labels = str(len(task.labels)) if task.labels else "-"
        cut = [str(sum(truncated["tasks"].get(task.name, {}).values()))] if truncated else []
        rows.append((task.name, *sizes, labels, *cut))
    return Grid("", headings, rows)
