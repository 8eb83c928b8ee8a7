"""A comparison as one table for other programs: LaTeX, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from nacre.evaluation.matrix import AVERAGE_ACCURACY, RunMetric
from nacre.records.comparison import Comparison, OverSeeds
from nacre.records.probe import ProbeMetric
from nacre.records.run import all_metrics
from nacre.report.metrics import value_text
from nacre.report.names import short_place
from nacre.report.numbers import MINUS


@dataclass(frozen=True)
class Column:
    """A metric of all groups.

    Attributes:
        key: Its name for programs.
        title: Its name for readers.
        metric: The metric.
        spreads: Each group's values over seeds; None where the metric is not defined.
    """

    key: str
    title: str
    metric: RunMetric | ProbeMetric
    spreads: tuple[OverSeeds | None, ...]

    @property
    def best(self) -> float | None:
        """The best mean; None where no two groups differ."""
        means = {spread.mean for spread in self.spreads if spread is not None}
        if len(means) < 2:
            return None
        return min(means) if self.metric.better == "lower" else max(means)


def columns_of(comparison: Comparison) -> list[Column]:
    """The columns of a table: of several orders each one's average accuracy, then every metric.

    Args:
        comparison: The comparison.
    """
    orders = comparison.orders if len(comparison.orders) > 1 else []
    by_order = [
        Column(
            f"{AVERAGE_ACCURACY.key}: {order.name}",
            f"{AVERAGE_ACCURACY.title}, {order.name}",
            AVERAGE_ACCURACY,
            tuple(group.by_order[number] for group in comparison.groups),
        )
        for number, order in enumerate(orders)
    ]
    metrics = [
        Column(metric.key, metric.title, metric, tuple(group.metrics[metric.key] for group in comparison.groups))
        for metric in all_metrics()
        if metric.key in comparison.definitions
    ]
    return [*by_order, *metrics]


class TableFormat(ABC):
    """How a comparison is written as a table: a line a group, a column a metric."""

    @abstractmethod
    def write(self, comparison: Comparison) -> str:
        """Write the table.

        Args:
            comparison: The comparison.

        Returns:
            Text that ends with a line end.
        """


@final
class Csv(TableFormat):
    """Comma-separated values: fractions at full precision, a mean and a deviation for each metric."""

    def write(self, comparison: Comparison) -> str:
        """Write a heading line and a line for each group; a value that is not defined is empty."""
        columns = columns_of(comparison)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", "seeds", *(column.key + end for column in columns for end in ("", "_deviation"))])
        for number, group in enumerate(comparison.groups):
            spreads = [column.spreads[number] for column in columns]
            values = [(spread.mean, spread.deviation) if spread else (None, None) for spread in spreads]
            writer.writerow([group.name, len(group.seeds), *(value for pair in values for value in pair)])
        return text.getvalue()


class Typeset(TableFormat):
    """A table for readers: percent with one decimal, ± the standard deviation; the best mean of a column stands out."""

    def write(self, comparison: Comparison) -> str:
        """Write a heading and a line for each group."""
        columns = columns_of(comparison)
        heads = ["Method", "Seeds", *(f"{column.title} ({column.metric.unit})" for column in columns)]
        lines = [
            [
                self.escaped(group.name),
                str(len(group.seeds)),
                *(self._cell(column.spreads[number], column) for column in columns),
            ]
            for number, group in enumerate(comparison.groups)
        ]
        notes = [
            f"{comparison.stream}, {short_place(comparison.model)}; mean over seeds, ± standard deviation (n - 1).",
            *(f"{order.name}: protocol {order.protocol_hash}" for order in comparison.orders),
            *comparison.remarks,
        ]
        return self.table([self.escaped(head) for head in heads], lines, notes)

    def _cell(self, spread: OverSeeds | None, column: Column) -> str:
        if spread is None:
            return self.undefined
        mean = self.number(value_text(column.metric, spread.mean))
        mean = self.strong(mean) if spread.mean == column.best else mean
        return mean if spread.deviation is None else f"{mean} {self.number(f'± {100 * spread.deviation:.1f}')}"

    undefined: str
    """What stands for a value that is not defined."""

    @abstractmethod
    def table(self, heads: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
        """Put the cells together.

        Args:
            heads: The headings, escaped.
            lines: The cells, line by line.
            notes: Sentences on what is in the table, as they are.
        """

    @abstractmethod
    def escaped(self, text: str) -> str:
        """A text without characters that mean something to the format.

        Args:
            text: Any text.
        """

    @abstractmethod
    def number(self, text: str) -> str:
        """A number as the format writes it.

        Args:
            text: With a minus sign and "±".
        """

    @abstractmethod
    def strong(self, text: str) -> str:
        """A number that stands out.

        Args:
            text: The number.
        """


@final
class Markdown(Typeset):
    """A table with pipes."""

    undefined = "–"

    def table(self, heads: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
        """Notes stand below the table."""
        rule = ["---", *["---:"] * (len(heads) - 1)]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))
        return f"{rows}\n\n" + "\n\n".join(self.escaped(note) for note in notes) + "\n"

    def escaped(self, text: str) -> str:
        """Backslashes before what Markdown reads; line ends become blanks."""
        return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(text.split()))

    def number(self, text: str) -> str:
        """The number as it is."""
        return text

    def strong(self, text: str) -> str:
        """Two asterisks to either side."""
        return f"**{text}**"


@final
class Latex(Typeset):
    """A `tabular` with the rules of `booktabs`."""

    undefined = "--"
    _names: Mapping[str, str] = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
        ">": r"\textgreater{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }  # fmt: skip

    def table(self, heads: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
        r"""Notes stand above the table, as comments; `\usepackage{booktabs}` is needed."""
        rows = [" & ".join(line) + r" \\" for line in (heads, *lines)]
        return "\n".join(
            [
                r"% \usepackage{booktabs}",
                *(f"% {' '.join(note.split())}" for note in notes),
                f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
                r"\toprule",
                rows[0],
                r"\midrule",
                *rows[1:],
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )

    def escaped(self, text: str) -> str:
        """Commands in place of what TeX reads; line ends become blanks."""
        return "".join(self._names.get(letter, letter) for letter in " ".join(text.split()))

    def number(self, text: str) -> str:
        """In math mode, which knows the signs."""
        return f"${text.replace(MINUS, '-').replace('±', chr(92) + 'pm')}$"

    def strong(self, text: str) -> str:
        """Bold, in math too."""
        return rf"$\mathbf{{{text.strip('$')}}}$"


FORMATS: Mapping[str, TableFormat] = {"latex": Latex(), "markdown": Markdown(), "csv": Csv()}
"""The formats by name."""


def table_text(comparison: Comparison, name: str) -> str:
    """A comparison as a table.

    Args:
        comparison: The comparison.
        name: One of `FORMATS`.
    """
    return FORMATS[name].write(comparison)
