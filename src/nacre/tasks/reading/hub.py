"""Rows of a Hugging Face dataset, by name or from a dataset folder on this machine.

This module uses the network, but only for data that asks for it (`hub:NAME`, `hub:published`, or `hub` in task.json).
The only other module that may is `nacre.evaluation.base_ability.benchmarks`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nacre.errors import DataError, nearest
from nacre.files import hash_of
from nacre.optional import need
from nacre.seeds import derive
from nacre.tasks.published.catalog import KnownTask, canonical
from nacre.tasks.published.hub_sources import HUB_SOURCES, HubSource, most_rows
from nacre.tasks.reading.fields import as_label
from nacre.tasks.reading.tables import SPLIT_NAMES, RawRecord, Table, named_class, with_class_names
from nacre.tasks.task import Split

PREFIX = "hub:"

PUBLISHED = PREFIX + "published"
"""The datasets of the published tasks, which `nacre.tasks.published.hub_sources` lists."""


@dataclass(frozen=True)
class HubAddress:
    """A dataset on the Hugging Face Hub.

    Attributes:
        name: The dataset's name, or a folder.
        config: One of its configurations; None for the only or default one.
        revision: A revision; None for the newest.
    """

    name: str
    config: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return PREFIX + self.name + (f"@{self.revision}" if self.revision else "")


def parse_address(text: str) -> HubAddress:
    """Reads an address of the form `hub:NAME` or `hub:NAME@REVISION`.

    Raises:
        DataError: The address names no dataset.
    """
    name, _, revision = text.removeprefix(PREFIX).partition("@")
    if not name:
        raise DataError(f"Data '{text}' names no dataset; write hub:NAME, hub:NAME@REVISION, or {PUBLISHED}.")
    return HubAddress(name, revision=revision or None)


def config_names(address: HubAddress) -> list[str]:
    """Returns the names of the dataset's configurations, sorted.

    Raises:
        DataError: The dataset cannot be reached.
    """
    datasets = _datasets()
    try:
        return sorted(datasets.get_dataset_config_names(address.name, revision=address.revision))
    except Exception as error:
        raise _unreachable(address, error) from error


def find_config(address: HubAddress, task: str) -> HubAddress:
    """Finds the configuration that is named after a task; aliases of published tasks are accepted.

    Args:
        address: The dataset.
        task: The task's name.

    Returns:
        The address with the configuration.

    Raises:
        DataError: There is no such configuration, or the dataset cannot be reached.
    """
    names = config_names(address)
    matches = [name for name in names if name == task] or [n for n in names if canonical(n) == canonical(task)]
    if not matches:
        raise DataError(f"{address} has no configuration for task '{task}'. {nearest(task, names)}")
    return HubAddress(address.name, matches[0], address.revision)


def read_dataset(address: HubAddress) -> dict[Split, Table]:
    """Reads the splits of one configuration. Integers of a class-label column become the names of the classes.

    Raises:
        DataError: The dataset cannot be reached, or its splits are ambiguous or empty.
    """
    splits = _loaded(address)
    tables: dict[Split, Table] = {}
    for split, names in SPLIT_NAMES.items():
        present = [name for name in names if name in splits]
        if len(present) > 1:
            raise DataError(f"{address}: the splits {' and '.join(present)} could both be the {split} split.")
        if present:
            tables[split] = _table(address, present[0], splits[present[0]])
    return tables


def read_published(task: KnownTask) -> dict[Split, Table]:
    """Reads a published task, in the layout and the sizes of O-LoRA's release.

    Which rows are drawn depends on the task's name alone.

    Args:
        task: A task in `HUB_SOURCES`.

    Returns:
        The training and test rows, with the fields `text` and `label`.

    Raises:
        DataError: The dataset cannot be reached, or lacks a split or a column.
    """
    source = HUB_SOURCES[task.name]
    address = HubAddress(source.name, source.config, source.revision)
    splits = _loaded(address)
    names: dict[Split, str] = {"train": "train", "test": source.test}
    tables: dict[Split, Table] = {}
    for split, name in names.items():
        where = f"{address}, {source.config}, split {name}"
        missing = [column for column in source.columns if name in splits and column not in splits[name].column_names]
        if name not in splits or missing:
            what = f"column '{missing[0]}'" if missing else f"split '{name}'"
            raise DataError(f"{address}, {source.config}: there is no {what}; '{task.name}' needs it.")
        rows, most = splits[name], most_rows(task)[split]
        chosen = range(len(rows))
        if len(rows) > most:
            chosen = sorted(random.Random(derive(0, "hub", task.name, split)).sample(chosen, most))  # type: ignore[assignment]
        feature = rows.features[source.label]
        records = tuple(
            RawRecord(number + 1, {"text": _laid_out(source, row), "label": _label(source, feature, row[source.label])})
            for number, row in zip(chosen, rows.select(chosen).select_columns(list(source.columns)), strict=True)
        )
        tables[split] = Table(where, "row", records, ("text", "label"), {}, _origin(address, name, records, len(rows)))
    return tables


def _laid_out(source: HubSource, row: Mapping[str, Any]) -> str:
    return source.text.format_map({column: "" if value is None else value for column, value in row.items()})


def _label(source: HubSource, feature: Any, value: Any) -> str | None:
    """What the release calls a class; None if the dataset does not publish it."""
    name = named_class(value, tuple(feature.names)) if hasattr(feature, "names") else as_label(value)
    return None if name is None else source.labels.get(name, name)


def _loaded(address: HubAddress) -> Any:
    datasets = _datasets()
    try:
        return datasets.load_dataset(address.name, address.config, revision=address.revision)
    except Exception as error:
        raise _unreachable(address, error) from error


def _datasets() -> Any:
    return need("datasets", "Reading a Hugging Face dataset")


def _table(address: HubAddress, split: str, rows: Any) -> Table:
    classes = {column: tuple(feature.names) for column, feature in rows.features.items() if hasattr(feature, "int2str")}
    values = [with_class_names(row, classes) for row in rows.to_list()]
    where = f"{address}, {address.config or 'default'}, split {split}"
    if not values:
        raise DataError(f"{where} holds no rows; every split needs at least one.")
    records = tuple(RawRecord(number, row) for number, row in enumerate(values, start=1))
    origin = _origin(address, split, records, len(values))
    return Table(where, "row", records, tuple(rows.column_names), classes, origin)


def _origin(address: HubAddress, split: str, records: Sequence[RawRecord], of: int) -> dict[str, Any]:
    """What goes on record. `of` is the number of all rows, of which these may be a sample."""
    rows = [[(column, str(value)) for column, value in sorted(record.values.items())] for record in records]
    return {
        "hub": {"name": address.name, "config": address.config, "revision": address.revision, "split": split},
        "sha256": hash_of(rows),
        "rows": len(rows),
        **({"drawn from": of} if of > len(rows) else {}),
    }


def _unreachable(address: HubAddress, error: Exception) -> DataError:
    """The error to raise for any exception: the library, its HTTP client and its readers each have their own types."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if not isinstance(error, ConnectionError):
        return DataError(f"{address} cannot be loaded: {reason}.")
    wanted = [repr(address.name), *([repr(address.config)] if address.config else [])]
    if address.revision:
        wanted.append(f"revision={address.revision!r}")
    return DataError(
        f"{address} cannot be loaded: {reason}, and it has not been downloaded before. Run once with a network: "
        f'python -c "import datasets; datasets.load_dataset({", ".join(wanted)})".'
    )
