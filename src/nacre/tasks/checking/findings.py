"""What is odd about a stream's rows: texts in two splits or two tasks, unused labels, prompts that reveal the task.

Nothing is repaired here; a finding is a sentence, a count, and the rows it is about.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from nacre.tasks.checking.finding import Finding, listed, plain
from nacre.tasks.checking.overlap import TaskSplit, Texts, content
from nacre.tasks.checking.prompts import prompts
from nacre.tasks.checking.targets import target_findings
from nacre.tasks.metrics import TASK_METRICS
from nacre.tasks.task import SPLITS, Split, Task

CHECKS_SCHEMA = "nacre.checks/2"


def check_stream(tasks: Sequence[Task], normalize: Callable[[str], str]) -> dict[str, Any]:
    """Checks the rows of a stream.

    Args:
        tasks: The tasks of the stream.
        normalize: The normalization of answers before they are compared.

    Returns:
        Plain values. `tasks`: by name, counts of exact repeats (ignoring white space) and where the rows came from.
        `test rows that another task trains on`: the same counts between tasks, under `A in B`. `identity`: see
        `nacre.tasks.checking.prompts`. `findings`: see `Finding`.
    """
    texts = Texts(tasks)
    findings = [
        *identical(tasks),
        *_overlaps(tasks, texts),
        *_repeats(tasks, texts),
        *(finding for task in as_read(tasks) for finding in source_findings(task)),
        *(finding for task in tasks for finding in label_findings(task, normalize)),
        *_one_label(tasks),
        *(finding for task in tasks for finding in target_findings(task, normalize)),
        *_identity(tasks),
        *_wordings(tasks),
    ]
    return {
        "schema": CHECKS_SCHEMA,
        "tasks": {task.name: {"source": dict(task.source), **_counts(task, texts)} for task in tasks},
        "test rows that another task trains on": {
            f"{task.name} in {other.name}": count
            for task in tasks
            for other in tasks
            if other is not task and (count := _exact(texts, (task.name, "test"), (other.name, "train")))
        },
        "identity": prompts(tasks),
        "findings": [plain(finding) for finding in findings],
    }


def _counts(task: Task, texts: Texts) -> dict[str, int]:
    repeats = texts.repeats((task.name, "train"))
    return {
        "test rows in train": _exact(texts, (task.name, "test"), (task.name, "train")),
        "test rows in validation": _exact(texts, (task.name, "test"), (task.name, "validation")),
        "validation rows in train": _exact(texts, (task.name, "validation"), (task.name, "train")),
        "repeated train rows": repeats.exact if repeats else 0,
    }


def _exact(texts: Texts, here: TaskSplit, there: TaskSplit) -> int:
    overlap = texts.overlap(here, there)
    return overlap.exact if overlap else 0


def identical(tasks: Sequence[Task]) -> Iterator[Finding]:
    """Yields findings for splits with identical files, or with the same rows in another order or kind of file."""
    by_bytes: defaultdict[str, list[TaskSplit]] = defaultdict(list)
    by_rows: defaultdict[bytes, list[TaskSplit]] = defaultdict(list)
    files: dict[TaskSplit, str] = {}
    unused: dict[TaskSplit, TaskSplit] = {}
    for task in as_read(tasks):
        for split in SPLITS:
            place = (task.name, split)
            if origin := task.source.get("files", {}).get(split):
                files[place] = origin.get("file", "")
                by_bytes[origin["sha256"]].append(place)
            if split in task.source.get("not_used", {}):
                unused[place] = (task.name, "test")
    for task in tasks:
        for split in SPLITS:
            if split in task.source.get("not_used", {}):
                by_rows[content(task.test)].append((task.name, split))
            elif task.rows(split):
                by_rows[content(task.rows(split))].append((task.name, split))
    # Tasks that others are made of have no rows here to compare, but reading them said what is not used.
    same_rows = [*by_rows.values(), *unused.items()]
    reported = set()
    for same, how in ((by_bytes.values(), "are the same file, byte by byte"), (same_rows, "hold the same rows")):
        for first, second in (pair for splits in same for pair in combinations(splits, 2)):
            if (first, second) in reported:
                continue
            reported.add((first, second))
            aside = f"; nacre ignores {first[1]} and holds rows out of train instead" if first in unused else ""
            names = tuple(dict.fromkeys((first[0], second[0])))
            yield Finding("identical", names, f"{_named(first, files)} and {_named(second, files)} {how}{aside}.", 1)


def _named(place: TaskSplit, files: dict[TaskSplit, str]) -> str:
    return _split(place) + (f" ({files[place]})" if files.get(place) else "")


def _split(place: TaskSplit) -> str:
    return f"{place[1]} of '{place[0]}'"


def _overlaps(tasks: Sequence[Task], texts: Texts) -> Iterator[Finding]:
    """Texts in two splits, leaks first. The split that is measured, or chosen on, comes first."""
    order: dict[Split, int] = {"test": 0, "validation": 1, "train": 2}
    position = {task.name: number for number, task in enumerate(tasks)}
    pairs = []
    for here, there in texts.shared():
        rank = (order[here[1]], position[here[0]], order[there[1]], position[there[0]])
        mirrored = (order[there[1]], position[there[0]], order[here[1]], position[here[0]])
        if rank < mirrored:
            leak = here[1] == "test" and (there[1] == "train" or (here[0] == there[0] and there[1] == "validation"))
            pairs.append((not leak, rank, here, there))
    for no_leak, _, here, there in sorted(pairs):
        overlap = texts.overlap(here, there)
        if overlap is None:  # they share only answers inside conversations
            continue
        sentence = (
            f"{overlap.rows} of {overlap.size} rows in {_split(here)} have the text of a row in {_split(there)} "
            f"({overlap.exact} letter by letter, {overlap.same_target} with the same target)."
        )
        names = tuple(dict.fromkeys((here[0], there[0])))
        yield Finding("overlap" if no_leak else "leak", names, sentence, overlap.rows, overlap.examples)


def _repeats(tasks: Sequence[Task], texts: Texts) -> Iterator[Finding]:
    for task in tasks:
        for split in SPLITS:
            repeats = texts.repeats((task.name, split))
            if repeats is None:
                continue
            sentence = (
                f"{repeats.rows} of {repeats.size} rows in {_split(repeats.split)} have the text of a row above "
                f"({repeats.exact} letter by letter, {repeats.contradicting} with another target)."
            )
            yield Finding("repeats", (task.name,), sentence, repeats.rows, repeats.examples)


def as_read(tasks: Sequence[Task]) -> list[Task]:
    """Returns the tasks with the names and sources of the ones that were read; one that others are made of comes once.

    Args:
        tasks: The tasks of a stream.
    """
    read: dict[str, Task] = {}
    for task in tasks:
        made = task.source.get("made")
        own = replace(task, name=made["of"], source=made["source"]) if made else task
        read.setdefault(own.name, own)
    return list(read.values())


def source_findings(task: Task) -> Iterator[Finding]:
    """Yields findings for columns that are not read, rows that are left out, and test rows held out of training rows.

    Args:
        task: The task.
    """
    if columns := task.source.get("unread"):
        sentence = (
            f"columns {listed(columns)} of '{task.name}' are not read; if a part of the question is in one of them, "
            "write it into the text."
        )
        yield Finding("unread", (task.name,), sentence, len(columns))
    for split, number in task.source.get("skipped", {}).items():
        yield Finding("skipped", (task.name,), f"{number} rows in {split} of '{task.name}' are left out.", number)
    if carved := task.source.get("carved_test"):
        sentence = (
            f"'{task.name}' has one file and no test rows: {carved['rows']} of its rows, drawn with seed "
            f"{carved['seed']}, are the test rows and are not trained on."
        )
        yield Finding("held out", (task.name,), sentence, carved["rows"])


def label_findings(task: Task, normalize: Callable[[str], str]) -> Iterator[Finding]:
    """Checks the labels of a task.

    Args:
        task: The task.
        normalize: The normalization of answers before they are compared.

    Yields:
        Findings for labels that normalize to the same string or to nothing, that no row has, and that are in test but
        not in train, or the reverse.
    """
    labels = task.labels or ()
    if not labels:
        return
    by_form: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_form[normalize(label) if TASK_METRICS[task.metric].normalized else label.strip()].append(label)
    for form, same in by_form.items():
        if not form or len(same) > 1:
            become = f"become '{form}'" if form else "become nothing"
            sentence = (
                f"labels {listed(same)} of '{task.name}' {become} when answers are compared; no run accepts them. "
                "The metric exact_string compares letter by letter."
            )
            yield Finding("labels", (task.name,), sentence, len(same))
    used = {split: Counter(row.target for row in task.rows(split)) for split in SPLITS}
    missing: dict[str, list[str]] = {
        "are in the label set, but no row has them": [
            label for label in labels if not any(used[split][label] for split in SPLITS)
        ],
        "are in test but never in train": [
            label for label in labels if used["test"][label] and not used["train"][label]
        ],
        "are in train but never in test": [
            label for label in labels if used["train"][label] and not used["test"][label]
        ],
    }
    for what, names in missing.items():
        if names:
            yield Finding("labels", (task.name,), f"labels {listed(names)} of '{task.name}' {what}.", len(names))


def _one_label(tasks: Sequence[Task]) -> Iterator[Finding]:
    names = [task.name for task in tasks if task.labels is not None and len(task.labels) == 1]
    if names:
        sentence = (
            f"{len(names)} of {len(tasks)} tasks have one label ({listed(names)}), so that an answer that is chosen "
            "from the task's own labels (decode=labels, head=per_task) is right whatever the text."
        )
        yield Finding("labels", tuple(names), sentence, len(names))


def _identity(tasks: Sequence[Task]) -> Iterator[Finding]:
    if len(tasks) < 2:
        return
    comparison = prompts(tasks)
    distinct = tuple(comparison["told_apart"])
    if distinct:
        sentence = (
            f"{len(distinct)} of {len(tasks)} tasks have a prompt of their own, so that a model can read from it which "
            f"task it answers: {', '.join(distinct)}."
        )
        yield Finding("identity", distinct, sentence, len(distinct))
    for key, what in (
        ("same_prompt", "the whole prompt"),
        ("same_instruction", "the instruction"),
        ("same_options", "the option list"),
    ):
        for names in comparison[key]:
            yield Finding("identity", tuple(names), f"{', '.join(names)} share {what}.", len(names))


def _wordings(tasks: Sequence[Task]) -> Iterator[Finding]:
    for task in tasks:
        if number := len(task.test_templates):
            sentence = f"test rows of '{task.name}' are asked in other words than its training rows: {number} prompts."
            yield Finding("identity", (task.name,), sentence, number)
