"""task.json: what the owner of the rows says about a task. Every key is optional; keys not named here are notes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacre.errors import DataError
from nacre.tasks.fields import as_label
from nacre.tasks.hub import HubAddress
from nacre.tasks.tables import read_json
from nacre.tasks.task import SPLITS, Split


@dataclass(frozen=True)
class Card:
    """The content of one task.json.

    labels: the label set in prompt order. free_text: whether the file says ``"labels": null``.
    instruction: the sentence in front of the text; ``definition`` (a string or a list of them) is read where there
        is none. options: whether the label set is printed. answer_cue: what follows the text.
    metric: a scorer's name (``accuracy`` is another word for ``exact_match``). metric_note: what stood there
        instead of a name, kept for the record.
    fields: names of the fields of a row, under "text" and "label". files: file names under the splits' names.
    hub: where the rows come from when the folder has no training file.
    license: a note for the record, as it stands.
    """

    name: str | None = None
    family: str | None = None
    labels: tuple[str, ...] | None = None
    free_text: bool = False
    instruction: str | None = None
    options: bool | None = None
    answer_cue: str | None = None
    metric: str = "exact_match"
    metric_note: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Split, str] = field(default_factory=dict)
    hub: HubAddress | None = None
    license: Any = None


def read_card(folder: Path) -> Card:
    """The folder's task.json, or an empty card if it has none; ``DataError`` with file and key for a wrong value."""
    path = folder / "task.json"
    if not path.exists():
        return Card()
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: an object with keys such as 'labels' and 'instruction' is expected.")
    metric, note = _metric(_text(path, content, "metric"))
    return Card(
        name=_text(path, content, "name"),
        family=_text(path, content, "family"),
        labels=label_set(f"{path}, labels", content["labels"]) if content.get("labels") is not None else None,
        free_text="labels" in content and content["labels"] is None,
        instruction=_instruction(path, content),
        options=_switch(path, content, "options"),
        answer_cue=_text(path, content, "answer_cue"),
        metric=metric,
        metric_note=note,
        fields=_fields(path, content),
        files=_files(path, content),
        hub=_hub(path, content),
        license=content.get("license", content.get("licence")),
    )


def label_set(where: str, value: Any) -> tuple[str, ...]:
    """A list of different labels as strings; ``DataError`` that begins with ``where`` for anything else."""
    labels = [as_label(item) for item in value] if isinstance(value, list) else []
    if not labels or any(not label for label in labels):
        raise DataError(f"{where}: a list of label strings is expected, not {value!r}.")
    names = tuple(label for label in labels if label)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where}: label '{twice[0]}' is listed twice.")
    return names


def _metric(text: str | None) -> tuple[str, str | None]:
    """A metric's name, and the text that was no name. Some cards describe in words how others score the task."""
    if text is None or text == "accuracy":
        return "exact_match", None
    return (text, None) if re.fullmatch("[a-z][a-z0-9_]*", text) else ("exact_match", text)


def _text(path: Path, content: Mapping[str, Any], key: str) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{path}, {key}: a string is expected, not {value!r}.")
    return value


def _switch(path: Path, content: Mapping[str, Any], key: str) -> bool | None:
    value = content.get(key)
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{path}, {key}: true or false is expected, not {value!r}.")
    return value


def _instruction(path: Path, content: Mapping[str, Any]) -> str | None:
    if "instruction" in content or not isinstance(content.get("definition"), list):
        return _text(path, content, "instruction" if "instruction" in content else "definition")
    lines = content["definition"]
    if not all(isinstance(line, str) for line in lines):
        raise DataError(f"{path}, definition: a string or a list of strings is expected, not {lines!r}.")
    return " ".join(lines)


def _fields(path: Path, content: Mapping[str, Any]) -> dict[str, str]:
    value = content.get("fields")
    if value is None:
        return {}
    wrong = not isinstance(value, dict) or set(value) - {"text", "label"}
    if wrong or not all(isinstance(name, str) and name for name in value.values()):
        raise DataError(f"{path}, fields: field names under 'text' and 'label' are expected, not {value!r}.")
    return dict(value)


def _files(path: Path, content: Mapping[str, Any]) -> dict[Split, str]:
    value = content.get("files")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{path}, files: file names under train, validation and test are expected, not {value!r}.")
    files: dict[Split, str] = {}
    for split in SPLITS:  # other keys are notes: nacre's benchmark data list sizes and hashes under file names there
        if split not in value:
            continue
        name = value[split]
        if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{path}, files, {split}: a file name inside the task's folder is expected, not {name!r}.")
        files[split] = name
    return files


def _hub(path: Path, content: Mapping[str, Any]) -> HubAddress | None:
    value = content.get("hub")
    if value is None:
        return None
    if not isinstance(value, dict) or not value.get("name"):
        raise DataError(f"{path}, hub: an object with 'name' (and 'config', 'revision') is expected, not {value!r}.")
    name = _text(path, value, "name")
    assert name is not None
    # A relative name that is a folder beside task.json is a dataset folder shipped with the task.
    here = path.parent / name
    return HubAddress(
        str(here) if here.is_dir() else name, _text(path, value, "config"), _text(path, value, "revision")
    )
