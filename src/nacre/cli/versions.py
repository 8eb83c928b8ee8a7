"""`nacre versions`, `nacre show`, `nacre status` and `nacre rollback`: what a store holds, and what of it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nacre.cli.screen import LEARNED, UNDEFINED, WARNING, Grid, percent, say, screen
from nacre.console import print_json

if TYPE_CHECKING:
    from rich.console import Console

    from nacre.store.store import Store
    from nacre.store.version import Version

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="The store.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="The first digits of its name, or 'current'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def versions(store: StoreArgument, as_json: AsJson = False) -> None:
    """List a store's versions, oldest first, and say which one answers."""
    from nacre.files import to_json
    from nacre.store.listing import listed
    from nacre.store.store import Store

    opened = Store.open(store)
    found = listed(opened)
    if as_json:
        print_json(to_json([each.document() for each in found]))
        return
    rows = [
        (
            each.name,
            "current" if each.current else "",
            each.version.created.replace("+00:00", "Z") if each.version else UNDEFINED,
            _made(each.version),
            each.version.parent or UNDEFINED if each.version else UNDEFINED,
            percent(each.average),
            each.said,
        )
        for each in found
    ]
    headings = ("version", "", "made", "of", "after", "average, %", "gate")
    Grid("", headings, rows, left=frozenset({1, 2, 3, 4, 6})).print(screen())


def show(store: StoreArgument, version: VersionArgument = "current", as_json: AsJson = False) -> None:
    """Say what a version has learned, what it scores, and how it came about. Its files are verified."""
    from nacre.store.store import Store

    opened = Store.open(store)
    name = opened.resolve(version)
    own = opened.read(name)
    if as_json:
        print_json(own.model_dump_json(by_alias=True))
        return
    console = screen()
    say(console, f"Version {name}{', the current one' if name == opened.current else ''}", LEARNED)
    say(console, f"made:    {own.created}, {_made(own)}, after {own.parent or 'none'}")
    say(console, f"size:    {opened.size(name):,} bytes; {own.stored_parameters:,} numbers besides the model")
    say(console, f"time:    {own.train_seconds:.1f} s to learn, {own.evaluate_seconds:.1f} s to measure")
    packages = ", ".join(f"{key} {value}" for key, value in own.environment["packages"].items() if value)
    say(console, f"with:    Python {own.environment['python']}, {packages}; {own.environment['device']}")
    _print_scores(console, opened, own)
    for task in own.tasks:
        say(console, f"{task.name}: test rows {task.content['hash']['test'][:12]}, {_where(task.test_rows, task.data)}")


def status(store: StoreArgument, as_json: AsJson = False) -> None:
    """Say which version answers, what it has learned and scores, and what is not finished."""
    from nacre.files import to_json
    from nacre.report.verdict import sentence
    from nacre.store.listing import status_of
    from nacre.store.store import Store

    opened = Store.open(store)
    found = status_of(opened)
    if as_json:
        print_json(to_json(found.document()))
        return
    console = screen()
    settings = opened.settings
    say(console, f"{settings.model} with {settings.method}, seed {settings.seed}: {store}")
    say(
        console,
        f"current: {found.name}, {_made(found.version)}, one of {found.versions} versions, {found.size:,} bytes",
    )
    say(console, f"gate:    {settings.must_keep or 'none; --must-keep asks for one'}")
    _print_scores(console, opened, found.version)
    if found.refused is not None:
        say(console, f"Not promoted: {sentence(found.refused)}", WARNING)
    for folder in found.unfinished:
        say(console, f"Not finished: {folder}; the same 'nacre learn' goes on there.", WARNING)


def rollback(store: StoreArgument, version: VersionArgument) -> None:
    """Let an earlier version answer again. No version is deleted, so that this can be undone in the same way."""
    from nacre.store.store import Store

    opened = Store.open(store)
    with opened.locked():
        name = opened.resolve(version)
        own = opened.read(name)
        before = opened.current_or_none()
        opened.promote(name, "rollback")
    verdict = opened.verdict(name)
    console = screen()
    if verdict is not None and not verdict.passed:
        say(console, f"Warning: version {name} did not pass its gate.", WARNING)
    say(console, f"Version {name} answers now ({', '.join(own.names) or 'nothing learned'}); before it was {before}.")


def scores_grid(store: Store, version: Version) -> Grid:
    """A version's scores, beside those of the version that it was made of.

    Args:
        store: Where.
        version: What it says of itself.
    """
    from nacre.store.listing import scores_before

    before = scores_before(store, version)
    rows = []
    for task in version.tasks:
        score, earlier = task.score, before.get(task.name)
        now = None if score is None else score.value
        change = None if now is None or earlier is None else now - earlier
        count = UNDEFINED if score is None else f"{score.rows:,}"
        rows.append((task.name, task.metric, count, percent(earlier), percent(now), percent(change, sign=True)))
    for ability in version.ability:
        now, earlier = ability.scores[ability.headline].value, before.get(ability.task)
        change = None if earlier is None else now - earlier
        rows.append(
            (ability.task, ability.headline, f"{ability.rows:,}", percent(earlier), percent(now),
             percent(change, sign=True))
        )  # fmt: skip
    return Grid("", ("", "metric", "rows", "before, %", "now, %", "change"), rows, left=frozenset({1}))


def _print_scores(console: Console, store: Store, version: Version) -> None:
    if version.tasks or version.ability:
        scores_grid(store, version).print(console)
    else:
        say(console, "It has learned nothing yet.")


def _made(version: Version | None) -> str:
    if version is None:
        return "damaged"
    return f"{version.action} {version.task}" if version.task else version.action


def _where(kept: str, data: str | None) -> str:
    return {"keep": "copied into the store", "reference": f"read again from {data or 'the demo'}"}.get(kept, "not kept")
