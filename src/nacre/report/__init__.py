"""One self-contained page from the records of runs: heat maps, curves, metrics, cost, protocol.

The page is made of HTML, inline CSS and inline SVG. It runs no script and loads nothing, so it opens from a disk
without a network and will still open in ten years. The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nacre.errors import NacreError
from nacre.files import write_atomically
from nacre.records.view import RunView
from nacre.report import palette
from nacre.report.names import breakable
from nacre.report.page import page_of

__all__ = ["render", "write_report"]


def render(views: Sequence[RunView]) -> str:
    """Draw the page of one run, or of several runs side by side.

    Args:
        views: The runs.

    Returns:
        HTML text.

    Raises:
        NacreError: Without any run: an empty page would look like a run without results.
    """
    if not views:
        raise NacreError("A report needs the record of at least one run; none was given.")
    template = environment().get_template("page.html.j2")
    # The style sheet of the colors is made of this package's constants alone, so it is not escaped.
    return template.render(page=page_of(views), heat_colors=Markup(palette.css()))


def write_report(path: Path, views: Sequence[RunView]) -> None:
    """Write a page; a reader sees the old page or the new one, never a part of it.

    Args:
        path: Where to.
        views: As for `render`.
    """
    write_atomically(path, render(views))


@cache
def environment() -> Environment:
    """The templates."""
    # Escaping is on for every template, whatever its name: task and method names are the user's text.
    loader = PackageLoader(__name__, "")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["breakable"] = breakable
    return made
