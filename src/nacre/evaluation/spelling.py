"""Targets as a host can answer them. Its tokenizer may write a target back in another way, and a long one is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from nacre.errors import DataError
from nacre.evaluation.scoring import as_compared
from nacre.models.families import Encoded, Family
from nacre.models.seam import special_texts
from nacre.tasks.task import Row, Task
from nacre.tasks.template import Example


def label_spellings(family: Family, task: Task) -> dict[str, str]:
    """The labels that the tokenizer changes, by what it makes of them, as answers are compared.

    There are none where labels are chosen whole.

    Raises:
        DataError: If two labels, or a label and nothing, read the same in an answer.
    """
    if not family.is_generative:
        return {}
    examples = {label: task.template.example("", label, task.labels) for label in task.labels or ()}
    labels = {label: as_compared(family.spelling(example), task.metric) for label, example in examples.items()}
    for label, spelling in labels.items():
        others = [other for other, its in labels.items() if other != label and its == spelling]
        if others or not spelling:
            same = f"the same as '{others[0]}'" if spelling else "nothing"
            raise DataError(
                f"Task '{task.name}': this model's tokenizer makes '{spelling}' of label '{label}', {same}, so that no "
                "answer could say it: rename the label, or take another model."
            )
    return {spelling: label for label, spelling in labels.items() if spelling != as_compared(label, task.metric)}


def as_labels(family: Family, task: Task, answers: Sequence[str]) -> list[str]:
    """The answers to a task, those that are a label as the tokenizer writes it replaced by that label."""
    spellings = label_spellings(family, task)
    return [spellings.get(as_compared(answer, task.metric), answer) for answer in answers]


def as_answered(family: Family, task: Task) -> Task:
    """The task as its answers are scored: a host writes no special tokens, so that references have none either.

    Completions often bring their own end token. It is the same task where there are none, or where it has labels.
    """
    special = special_texts(family.tokenizer)
    if task.labels is not None or not any(
        token in text for row in task.test for text in row.accepted for token in special
    ):
        return task

    def bare(row: Row) -> Row:
        references = tuple(_without(text, special) for text in row.references)
        return replace(row, target=_without(row.target, special), references=references)

    return replace(task, test=tuple(map(bare, task.test)))


def cut_targets(family: Family, rows: Sequence[Encoded]) -> list[int]:
    """Numbers of the rows whose targets are too long and lost their end token: no answer learned from them ends."""
    return [number for number, row in enumerate(rows) if family.is_cut(row.target)]


def respelled_targets(
    family: Family, examples: Sequence[Example], rows: Sequence[Encoded], metric: str
) -> dict[int, str]:
    """The targets that the tokenizer writes back in another way, as answers are compared: by number, that way.

    Special tokens do not count. There are none where labels are chosen whole.

    Args:
        family: The host's.
        examples: With free text as targets.
        rows: The same, encoded. Targets that are cut do not count.
        metric: The task's.
    """
    if not family.is_generative:
        return {}
    special = special_texts(family.tokenizer)
    written = {number: family.text(row.target) for number, row in enumerate(rows) if not family.is_cut(row.target)}
    return {
        number: text
        for number, text in written.items()
        if as_compared(text, metric) != as_compared(_without(examples[number].target, special), metric)
    }


def say_respelled(where: str, examples: Sequence[Example], respelled: Mapping[int, str]) -> str:
    """What `respelled_targets` found, in a sentence with the first of them."""
    number, text = next(iter(respelled.items()))
    return (
        f"{len(respelled)} of {len(examples)} targets in {where} are not what this model's tokenizer writes back: of "
        f"'{_short(examples[number].target)}' it makes '{_short(text)}', which is never right."
    )


def _without(text: str, special: Iterable[str]) -> str:
    for token in special:
        text = text.replace(token, "")
    return text.strip()


def _short(text: str, most: int = 40) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
