"""Four published benchmarks that show what a model has forgotten of its pretraining.

Their prompts and metrics are those of lm-eval (``evaluation.harness``); here are their rows, from a folder or from the
Hugging Face datasets that lm-eval reads, in the datasets' own fields.

A folder holds ``TASK/test.jsonl`` or ``.jsonl.gz`` for each task, a row a line:

    hellaswag, winogrande, arc_challenge    {"text": ..., "choices": [...], "label": "B"}     A is choices[0]
    humaneval                               {"input": ..., "output": ..., "test": ..., "entry_point": ...}

hellaswag's texts are "activity: context", cleaned of the marks that the harness also takes out; winogrande's hold "_"
where a choice goes; humaneval's ``output`` is the published solution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nacre.errors import DataError
from nacre.files import hash_of, user_path
from nacre.optional import need
from nacre.tasks.reading.tables import RawRecord, Table, read_table

AbilityName = Literal["hellaswag", "winogrande", "arc_challenge", "humaneval"]
ABILITIES: tuple[AbilityName, ...] = get_args(AbilityName)
FILES = ("test.jsonl", "test.jsonl.gz")

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """Where lm-eval has a task's rows from."""

    dataset: str
    configuration: str | None
    split: str

    @property
    def download(self) -> str:
        """The Python call that fetches it into the cache."""
        more = f", '{self.configuration}'" if self.configuration else ""
        return f"datasets.load_dataset('{self.dataset}'{more})"


PUBLISHED: dict[AbilityName, Published] = {
    "hellaswag": Published("Rowan/hellaswag", None, "validation"),
    "winogrande": Published("allenai/winogrande", "winogrande_xl", "validation"),
    "arc_challenge": Published("allenai/ai2_arc", "ARC-Challenge", "test"),
    "humaneval": Published("openai/openai_humaneval", None, "test"),
}


@dataclass(frozen=True)
class AbilityTask:
    """A benchmark and its rows. cleaned: whether hellaswag's texts are put together and cleaned already."""

    name: AbilityName
    documents: tuple[Document, ...]
    cleaned: bool

    def described(self) -> dict[str, Any]:
        """For a run's protocol."""
        return {"name": self.name, "rows": len(self.documents), "hash": hash_of(list(self.documents))}


def load_ability_tasks(names: Sequence[AbilityName], data: str | None, limit: int | None = None) -> list[AbilityTask]:
    """The named benchmarks.

    Args:
        names: Of the benchmarks.
        data: A folder; None: the Hugging Face datasets, from the cache or over the network.
        limit: The first rows of each, at most.

    Raises:
        DataError: If a folder, file or row is not there or not as it should be, or if a dataset is neither cached nor
            reachable.
    """
    tasks = [_published(name) if data is None else _local(name, user_path(data)) for name in names]
    return [AbilityTask(task.name, task.documents[:limit], task.cleaned) for task in tasks]


def _published(name: AbilityName) -> AbilityTask:
    source = PUBLISHED[name]
    datasets = need("datasets", f"Reading {name}", "ability")
    try:
        rows = datasets.load_dataset(source.dataset, source.configuration, split=source.split)
    except Exception as error:  # the library, its HTTP client and its file readers each raise types of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"base_ability: {name} is neither in the cache nor within reach ({reason}). Call {source.download} once "
            f"where there is a network, or name a folder that holds {name}/test.jsonl as base_ability.data."
        ) from error
    return AbilityTask(name, tuple(rows.to_list()), cleaned=False)


def _local(name: AbilityName, folder: Path) -> AbilityTask:
    if not folder.is_dir():
        raise DataError(f"base_ability.data: the folder {folder} does not exist.")
    found = [folder / name / file for file in FILES if (folder / name / file).is_file()]
    if len(found) != 1:
        which = "both of" if found else "neither of"
        raise DataError(f"base_ability.data: {folder / name} holds {which} {' and '.join(FILES)}; one is needed.")
    table = read_table(found[0])
    return AbilityTask(name, tuple(_READERS[name](table, record) for record in table.records), cleaned=True)


def _hellaswag(table: Table, record: RawRecord) -> Document:
    text, choices, right = _choice(table, record)
    return {"query": text, "choices": choices, "label": str(right)}


def _winogrande(table: Table, record: RawRecord) -> Document:
    text, choices, right = _choice(table, record)
    _, blank, rest = text.partition("_")
    if not blank or not rest.strip() or len(choices) != 2:
        raise DataError(
            f"{table.at(record)}: two choices and a text with '_' where they go, before its end, are needed."
        )
    return {"sentence": text, "option1": choices[0], "option2": choices[1], "answer": str(right + 1)}


def _arc(table: Table, record: RawRecord) -> Document:
    text, choices, right = _choice(table, record)
    letters = [chr(ord("A") + number) for number in range(len(choices))]
    return {"question": text, "choices": {"text": choices, "label": letters}, "answerKey": letters[right]}


def _humaneval(table: Table, record: RawRecord) -> Document:
    fields = {"prompt": "input", "canonical_solution": "output", "test": "test", "entry_point": "entry_point"}
    document = {ours: _text(table, record, field) for ours, field in fields.items()}
    return {"task_id": str(record.values.get("task_id", record.number)), **document}


_READERS: dict[AbilityName, Callable[[Table, RawRecord], Document]] = {
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "arc_challenge": _arc,
    "humaneval": _humaneval,
}


def _choice(table: Table, record: RawRecord) -> tuple[str, list[str], int]:
    """Text, choices and the number of the right one."""
    text, label = _text(table, record, "text"), _text(table, record, "label")
    choices = record.values.get("choices")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(one, str) and one.strip() for one in choices)
    ):
        raise DataError(f"{table.at(record)}, choices: a list of two or more texts is expected, not {choices!r}.")
    number = ord(label) - ord("A") if len(label) == 1 else -1
    if not 0 <= number < len(choices):
        last = chr(ord("A") + len(choices) - 1)
        raise DataError(f"{table.at(record)}, label: '{label}' is none of A to {last}, the letters of its choices.")
    return text, choices, number


def _text(table: Table, record: RawRecord, field: str) -> str:
    value = record.values.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{table.at(record)}, {field}: a text is expected, not {value!r}.")
    return value
