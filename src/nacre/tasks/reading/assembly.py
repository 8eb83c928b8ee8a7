"""From what was found of a task to the task: labels, rows left out, rows held out for validation, the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nacre.errors import DataError
from nacre.tasks.published.catalog import KnownTask, known, template_of
from nacre.tasks.published.written import WrittenTask, definition_prompt, written
from nacre.tasks.reading.cards import TaskCard
from nacre.tasks.reading.conversations import read_conversations
from nacre.tasks.reading.fields import Fields, Placed, check_labels, find_fields, read_rows
from nacre.tasks.reading.tables import Table
from nacre.tasks.reading.text import read_texts
from nacre.tasks.reading.validation_split import hold_out_validation
from nacre.tasks.task import SPLITS, Row, Split, Task
from nacre.tasks.template import Template


@dataclass(frozen=True)
class RawTask:
    """All that was found of one task, before any decision.

    where: how messages call it. labels: the label set shipped beside the rows. family: the folder above, in
    CL_Benchmark.
    """

    where: str
    layout: str
    tables: Mapping[Split, Table]
    card: TaskCard = field(default_factory=TaskCard)
    labels: tuple[str, ...] | None = None
    family: str = ""


def assemble(name: str, found: RawTask, seed: int) -> Task:
    """The task called ``name``; ``DataError`` with file and line for what is wrong with its rows."""
    for split in ("train", "test"):
        if split not in found.tables:
            raise DataError(f"{found.where}: there is no {split} split; a task needs one.")
    if found.card.text:
        return _text_task(name, found, seed)
    published, free = known(name), written(name)
    fields = find_fields(found.tables["train"], found.card.fields)
    read = read_conversations if fields.turns else read_rows
    placed = {split: read(table, fields) for split, table in found.tables.items()}
    prompt = None if fields.turns else _written_prompt(found, free, placed)
    labels = _labels(found, published, free, fields, placed["train"])
    dropped = _drop_unlabelled(placed, published, labels)
    for split, rows in placed.items():
        if not rows:
            raise DataError(f"{found.tables[split].name}: no row of it has a label; every split needs at least one.")
        if labels is not None:
            check_labels(rows, labels)

    splits, held_out = _with_validation(
        {split: tuple(_with_place(one, found.tables[split]) for one in rows) for split, rows in placed.items()},
        name=name,
        by_label=labels is not None,
        seed=seed,
    )
    source: dict[str, Any] = {
        "layout": found.layout,
        "files": {split: dict(found.tables[split].origin) for split in SPLITS if split in found.tables},
        "dropped": dropped,
        "license": published.license if published else free.license if free else found.card.license,
        **({"metric_note": found.card.metric_note} if found.card.metric_note else {}),
        **held_out,
    }
    return Task(
        name=name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        template=_bare(found) if fields.turns else _template(name, found, published, prompt, fields, labels),
        labels=labels,
        metric=found.card.metric or (free.metric if free else "exact_match"),
        source=source,
    ).check()


def _text_task(name: str, found: RawTask, seed: int) -> Task:
    """A task of unlabelled text."""
    column = found.card.fields.get("text", "text")
    splits, held_out = _with_validation(
        {split: read_texts(table, column) for split, table in found.tables.items()},
        name=name,
        by_label=False,
        seed=seed,
    )
    source: dict[str, Any] = {
        "layout": found.layout,
        "files": {split: dict(found.tables[split].origin) for split in SPLITS if split in found.tables},
        "license": found.card.license,
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


def _with_place(placed: Placed, table: Table) -> Row:
    """The row with its file's name, or its split's on the Hub, and its number there: without the folder, which is
    another one elsewhere."""
    file = table.origin.get("file") or table.origin.get("hub", {}).get("split", "")
    return replace(placed.row, place=(file + placed.where.removeprefix(table.name)).removeprefix(", "))


def _with_validation(
    splits: Mapping[Split, tuple[Row, ...]], *, name: str, by_label: bool, seed: int
) -> tuple[dict[Split, tuple[Row, ...]], dict[str, Any]]:
    """The splits with validation rows that are not the test rows, and what goes on record about them."""
    complete = dict(splits)
    record: dict[str, Any] = {}
    # Rows are compared, not bytes: the same rows in another order or kind of file are the test split all the same.
    if "validation" in complete and Counter(complete["validation"]) == Counter(complete["test"]):
        del complete["validation"]
        record["not_used"] = {"validation": "its rows are the test rows"}
    if "validation" not in complete:
        complete["train"], complete["validation"] = hold_out_validation(
            complete["train"], complete["test"], name=name, by_label=by_label, seed=seed
        )
        record["carved"] = {"from": "train", "seed": seed, "rows": len(complete["validation"])}
    return complete, record


def _written_prompt(found: RawTask, free: WrittenTask | None, placed: dict[Split, list[Placed]]) -> Template | None:
    """The prompt of a published task with written answers, or of any in the schema of Super-NaturalInstructions; None
    for others. What the template says itself is taken off the rows, in place."""
    definition = found.tables["train"].definition
    if definition or (free is not None and free.by_definition):
        if definition := definition or found.card.definition:
            return definition_prompt(definition)
        raise DataError(
            f"{found.where}: the task's definition is missing, and its prompt begins with it; "
            'give it in task.json: {"definition": ...}.'
        )
    if free is None:
        return None
    if not free.in_rows:
        return free.prompt
    if not free.wraps(one.row for rows in placed.values() for one in rows):
        return Template(answer_cue="")
    for split, rows in placed.items():
        placed[split] = [replace(one, row=free.unwrapped(one.row)) for one in rows]
    return free.prompt


def _bare(found: RawTask) -> Template:
    """The template of conversations, which adds nothing; ``DataError`` if the card wants something added."""
    card = found.card
    wanted = {"instruction": card.instruction, "options": card.options, "answer_cue": card.answer_cue}
    if added := [key for key, value in wanted.items() if value]:
        raise DataError(
            f"{found.where}: '{added[0]}' cannot be added to conversations, whose turns say everything; write it into "
            "a turn of the system, or take it out."
        )
    return Template(answer_cue="")


def _labels(
    found: RawTask, published: KnownTask | None, free: WrittenTask | None, fields: Fields, train: Sequence[Placed]
) -> tuple[str, ...] | None:
    """The label set in prompt order, from the first that has one: task.json, labels.json, a dataset's class names, the
    catalog, the training rows. None for free text.
    """
    if found.card.labels or found.card.free_text:
        return found.card.labels
    if found.labels:
        return found.labels
    classes = found.tables["train"].classes.get(fields.target)
    if classes and not (published and set(classes) == set(published.labels)):
        return classes
    if published:
        return published.labels
    if free:
        return free.labels
    return tuple(sorted({one.row.target for one in train})) if fields.classes else None


def _drop_unlabelled(
    placed: dict[Split, list[Placed]], published: KnownTask | None, labels: Sequence[str] | None
) -> dict[str, int]:
    """Take out, in place, the rows that the publisher marks as having no label. Returns their number by split."""
    mark = published.no_label if published else None
    if mark is None or (labels is not None and mark in labels):
        return {}
    dropped: dict[str, int] = {}
    for split, rows in placed.items():
        placed[split] = [one for one in rows if one.row.target != mark]
        if len(placed[split]) < len(rows):
            dropped[split] = len(rows) - len(placed[split])
    return dropped


def _template(
    name: str,
    found: RawTask,
    published: KnownTask | None,
    prompt: Template | None,
    fields: Fields,
    labels: Sequence[str] | None,
) -> Template:
    """task.json first, then what is published (``prompt``: of a task with written answers). A task that
    neither knows has no instruction, and options if it has labels; a text that is a complete prompt gets nothing added.
    """
    card = found.card
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
        instruction = None  # it is a part of the prompt already
    return Template(
        instruction=base.instruction if instruction is None else instruction,
        options=options if card.options is None else card.options,
        answer_cue=base.answer_cue if card.answer_cue is None else card.answer_cue,
        type_name=base.type_name or card.family or found.family,
        dataset_name=base.dataset_name or card.name or name,
        text_cue=base.text_cue,
    )
