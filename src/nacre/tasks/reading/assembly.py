"""From a raw task to the task: labels, rows left out, rows held out for validation, the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nacre.errors import DataError
from nacre.tasks.published.catalog import KnownTask, known, template_of
from nacre.tasks.published.written import WrittenTask, definition_prompt, written
from nacre.tasks.reading.bad_rows import read_all, refuse_bad_rows
from nacre.tasks.reading.cards import TaskCard
from nacre.tasks.reading.choices import Choices
from nacre.tasks.reading.conversations import conversation_reader
from nacre.tasks.reading.fields import Fields, find_fields, label_check, row_reader, unread_columns
from nacre.tasks.reading.folding import ReadSplits, folded
from nacre.tasks.reading.tables import Table
from nacre.tasks.reading.text import text_reader
from nacre.tasks.reading.validation_split import hold_out
from nacre.tasks.task import SPLITS, Row, Split, Task
from nacre.tasks.template import Template

Rows = Mapping[Split, Sequence[Row]]
"""The rows of each split that a source has."""


@dataclass(frozen=True)
class RawTask:
    """All that a source holds about one task, before any decision.

    Attributes:
        where: What messages call the source.
        layout: How the source is laid out, for the record.
        tables: The records of each split.
        card: The content of task.json.
        labels: The label set that comes with the rows.
        family: The name of the folder above, in CL_Benchmark.
        alone: Whether the source is a single file of rows. Test rows are held out of its rows then.
    """

    where: str
    layout: str
    tables: Mapping[Split, Table]
    card: TaskCard = field(default_factory=TaskCard)
    labels: tuple[str, ...] | None = None
    family: str = ""
    alone: bool = False


def assemble(name: str, raw: RawTask, choices: Choices) -> Task:
    """Makes a task from its raw form.

    Args:
        name: The task's name.
        raw: What the source holds.
        choices: What to do with bad rows and labels, and the seed for rows held out of the training rows where the
            source has no validation rows.

    Returns:
        The checked task.

    Raises:
        DataError: Rows are missing or wrong; the message names the file and the line.
    """
    for split in ("train", "test"):
        if split not in raw.tables and not (split == "test" and raw.alone):
            raise DataError(f"{raw.where}: there is no {split} split; a task needs one.")
    if raw.card.text:
        return _text_task(name, raw, choices)
    published, free = known(name), written(name)
    fields = find_fields(raw.tables["train"], raw.card.fields)
    reader = conversation_reader if fields.turns else row_reader
    read: ReadSplits = {split: read_all(table, reader(table, fields)) for split, table in raw.tables.items()}
    labels = _labels(raw, published, free, fields, [row for _, row in read["train"].rows])
    folded_rows: dict[str, int] = {}
    if labels is not None and choices.fold_labels:
        labels, read, folded_rows = folded(labels, read)
    no_label = _no_label(published, labels)
    if labels is not None:
        read = {split: own.checked(label_check(own.table, labels, no_label)) for split, own in read.items()}
    refuse_bad_rows(read.values(), skip=choices.skip_bad_rows)
    rows: Rows = {split: [row for _, row in own.rows] for split, own in read.items()}
    prompt = None
    if not fields.turns:
        prompt, rows = _written_prompt(raw, free, rows)
    labeled, dropped = _drop_unlabeled(rows, no_label)
    for split, table in raw.tables.items():
        if not labeled[split]:
            raise DataError(f"{table.name}: none of its rows has a label; every split needs at least one.")

    splits, held_out = _complete(labeled, name=name, by_label=labels is not None, seed=choices.seed)
    source: dict[str, Any] = {
        "layout": raw.layout,
        "files": {split: dict(raw.tables[split].origin) for split in SPLITS if split in raw.tables},
        "dropped": dropped,
        "license": published.license if published else free.license if free else raw.card.license,
        **_unread(raw, fields.names),
        **_skipped(read),
        **({"folded": folded_rows} if folded_rows else {}),
        **({"metric_note": raw.card.metric_note} if raw.card.metric_note else {}),
        **held_out,
    }
    return Task(
        name=name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        template=_bare(raw) if fields.turns else _template(name, raw, published, prompt, fields, labels),
        labels=labels,
        metric=raw.card.metric or (free.metric if free else "exact_match"),
        source=source,
    ).check()


def _text_task(name: str, raw: RawTask, choices: Choices) -> Task:
    """A task of unlabeled text."""
    column = raw.card.fields.get("text", "text")
    read = {split: read_all(table, text_reader(table, column)) for split, table in raw.tables.items()}
    refuse_bad_rows(read.values(), skip=choices.skip_bad_rows)
    rows = {split: [row for _, row in own.rows] for split, own in read.items()}
    splits, held_out = _complete(rows, name=name, by_label=False, seed=choices.seed)
    source: dict[str, Any] = {
        "layout": raw.layout,
        "files": {split: dict(raw.tables[split].origin) for split in SPLITS if split in raw.tables},
        "license": raw.card.license,
        **_unread(raw, {column}),
        **_skipped(read),
        **held_out,
    }
    return Task(
        name=name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        template=Template(answer_cue=""),
        metric="token_accuracy",
        source=source,
        kind="text",
    ).check()


def _unread(raw: RawTask, read: Collection[str]) -> dict[str, Any]:
    """What to record about columns that are not read; nothing without any."""
    columns = unread_columns(raw.tables.values(), read)
    return {"unread": columns} if columns else {}


def _skipped(read: ReadSplits) -> dict[str, Any]:
    """What to record about bad rows that were left out; nothing without any."""
    skipped = {split: len(own.faults) for split, own in read.items() if own.faults}
    return {"skipped": skipped} if skipped else {}


def _complete(
    rows: Rows, *, name: str, by_label: bool, seed: int
) -> tuple[dict[Split, tuple[Row, ...]], dict[str, Any]]:
    """All three splits, with validation rows that are not the test rows, and what to record about them."""
    complete = {split: tuple(own) for split, own in rows.items()}
    record: dict[str, Any] = {}
    if "test" not in complete:
        complete["train"], complete["test"] = hold_out(
            complete["train"], (), name=name, by_label=by_label, seed=seed, split="test"
        )
        record["carved_test"] = {"from": "train", "seed": seed, "rows": len(complete["test"])}
    # Rows are compared, not bytes: the same rows in another order or kind of file are still the test split.
    if "validation" in complete and Counter(complete["validation"]) == Counter(complete["test"]):
        del complete["validation"]
        record["not_used"] = {"validation": "its rows are the test rows"}
    if "validation" not in complete:
        complete["train"], complete["validation"] = hold_out(
            complete["train"], complete["test"], name=name, by_label=by_label, seed=seed
        )
        record["carved"] = {"from": "train", "seed": seed, "rows": len(complete["validation"])}
    return complete, record


def _written_prompt(raw: RawTask, free: WrittenTask | None, rows: Rows) -> tuple[Template | None, Rows]:
    """The prompt of a published task with written answers, and the rows without the parts that it repeats.

    The prompt also serves any task in the schema of Super-NaturalInstructions; for other tasks it is None.
    """
    definition = raw.tables["train"].definition
    if definition or (free is not None and free.by_definition):
        if definition := definition or raw.card.definition:
            return definition_prompt(definition), rows
        raise DataError(
            f"{raw.where}: the prompt begins with the task's definition, which is missing; "
            'give it in task.json: {"definition": ...}.'
        )
    if free is None:
        return None, rows
    if not free.in_rows:
        return free.prompt, rows
    if not free.wraps(row for own in rows.values() for row in own):
        return Template(answer_cue=""), rows
    return free.prompt, {split: [free.unwrapped(row) for row in own] for split, own in rows.items()}


def _bare(raw: RawTask) -> Template:
    """The template of conversations, which adds nothing; `DataError` if the card wants something added."""
    card = raw.card
    wanted = {"instruction": card.instruction, "options": card.options, "answer_cue": card.answer_cue}
    if added := [key for key, value in wanted.items() if value]:
        raise DataError(
            f"{raw.where}: '{added[0]}' cannot be added to conversations, whose turns are the whole prompt; write it "
            "into a system turn, or remove it."
        )
    return Template(answer_cue="")


def _labels(
    raw: RawTask, published: KnownTask | None, free: WrittenTask | None, fields: Fields, train: Sequence[Row]
) -> tuple[str, ...] | None:
    """The label set in prompt order; None for free text.

    The first source that has one wins: task.json, labels.json, a dataset's class names, the catalog, the training rows.
    """
    if raw.card.labels or raw.card.free_text:
        return raw.card.labels
    if raw.labels:
        return raw.labels
    classes = raw.tables["train"].classes.get(fields.target)
    if classes and not (published and set(classes) == set(published.labels)):
        return classes
    if published:
        return published.labels
    if free:
        return free.labels
    return tuple(sorted({row.target for row in train})) if fields.classes else None


def _no_label(published: KnownTask | None, labels: Sequence[str] | None) -> str | None:
    """The mark by which the publisher says that a row has no label; None if there is none, or if it is a label."""
    mark = published.no_label if published else None
    return None if labels is not None and mark in labels else mark


def _drop_unlabeled(rows: Rows, no_label: str | None) -> tuple[Rows, dict[str, int]]:
    """The rows that have a label, and how many have none in each split where that happens."""
    if no_label is None:
        return rows, {}
    labeled = {split: [row for row in own if row.target != no_label] for split, own in rows.items()}
    dropped = {split: len(own) - len(labeled[split]) for split, own in rows.items()}
    return labeled, {split: count for split, count in dropped.items() if count}


def _template(
    name: str,
    raw: RawTask,
    published: KnownTask | None,
    prompt: Template | None,
    fields: Fields,
    labels: Sequence[str] | None,
) -> Template:
    """The template: task.json first, then the published one (`prompt` is that of a task with written answers).

    A task that is in neither has no instruction, and options if it has labels. A text that is a complete prompt gets
    nothing added.
    """
    card = raw.card
    if published:
        base = template_of(published)
    elif prompt is not None:
        base = prompt
    elif fields.complete:
        base = Template(answer_cue="")
    else:
        base = Template(options=labels is not None)
    options = base.options
    instruction = card.instruction
    if published and instruction:
        options = labels is not None
    if prompt is not None and instruction == card.definition:
        instruction = None  # it is already part of the prompt
    return Template(
        instruction=base.instruction if instruction is None else instruction,
        options=options if card.options is None else card.options,
        answer_cue=base.answer_cue if card.answer_cue is None else card.answer_cue,
        type_name=base.type_name or card.family or raw.family,
        dataset_name=base.dataset_name or card.name or name,
        text_cue=base.text_cue,
    )
