"""Rows that come from a Hugging Face dataset, by name or from a dataset folder on this machine.

The one place that may use the network, and only for data that says so (``hub:NAME``, or ``hub`` in task.json).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nacre.errors import DataError, nearest
from nacre.files import hash_of
from nacre.tasks.catalog import canonical
from nacre.tasks.extras import need
from nacre.tasks.tables import SPLIT_NAMES, Record, Table
from nacre.tasks.task import Split

PREFIX = "hub:"


@dataclass(frozen=True)
class HubAddress:
    """A dataset, one of its configurations (None: its only or default one) and the revision (None: the newest)."""

    name: str
    config: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return PREFIX + self.name + (f"@{self.revision}" if self.revision else "")


def parse_address(text: str) -> HubAddress:
    """``hub:NAME`` or ``hub:NAME@REVISION``."""
    name, _, revision = text.removeprefix(PREFIX).partition("@")
    if not name:
        raise DataError(f"Data '{text}' names no dataset; write hub:NAME, or hub:NAME@REVISION.")
    return HubAddress(name, revision=revision or None)


def config_names(address: HubAddress) -> list[str]:
    """Names of the dataset's configurations; ``DataError`` if it cannot be reached."""
    datasets = _datasets()
    try:
        return sorted(datasets.get_dataset_config_names(address.name, revision=address.revision))
    except Exception as error:
        raise _unreachable(address, error) from error


def find_config(address: HubAddress, task: str) -> HubAddress:
    """The address with the configuration that carries the task's name; aliases of published tasks are accepted."""
    names = config_names(address)
    matches = [name for name in names if name == task] or [n for n in names if canonical(n) == canonical(task)]
    if not matches:
        raise DataError(f"{address} has no configuration for task '{task}'. {nearest(task, names)}")
    return HubAddress(address.name, matches[0], address.revision)


def read_dataset(address: HubAddress) -> dict[Split, Table]:
    """The splits of one configuration. Integers of a class-label column become the names of the classes."""
    datasets = _datasets()
    try:
        found = datasets.load_dataset(address.name, address.config, revision=address.revision)
    except Exception as error:
        raise _unreachable(address, error) from error
    tables: dict[Split, Table] = {}
    for split, names in SPLIT_NAMES.items():
        present = [name for name in names if name in found]
        if len(present) > 1:
            raise DataError(f"{address}: the splits {' and '.join(present)} could both be the {split} split.")
        if present:
            tables[split] = _table(address, present[0], found[present[0]])
    return tables


def _datasets() -> Any:
    return need("datasets", "Reading a Hugging Face dataset")


def _table(address: HubAddress, split: str, rows: Any) -> Table:
    classes = {column: tuple(feature.names) for column, feature in rows.features.items() if hasattr(feature, "int2str")}
    values = [_named(row, classes) for row in rows.to_list()]
    where = f"{address}, {address.config or 'default'}, split {split}"
    if not values:
        raise DataError(f"{where} holds no rows; every split needs at least one.")
    origin = {
        "hub": {"name": address.name, "config": address.config, "revision": address.revision, "split": split},
        "sha256": hash_of([[(column, str(value)) for column, value in sorted(row.items())] for row in values]),
        "rows": len(values),
    }
    records = tuple(Record(number, row) for number, row in enumerate(values, start=1))
    return Table(where, "row", records, tuple(rows.column_names), classes, origin)


def _named(row: Mapping[str, Any], classes: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    return {column: _class(value, classes[column]) if column in classes else value for column, value in row.items()}


def _class(value: int | None, names: tuple[str, ...]) -> str | None:
    # Test rows without a published label carry -1 or null: both are refused later, with the row's number.
    return names[value] if value is not None and 0 <= value < len(names) else None


def _unreachable(address: HubAddress, error: Exception) -> DataError:
    """Any exception: the library, its HTTP client and its file readers each raise types of their own."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{address} cannot be loaded: {reason.rstrip('.')}.")
