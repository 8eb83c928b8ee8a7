"""A map of the tasks: a mark for each label, one unit the same to the right and upwards.

Coordinates are percentages of a square box, so that it may have any size while its text keeps its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from nacre.records.decisions import MapPoint, TaskMap
from nacre.report.curves import MARKERS, STYLES
from nacre.report.intervals import round_ticks
from nacre.report.names import columns, shorten
from nacre.report.numbers import MINUS

SIDE = 420
"""Pixels of the smallest box that shows names; in a larger one they are farther apart."""

NAME_WIDTH = 18
COLUMN, LINE, ABOVE = 7.4, 17, 15
"""Pixels: of a column of text, from one name to the next, from a task's middle to its name."""

MARK = 6
"""Pixels from a mark's middle to its edge."""

NEAR = 6
"""Places of a name that are preferred where no mark is."""


@dataclass(frozen=True)
class Mark:
    """A label.

    Attributes:
        x: From the left, in percent of the box.
        y: From the top.
        style: Number of its task's color.
        shape: Its task's marker, an SVG path.
        hover: What it says.
    """

    x: float
    y: float
    style: int
    shape: str
    hover: str


@dataclass(frozen=True)
class Name:
    """A task's name.

    Attributes:
        text: The name, shortened.
        full: The name.
        x: Where its middle stands, in percent of the box.
        y: Likewise, from the top.
        lead: Where a line to the middle of the task's labels ends; None where the name is near.
    """

    text: str
    full: str
    x: float
    y: float
    lead: tuple[float, float] | None


@dataclass(frozen=True)
class MapDrawing:
    """The map.

    Attributes:
        description: The same as a text, for readers that see no drawing.
        marks: The labels.
        names: The tasks that there is room for.
        radius: One unit, in percent of the box.
        x_ticks: Along the lower edge: from the left in percent of the box, and what stands there.
        y_ticks: Along the left edge: from the top.
        legend: Of each task its color, its marker and its name.
    """

    description: str
    marks: tuple[Mark, ...]
    names: tuple[Name, ...]
    radius: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    legend: tuple[tuple[int, str, str], ...]


def map_drawing(found: TaskMap, tasks: Sequence[str]) -> MapDrawing:
    """Draw the map.

    Args:
        found: Where labels lie.
        tasks: In the order in which they were learned.
    """
    shown = [task for task in tasks if any(point.task == task for point in found.points)]
    style = {task: number % STYLES for number, task in enumerate(shown)}
    # After six tasks the colors come again, each with another marker.
    shape = {task: MARKERS[(number + number // STYLES) % STYLES] for number, task in enumerate(shown)}
    left, low, width = _window(found.points)

    def across(x: float) -> float:
        return round(100 * (x - left) / width, 2)

    def down(y: float) -> float:
        return round(100 - 100 * (y - low) / width, 2)

    marks = tuple(
        Mark(across(own.x), down(own.y), style[own.task], shape[own.task], f"{own.task}: {own.label} ({_at(own)})")
        for own in found.points
    )
    places = [(mark.x, mark.y) for mark in marks]
    return MapDrawing(
        description=_description(found, shown),
        marks=marks,
        names=_named({task: _middle(found.points, places, task) for task in shown}, places),
        radius=round(100 / width, 3),
        x_ticks=_ticks(left, width, across),
        y_ticks=_ticks(low, width, down),
        legend=tuple((style[task], shape[task], task) for task in shown),
    )


def _window(points: Sequence[MapPoint]) -> tuple[float, float, float]:
    """Left and lower end and width of the square that holds all points, a unit around each, and some room."""
    xs, ys = [own.x for own in points], [own.y for own in points]
    width = (max(max(xs) - min(xs), max(ys) - min(ys)) + 2) * 1.08
    return (min(xs) + max(xs) - width) / 2, (min(ys) + max(ys) - width) / 2, width


def _ticks(low: float, width: float, place: Callable[[float], float]) -> tuple[tuple[float, str], ...]:
    ticks, step = round_ticks(low, low + width)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return tuple((place(tick), _number(tick, decimals)) for tick in ticks)


def _number(value: float, decimals: int = 1) -> str:
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", MINUS)


def _at(own: MapPoint) -> str:
    return f"{_number(own.x)}, {_number(own.y)}"


def _middle(points: Sequence[MapPoint], places: Sequence[tuple[float, float]], task: str) -> tuple[float, float]:
    own = [place for place, point in zip(places, points, strict=True) if point.task == task]
    return fmean(x for x, _ in own), fmean(y for _, y in own)


@dataclass(frozen=True)
class _Box:
    """A rectangle by its middle and half its sides, in pixels of the smallest box."""

    x: float
    y: float
    wide: float
    high: float

    def meets(self, other: _Box) -> bool:
        """Whether the two lie on each other."""
        return abs(self.x - other.x) < self.wide + other.wide and abs(self.y - other.y) < self.high + other.high


def _named(middles: dict[str, tuple[float, float]], marks: Sequence[tuple[float, float]]) -> tuple[Name, ...]:
    """The names above or below their tasks' middles, where no other name stands and, if possible, no mark."""
    pixel = SIDE / 100
    dots = [_Box(x * pixel, y * pixel, MARK, MARK) for x, y in marks]
    taken: list[_Box] = []
    names = []
    for task, (x, y) in sorted(middles.items(), key=lambda one: (one[1][1], one[1][0], one[0])):
        text = shorten(task, NAME_WIDTH)
        half = min(columns(text) * COLUMN / 2, SIDE / 2)
        across = min(max(x * pixel, half), SIDE - half)
        boxes = [_Box(across, down, half, LINE / 2) for down in _heights(y * pixel)]
        free = [box for box in boxes if not any(box.meets(other) for other in taken)]
        if not free:
            continue  # the legend has it
        own = next((box for box in free[:NEAR] if not any(box.meets(dot) for dot in dots)), free[0])
        taken.append(own)
        lead = (round(x, 2), round(y, 2)) if abs(own.y - y * pixel) > 2 * LINE else None
        names.append(Name(text, task, round(own.x / pixel, 2), round(own.y / pixel, 2), lead))
    return tuple(names)


def _heights(middle: float) -> Iterator[float]:
    """Where a name may stand, the nearest places first."""
    for step in range(SIDE // LINE):
        for height in (middle - ABOVE - step * LINE, middle + ABOVE + step * LINE):
            if LINE / 2 <= height <= SIDE - LINE / 2:
                yield height


def _description(found: TaskMap, tasks: Sequence[str]) -> str:
    said = []
    for task in tasks:
        own = [point for point in found.points if point.task == task]
        said.append(f"{task}: {'; '.join(f'{point.label} at {_at(point)}' for point in own)}")
    return ". ".join(said) + "."
