"""What others published of a grid's runs, and what its own runs have come to, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, field_validator

from nacre.errors import RecipeError
from nacre.records.run import RunRecord
from nacre.settings import AS_LIST, Settings
from nacre.sweeps.run_metric import RunMetricKey

Percentage = float | None
Numbers = dict[str, dict[str, Percentage]]
"""By row and column; None where somebody gave none."""
Range = Annotated[tuple[float, float], AS_LIST]


class PublishedTable(Settings):
    """A table or figure, and what it says of the grid's runs, in percent."""

    source: str = Field(default="", description="where it stands: paper, table, model")
    rows: str = Field(description="what of the grid is varied down the table")
    columns: str | None = Field(default=None, description="what is varied across it; None: there is one column")
    by: RunMetricKey = Field(default="average_accuracy", description="the metric of a run that stands in it")
    follow: int | None = Field(
        default=None, ge=1, description="in a figure, follow so many of the first tasks from stage to stage instead"
    )
    numbers: dict[str, Numbers] = Field(
        default_factory=dict, description="by who says so (paper, released code): by row and column, or by row alone"
    )
    expected: dict[str, dict[str, Range]] = Field(
        default_factory=dict, description="by row and column, the range that runs of the grid's own scale fall into"
    )

    @field_validator("numbers", mode="before")
    @classmethod
    def _numbers_of_one_column(cls, numbers: Any) -> Any:
        return {who: _one_column(rows) for who, rows in numbers.items()} if isinstance(numbers, dict) else numbers

    @field_validator("expected", mode="before")
    @classmethod
    def _ranges_of_one_column(cls, expected: Any) -> Any:
        return _one_column(expected)

    def check(self, axes: Mapping[str, Sequence[str]]) -> None:
        """Refuse rows and columns that the grid does not have.

        Args:
            axes: The names of the values of everything that is varied.

        Raises:
            RecipeError: If there is no such axis, or no such value; it names it.
        """
        for key in (self.rows, *([] if self.columns is None else [self.columns])):
            if key not in axes:
                raise RecipeError(f"published: '{key}' is not varied; {', '.join(axes)} are.")
        across = axes[self.columns] if self.columns else [""]
        places = [(row, list(cells)) for numbers in self.numbers.values() for row, cells in numbers.items()]
        places += [(row, list(cells)) for row, cells in self.expected.items()]
        for row, columns in places:
            if row not in axes[self.rows]:
                raise RecipeError(f"published: {self.rows} has no '{row}'.")
            for column in columns:
                if column not in across:
                    raise RecipeError(f"published: {self.columns or 'a table of one column'} has no '{column}'.")


@dataclass(frozen=True)
class TableCell:
    """One place of the table.

    Attributes:
        row, column: Its names; the column is empty where there is one.
        said: By who says so, what is published.
        found: What the grid's finished runs have come to, in percent, one number for each.
        expected: The range that runs of this scale fall into; None where nobody knows.
    """

    row: str
    column: str
    said: Mapping[str, float]
    found: Sequence[float]
    expected: tuple[float, float] | None

    @property
    def mean(self) -> float | None:
        """Over seeds."""
        return statistics.mean(self.found) if self.found else None

    @property
    def place(self) -> str:
        """Where the mean lies: below, within or above what is expected; empty where that is not known."""
        if self.mean is None or self.expected is None:
            return ""
        low, high = self.expected
        return "below" if self.mean < low else "above" if self.mean > high else "within"


def cells_of(published: PublishedTable, axes: Mapping[str, Sequence[str]], runs: Iterable[Found]) -> list[TableCell]:
    """The table, row by row.

    Args:
        published: What it is to show.
        axes: The names of the values of everything that is varied.
        runs: The grid's finished runs.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        value = run.record.value(published.by)
        place = run.names[published.rows], run.names[published.columns] if published.columns else ""
        if value is not None:
            found.setdefault(place, []).append(100 * value)
    columns = axes[published.columns] if published.columns else [""]

    def cell(row: str, column: str) -> TableCell:
        said = {who: numbers.get(row, {}).get(column) for who, numbers in published.numbers.items()}
        return TableCell(
            row,
            column,
            {who: number for who, number in said.items() if number is not None},
            found.get((row, column), []),
            published.expected.get(row, {}).get(column),
        )

    return [cell(row, column) for row in axes[published.rows] for column in columns]


@dataclass(frozen=True)
class Found:
    """A finished run of a grid.

    Attributes:
        names: Its values of everything that is varied, as text.
        record: What it has come to.
    """

    names: Mapping[str, str]
    record: RunRecord


def as_markdown(published: PublishedTable, cells: Sequence[TableCell]) -> str:
    """The table as Markdown."""
    lines = [f"{published.source}; {published.by}, %.", "", _line(headings(published))]
    lines += [_line(["---"] * len(headings(published))), *(_line(row_of(published, cell)) for cell in cells)]
    return "\n".join(lines) + "\n"


def headings(published: PublishedTable) -> list[str]:
    """Of the table's columns."""
    across = [] if published.columns is None else [published.columns]
    return [published.rows, *across, *published.numbers, "nacre", "runs", "expected", "the mean is"]


def row_of(published: PublishedTable, cell: TableCell) -> list[str]:
    """A line of the table, as texts."""
    across = [] if published.columns is None else [cell.column]
    said = [_text(cell.said.get(who)) for who in published.numbers]
    spread = f" ± {_text(statistics.stdev(cell.found))}" if len(cell.found) > 1 else ""
    here = f"{_text(cell.mean)}{spread}"
    expected = "-" if cell.expected is None else " to ".join(map(_text, cell.expected))
    return [cell.row, *across, *said, here, str(len(cell.found)), expected, cell.place]


def _one_column(rows: Any) -> Any:
    """Rows with columns, where a row that has none may be written as its number or range alone."""
    if not isinstance(rows, dict):
        return rows
    return {row: cells if isinstance(cells, dict) else {"": cells} for row, cells in rows.items()}


def _text(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
