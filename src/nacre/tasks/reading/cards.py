"""task.json: what the owner of the rows says about a task. Every key is optional; unknown keys are notes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacre.documents import DocumentError, check_plain, shown
from nacre.errors import DataError, nearest
from nacre.files import user_path
from nacre.tasks.metrics import TASK_METRICS, metric_name
from nacre.tasks.reading.fields import as_label
from nacre.tasks.reading.hub import HubAddress
from nacre.tasks.reading.tables import read_json
from nacre.tasks.task import SPLITS, Split


@dataclass(frozen=True)
class TaskCard:
    """The content of one task.json.

    Attributes:
        name: The task's name.
        family: The kind of task, for the prompt's `Task:` line.
        labels: The label set in prompt order.
        free_text: Whether the file says `"labels": null`.
        instruction: The sentence in front of the text. Without one, `definition` (a string or a list) is used.
        options: Whether to print the label set.
        answer_cue: What follows the text.
        definition: The task's definition; Super-NaturalInstructions has a prompt of its own for it.
        metric: A name in `nacre.tasks.metrics`; None if the file names none.
        metric_note: What the file says instead of a metric's name, kept for the record.
        fields: Names of a row's fields, under "text", "label" and "references".
        files: File names, by split.
        hub: Where the rows come from if the folder has no training file.
        license: A note for the record, as the file has it.
        text: Whether the rows are unlabeled text (`"kind": "text"`); the rows show every other kind.
    """

    name: str | None = None
    family: str | None = None
    labels: tuple[str, ...] | None = None
    free_text: bool = False
    instruction: str | None = None
    options: bool | None = None
    answer_cue: str | None = None
    definition: str | None = None
    metric: str | None = None
    metric_note: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Split, str] = field(default_factory=dict)
    hub: HubAddress | None = None
    license: Any = None
    text: bool = False


def read_card(folder: Path) -> TaskCard:
    """Reads a folder's task.json.

    Returns:
        Its content, or an empty card if the folder has no task.json.

    Raises:
        DataError: A value is wrong; the message names the file and the key.
    """
    path = folder / "task.json"
    if not os.path.lexists(path):  # a link to nothing is an error, not a folder without a card
        return TaskCard()
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: an object with keys such as 'labels' and 'instruction' is expected.")
    return card_of(str(path), content, folder)


def card_of(where: str, content: Mapping[str, Any], folder: Path) -> TaskCard:
    """Makes a card from keys and values.

    Args:
        where: How messages begin.
        content: The keys and values.
        folder: The folder of a dataset that is shipped with the task.

    Returns:
        The card.

    Raises:
        DataError: A value is wrong; the message names its key.
    """
    text = content.get("kind") == "text"  # there is nothing to answer, and only one way to score
    metric, note = (None, None) if text else _metric(where, _text(where, content, "metric"))
    return TaskCard(
        name=_text(where, content, "name"),
        family=_text(where, content, "family"),
        labels=label_set(f"{where}, labels", content["labels"]) if content.get("labels") is not None else None,
        free_text="labels" in content and content["labels"] is None,
        instruction=_instruction(where, content),
        definition=_definition(where, content),
        options=_switch(where, content, "options"),
        answer_cue=_text(where, content, "answer_cue"),
        metric=metric,
        metric_note=note,
        fields=_fields(where, content),
        files=_files(where, content),
        hub=_hub(where, content, folder),
        license=_license(where, content),
        text=text,
    )


def label_set(where: str, value: Any) -> tuple[str, ...]:
    """Reads a label set.

    Args:
        where: How messages begin.
        value: A list of labels.

    Returns:
        The labels as strings.

    Raises:
        DataError: The value is not a list of different labels.
    """
    labels = [as_label(item) for item in value] if isinstance(value, list) else []
    if not labels or any(not label for label in labels):
        raise DataError(f"{where}: a list of label strings is expected, not {shown(value)}.")
    names = tuple(label for label in labels if label)
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{where}: label {shown(twice[0])} is listed twice.")
    return names


def _metric(where: str, text: str | None) -> tuple[str | None, str | None]:
    """A metric's name, or else the text: some cards describe in words how others score the task."""
    if text is None:
        return None, None
    if (name := metric_name(text)) is not None:
        return name, None
    if re.fullmatch("[a-z][a-z0-9_]*", text):
        raise DataError(f"{where}, metric: there is no metric {shown(text)}. {nearest(text, TASK_METRICS)}")
    return None, text


def _license(where: str, content: Mapping[str, Any]) -> Any:
    value = content.get("license", content.get("licence"))
    try:
        check_plain(value)
    except DocumentError as error:
        raise DataError(f"{where}, license: {error}.") from None
    return value


def _text(where: str, content: Mapping[str, Any], key: str) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}, {key}: a string is expected, not {shown(value)}.")
    return value


def _switch(where: str, content: Mapping[str, Any], key: str) -> bool | None:
    value = content.get(key)
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{where}, {key}: true or false is expected, not {shown(value)}.")
    return value


def _instruction(where: str, content: Mapping[str, Any]) -> str | None:
    return _text(where, content, "instruction") if "instruction" in content else _definition(where, content)


def _definition(where: str, content: Mapping[str, Any]) -> str | None:
    lines = content.get("definition")
    if not isinstance(lines, list):
        return _text(where, content, "definition")
    if not all(isinstance(line, str) for line in lines):
        raise DataError(f"{where}, definition: a string or a list of strings is expected, not {shown(lines)}.")
    return " ".join(lines)


def _fields(where: str, content: Mapping[str, Any]) -> dict[str, str]:
    value = content.get("fields")
    if value is None:
        return {}
    wrong = not isinstance(value, dict) or set(value) - {"text", "label", "references"}
    if wrong or not all(isinstance(name, str) and name for name in value.values()):
        raise DataError(
            f"{where}, fields: field names under 'text', 'label' and 'references' are expected, not {shown(value)}."
        )
    return dict(value)


def _files(where: str, content: Mapping[str, Any]) -> dict[Split, str]:
    value = content.get("files")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(
            f"{where}, files: file names under train, validation and test are expected, not {shown(value)}."
        )
    files: dict[Split, str] = {}
    for split in SPLITS:  # other keys are notes, such as sizes and hashes by file name
        if split not in value:
            continue
        name = value[split]
        if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(
                f"{where}, files, {split}: a file name inside the task's folder is expected, not {shown(name)}."
            )
        files[split] = str(user_path(name))
    return files


def _hub(where: str, content: Mapping[str, Any], folder: Path) -> HubAddress | None:
    value = content.get("hub")
    if value is None:
        return None
    if not isinstance(value, dict) or not value.get("name"):
        raise DataError(
            f"{where}, hub: an object with 'name' (and 'config', 'revision') is expected, not {shown(value)}."
        )
    name = _text(where, value, "name")
    assert name is not None
    # A relative name that is a folder beside task.json is a dataset folder shipped with the task.
    here = folder / name
    return HubAddress(
        str(here) if here.is_dir() else name, _text(where, value, "config"), _text(where, value, "revision")
    )
