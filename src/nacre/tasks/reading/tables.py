"""From a data file to its records: JSON lines (plain or gzip), JSON lists, CSV and Parquet.

A record maps field names to whatever the file holds. `nacre.tasks.reading.fields` decides which of them is the text
and which is the label.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from nacre.documents import DocumentError, check_plain, parse_json, shown
from nacre.errors import DataError
from nacre.files import open_file, read_text, sha256
from nacre.optional import need
from nacre.tasks.task import Split

ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".parquet", ".json")
MOST_LINE = 64_000_000
"""Bytes of one line of JSON. What a text may have is in `nacre.tasks.reading.fields`."""
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {  # what files and data sets call the three splits
    "train": ("train",),
    "validation": ("validation", "valid", "dev", "val", "eval"),
    "test": ("test",),
}


@dataclass(frozen=True)
class RawRecord:
    """One record of a data file.

    Attributes:
        number: Its number, from 1: the line in a text file, the row elsewhere.
        values: What it holds, by field name.
    """

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """The records of one split, as the source has them.

    Attributes:
        name: What error messages call the source: the file's path as the user gave it.
        unit: What a record's number counts.
        records: The records, in order.
        columns: The header, for kinds of files that have one.
        classes: Class names of integer columns, in order of the integers; the records hold the names.
        origin: What goes into the task's source. Nothing in it depends on where the data folder lies.
        definition: What the file says about the task itself (Super-NaturalInstructions' schema only).
        faults: What is wrong with lines and entries that are no records; each a sentence that begins with the place.
    """

    name: str
    unit: str
    records: tuple[RawRecord, ...]
    columns: tuple[str, ...] | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    definition: str | None = None
    faults: tuple[str, ...] = ()

    def at(self, record: RawRecord) -> str:
        """Returns the full place of a record, for error messages: `DATA/task/train.jsonl, line 7`."""
        return f"{self.name}, {self.unit} {record.number}"

    def place(self, record: RawRecord) -> str:
        """Returns the place of a record without the folder, which differs between machines: `train.jsonl, line 7`.

        On the Hugging Face Hub the split's name takes the place of the file's.
        """
        file = self.origin.get("file") or self.origin.get("hub", {}).get("split", "")
        return f"{file}, {self.unit} {record.number}" if file else f"{self.unit} {record.number}"


def read_table(path: Path, *, with_faults: bool = False) -> Table:
    """Reads all records of a file.

    Args:
        path: The file.
        with_faults: Whether lines and entries that are no records are left to the caller, in `Table.faults`.

    Raises:
        DataError: The file cannot be read; the message names the file and the line.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; a data file is expected there.")
    try:
        table = _read(path)
        origin = {"file": path.name, "sha256": sha256(path), "rows": len(table.records)}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if table.faults and not (with_faults and table.records):
        raise DataError(table.faults[0])
    if not table.records:
        raise DataError(f"{path} holds no rows; every split needs at least one.")
    return replace(table, origin=origin)


def named_class(value: Any, names: Sequence[str]) -> str | None:
    """Returns the name of a class; None for -1, null and other values that stand for no class."""
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def with_class_names(row: Mapping[str, Any], classes: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Returns the row with the names of its classes in the place of their numbers."""
    return {**row, **{column: named_class(row[column], names) for column, names in classes.items() if column in row}}


def read_json(path: Path) -> Any:
    """Reads the value of a JSON file.

    Raises:
        DataError: The file cannot be read or is not valid JSON; the message names the file and the line.
    """
    value = _json_value(path)
    try:
        check_plain(value)
    except DocumentError as error:
        raise DataError(f"{path}: {error}.") from None
    return value


def _json_value(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from error
    except DocumentError as error:
        raise DataError(f"{path}: {error}.") from error


def _read(path: Path) -> Table:
    name = path.name.lower()
    if name.endswith(".json"):
        return _json(path)
    if name.endswith(".jsonl.gz"):
        return _table(path, "line", _gzip_lines(path))
    if name.endswith(".jsonl"):
        with open_file(path) as file:
            return _table(path, "line", _json_lines(path, file))
    if name.endswith(".csv"):
        return _csv(path)
    if name.endswith(".parquet"):
        return _parquet(path)
    raise DataError(f"{path}: files of this kind cannot be read; {', '.join(ENDINGS)} can.")


def _table(path: Path, unit: str, found: Iterable[RawRecord | DataError], definition: str | None = None) -> Table:
    records, faults = [], []
    for each in found:
        records.append(each) if isinstance(each, RawRecord) else faults.append(str(each))
    return Table(str(path), unit, tuple(records), definition=definition, faults=tuple(faults))


def _gzip_lines(path: Path) -> Iterator[RawRecord | DataError]:
    try:
        with open_file(path) as packed, gzip.open(packed, "rb") as file:
            yield from _json_lines(path, file)
    except gzip.BadGzipFile as error:
        raise DataError(f"{path} is not a gzip file; compress it, or name it .jsonl if it is plain text.") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}).") from error


def _json_lines(path: Path, lines: BinaryIO | gzip.GzipFile) -> Iterator[RawRecord | DataError]:
    # Split as bytes: only a line feed ends a JSON line, while text mode would also break at other characters.
    for number, line in enumerate(iter(lambda: lines.readline(MOST_LINE + 1), b""), start=1):
        where = f"{path}, line {number}"
        if len(line) > MOST_LINE:
            raise DataError(f"{where}: the line has more than {MOST_LINE:,} bytes; a row this long cannot be read.")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            if not text.strip():
                continue
            value = parse_json(text)
        except UnicodeDecodeError as error:
            yield DataError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start} of the line).")
        except json.JSONDecodeError as error:
            yield DataError(f"{where}: not valid JSON (column {error.colno}: {error.msg.removesuffix(' at')}).")
        except DocumentError as error:
            yield DataError(f"{where}: {error}.")
        else:
            yield _record(number, value, where)


def _json(path: Path) -> Table:
    """A JSON list, or of an object in the schema of Super-NaturalInstructions."""
    content = _json_value(path)
    definition = None
    if isinstance(content, dict) and "Instances" in content:
        content, definition = content["Instances"], _definition(path, content.get("Definition"))
    if not isinstance(content, list):
        raise DataError(f"{path}: a JSON list of objects is expected, but this is {_kind(content)}.")
    found = (_record(number, value, f"{path}, row {number}") for number, value in enumerate(content, start=1))
    return _table(path, "row", found, definition)


def _definition(path: Path, value: Any) -> str | None:
    lines = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(line, str) for line in lines):
        raise DataError(f"{path}, Definition: a string or a list of strings is expected, not {shown(value)}.")
    return " ".join(lines).strip() or None


def _csv(path: Path) -> Table:
    records: list[RawRecord] = []
    usual = csv.field_size_limit(MOST_LINE)  # Python's own limit, 131,072, is a fifth of a novel
    try:
        with open_file(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            columns = tuple(next(reader, ()))
            if len(set(columns)) < len(columns):
                raise DataError(f"{path}, line 1: two columns have the same name ({', '.join(columns)}).")
            for values in reader:
                if not values:
                    continue
                if len(values) != len(columns):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(values)} values, but the header names "
                        f"{len(columns)} columns; put a value that holds a comma or a line end in double quotes."
                    )
                records.append(RawRecord(reader.line_num, dict(zip(columns, values, strict=True))))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error}).") from error
    finally:
        csv.field_size_limit(usual)
    return Table(str(path), "line", tuple(records), columns)


def _parquet(path: Path) -> Table:
    arrow = need("pyarrow", f"Reading {path.name}")
    parquet = need("pyarrow.parquet", f"Reading {path.name}")
    try:
        with open_file(path) as file:
            table = parquet.read_table(file)
    except arrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}).") from error
    classes = _classes(path, table.schema.metadata or {})
    records = (RawRecord(n, with_class_names(row, classes)) for n, row in enumerate(table.to_pylist(), start=1))
    return Table(str(path), "row", tuple(records), tuple(table.column_names), classes)


def _classes(path: Path, metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """The class names that the library datasets, and with it every Parquet file of the Hub, writes into the schema."""
    try:
        features = parse_json(metadata.get(b"huggingface", b"{}").decode()).get("info", {}).get("features", {})
        named = {column: feature for column, feature in features.items() if feature.get("_type") == "ClassLabel"}
        return {column: tuple(map(str, feature["names"])) for column, feature in named.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise DataError(f"{path}: the schema's entry 'huggingface', which names the classes, is damaged.") from None


def _record(number: int, value: Any, where: str) -> RawRecord | DataError:
    if isinstance(value, dict):
        return RawRecord(number, value)
    return DataError(f"{where}: an object with fields is expected, but this is {_kind(value)}.")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
