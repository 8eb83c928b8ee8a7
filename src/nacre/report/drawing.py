"""Figures as files, by matplotlib: what all of them share."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from nacre.errors import RecipeError
from nacre.files import write_atomically
from nacre.optional import need

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's: people who see colors in different ways can tell them apart."""
KINDS = ("png", "svg", "pdf")
"""Of files."""
DATES = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Left out, so that the same numbers give the same file."""
NEEDED = ("A figure", "figures")


def empty_plots(down: int, across: int, width: float, *, share_heights: bool = True) -> tuple[Any, list[Any]]:
    """An empty figure.

    Args:
        down: Rows of plots.
        across: Columns of plots.
        width: In inches.
        share_heights: Whether all plots have one vertical axis.

    Returns:
        matplotlib's figure, and its plots row by row.

    Raises:
        NacreError: If matplotlib is not installed.
    """
    figures = need("matplotlib.figure", *NEEDED)
    backend = need("matplotlib.backends.backend_agg", *NEEDED)
    figure = figures.Figure(figsize=(width, 3.6 * down + 0.4), dpi=150, layout="constrained")
    backend.FigureCanvasAgg(figure)
    plots = list(figure.subplots(down, across, squeeze=False, sharey=share_heights).flat)
    for plot in plots:
        plot.spines[["top", "right"]].set_visible(False)
        plot.grid(axis="y", alpha=0.25)
    return figure, plots


def check_picture(target: Path) -> None:
    """Refuse, before anything is measured, a place where no figure can be written.

    Raises:
        RecipeError: If its name is no picture's, or if it is a folder or lies in none.
        NacreError: If matplotlib is not installed.
    """
    need("matplotlib", *NEEDED)
    if _kind(target) not in KINDS:
        raise RecipeError(f"Output '{target}' is no picture: its name has to end with .{', .'.join(KINDS)}.")
    if target.is_dir() or not target.parent.is_dir():
        raise RecipeError(f"Output '{target}' is a folder, or lies in a folder that does not exist.")


def write_picture(figure: Any, target: Path) -> None:
    """Write a figure; the file appears whole or not at all, and is the same for the same numbers.

    Args:
        figure: matplotlib's.
        target: Where; `check_picture` has seen it.
    """
    write_atomically(target, as_file(figure, _kind(target)))


def as_file(figure: Any, kind: str) -> bytes:
    """The content of its file: the same for the same numbers.

    Args:
        figure: The figure.
        kind: `png`, `svg` or `pdf`.
    """
    content = BytesIO()
    with need("matplotlib", *NEEDED).rc_context({"svg.hashsalt": "nacre"}):  # otherwise names in it are random
        figure.savefig(content, format=kind, metadata=DATES[kind])
    return content.getvalue()


def _kind(target: Path) -> str:
    return target.suffix.removeprefix(".").lower()
