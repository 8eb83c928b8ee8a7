"""A picture of the floors: the rooms as the import contract orders them, drawn from pyproject.toml."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, GAP = 720, 34, 6


def picture(layers: Sequence[str]) -> str:
    """An inline SVG with one row a floor, the ground at the bottom.

    Args:
        layers: Floors from the top down; rooms on one floor are separated by `|` or `:`.

    Returns:
        One line of HTML with an SVG that takes its colors from the page.
    """
    shapes = []
    for number, layer in enumerate(layers):
        rooms = [room.strip() for room in layer.replace(":", "|").split("|")]
        width = (WIDTH - GAP * (len(rooms) - 1)) / len(rooms)
        top = number * (HEIGHT + GAP)
        for column, room in enumerate(rooms):
            left = column * (width + GAP)
            shapes.append(
                f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{HEIGHT}" rx="4" fill="none" '
                'stroke="currentColor" stroke-opacity="0.5"/>'
                f'<text x="{left + width / 2:.1f}" y="{top + HEIGHT / 2 + 5}" text-anchor="middle" font-size="14" '
                f'font-family="monospace" fill="currentColor">{escape(room)}</text>'
            )
    height = len(layers) * (HEIGHT + GAP)
    title = "<title>The floors of nacre: a room uses only the rooms below it</title>"
    return (
        f'<div><svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="-1 -1 {WIDTH + 2} {height}" '
        f'style="max-width:{WIDTH}px;width:100%">{title}{"".join(shapes)}</svg></div>'
    )
