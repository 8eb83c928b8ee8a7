"""Rows that cannot be read: all of them are named at once, or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from nacre.documents import shown_text
from nacre.errors import DataError
from nacre.tasks.reading.tables import RawRecord, Table
from nacre.tasks.task import Row

NAMED = 10
"""Bad rows that a message names; it counts all of them."""


@dataclass(frozen=True)
class ReadRows:
    """What became of the records of a split.

    Attributes:
        table: The records.
        rows: Each row that could be read, with its record.
        faults: What is wrong with the others: a sentence each, which begins with the place.
    """

    table: Table
    rows: tuple[tuple[RawRecord, Row], ...]
    faults: tuple[str, ...]

    def checked(self, check: Callable[[RawRecord, Row], None]) -> ReadRows:
        """Returns the same without the rows that a check refuses with `DataError`."""
        good: list[tuple[RawRecord, Row]] = []
        faults = list(self.faults)
        for record, row in self.rows:
            try:
                check(record, row)
                good.append((record, row))
            except DataError as error:
                faults.append(str(error))
        return replace(self, rows=tuple(good), faults=tuple(faults))

    def refuse(self) -> None:
        """Raises `DataError` if there are faults; the message names the first ones."""
        if not self.faults:
            return
        first, *others = self.faults
        if not others:
            raise DataError(first)
        prefix = f"{self.table.name}, "
        named = "; ".join(shown_text(fault.removeprefix(prefix).removesuffix(".")) for fault in others[: NAMED - 1])
        more = f"; and {len(self.faults) - NAMED:,} more" if len(self.faults) > NAMED else ""
        raise DataError(
            f"{first} {len(self.faults):,} of {self.size:,} rows cannot be read, also {named}{more}. Correct them, or "
            "leave them out with --skip-bad-rows."
        )

    @property
    def size(self) -> int:
        """The number of rows, good and bad."""
        return len(self.rows) + len(self.faults)


def read_all(table: Table, read: Callable[[RawRecord], Row]) -> ReadRows:
    """Reads every record of a split that can be read.

    Args:
        table: The records.
        read: Makes a row of a record, or raises `DataError`.
    """
    rows: list[tuple[RawRecord, Row]] = []
    faults = list(table.faults)
    for record in table.records:
        try:
            rows.append((record, read(record)))
        except DataError as error:
            faults.append(str(error))
    return ReadRows(table, tuple(rows), tuple(faults))


def refuse_bad_rows(splits: Iterable[ReadRows], *, skip: bool) -> None:
    """Refuses rows that cannot be read.

    Args:
        splits: The splits.
        skip: Whether bad rows are left out.

    Raises:
        DataError: There are bad rows; with `skip`, a split has no others.
    """
    for split in splits:
        if not skip or not split.rows:
            split.refuse()
