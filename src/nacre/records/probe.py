"""What is common to the records of probes: metrics that join those of the run, and a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from nacre.evaluation.matrix import Direction, Unit

BEFORE = "before"
"""The name of a run's first stage, before any task."""


@dataclass(frozen=True)
class ProbeMetric:
    """A number that sums up what a probe found after the last task.

    Attributes:
        key: Its name in comparisons.
        title: Its name on pages.
        unit: `%` of a fraction, or `points` of a difference of fractions.
        better: Which values are better.
        definition: What it is, in words.
    """

    key: str
    title: str
    unit: Unit
    better: Direction
    definition: str

    @property
    def heading(self) -> str:
        """A short name for the column of a table."""
        return self.key.replace("_", " ")

    @property
    def signed(self) -> bool:
        """Whether the value is a gain, which is shown with its sign."""
        return self.unit == "points" and self.better == "higher"


@dataclass(frozen=True)
class ProbeValue:
    """A fraction in a table of a probe.

    Attributes:
        value: The fraction.
        error: Its deviation or standard error; None where there is none.
        signed: Whether it is a difference, which is shown with its sign.
    """

    value: float | None
    error: float | None = None
    signed: bool = False


@dataclass(frozen=True)
class ProbeTable:
    """What a probe found, as a table.

    Attributes:
        title: What stands above it.
        note: What the numbers are, in a sentence or two.
        first: Heading of the column that says what a row is of.
        columns: Headings of the other columns.
        rows: What each row is of, and its values.
    """

    title: str
    note: str
    first: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[ProbeValue, ...]], ...]


class ProbeRecord(BaseModel, ABC):
    """What a probe found in a run. A field of `RunRecord` of such a type makes it part of `results.json`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    metrics: ClassVar[tuple[ProbeMetric, ...]]
    """What `values` has, in the order in which it is shown."""

    @abstractmethod
    def values(self, last_task: str) -> dict[str, float | None]:
        """Each metric's value by its key.

        Args:
            last_task: The stream's last task, after which metrics are read.

        Returns:
            Fractions; None where one was not measured.
        """

    @abstractmethod
    def problems(self) -> Iterator[str]:
        """What contradicts itself, each a phrase that begins with the culprit's key; nothing in a true record."""

    @abstractmethod
    def table(self) -> ProbeTable:
        """The results as a table."""
