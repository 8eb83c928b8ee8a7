"""What is odd about a stream's rows: what stands in two splits or two tasks, labels nobody uses, prompts that tell the
task. Nothing is mended here; a finding is a sentence, numbers, and the rows it is about."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from nacre.tasks.checking.overlap import TaskSplit, Texts, content
from nacre.tasks.checking.prompts import prompts
from nacre.tasks.task import SPLITS, Split, Task

CHECKS_SCHEMA = "nacre.checks/2"

FindingKind = Literal["leak", "overlap", "identical", "repeats", "labels", "identity", "truncation", "unreadable"]
FINDING_KINDS: dict[FindingKind, str] = {
    "leak": "test rows that the model trains on, in any task, or that settings are chosen on",
    "overlap": "other texts that stand in two places",
    "identical": "whole files or splits that are the same",
    "repeats": "texts that stand twice in one split",
    "labels": "labels that cannot be told apart, or that no row of a split has",
    "identity": "whether a prompt gives away which task it belongs to",
    "truncation": "texts longer than the input may be",
    "unreadable": "tasks that cannot be read",
}


@dataclass(frozen=True)
class Finding:
    """kind: one of ``KINDS``. count: of what the sentence counts. rows: the first of them, each with its counterpart
    where it has one."""

    kind: FindingKind
    tasks: tuple[str, ...]
    sentence: str
    count: int
    rows: tuple[tuple[str, ...], ...] = ()


def check_stream(tasks: Sequence[Task], normalize: Callable[[str], str]) -> dict[str, Any]:
    """All that was found, as plain values. normalize: what answers go through before they are compared.

    tasks: by name, counts of exact repeats (white space aside) and where the rows came from. "test rows that another
    task trains on": the same counts, as ``A in B``. identity: see ``prompts``. findings: see ``Finding``.
    """
    texts = Texts(tasks)
    findings = [
        *identical(tasks),
        *_overlaps(tasks, texts),
        *_repeats(tasks, texts),
        *(finding for task in tasks for finding in label_findings(task, normalize)),
        *_identity(tasks),
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


def plain(finding: Finding) -> dict[str, Any]:
    """As JSON gives it back."""
    return {
        key: [list(one) if isinstance(one, tuple) else one for one in value] if isinstance(value, tuple) else value
        for key, value in asdict(finding).items()
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
    found = texts.overlap(here, there)
    return found.exact if found else 0


def identical(tasks: Sequence[Task]) -> Iterator[Finding]:
    """Splits whose files have the same bytes, or whose rows are the same in another order or kind of file."""
    by_bytes: defaultdict[str, list[TaskSplit]] = defaultdict(list)
    by_rows: defaultdict[bytes, list[TaskSplit]] = defaultdict(list)
    files: dict[TaskSplit, str] = {}
    unused: set[TaskSplit] = set()
    for task in tasks:
        for split in SPLITS:
            place = (task.name, split)
            if origin := task.source.get("files", {}).get(split):
                files[place] = origin.get("file", "")
                by_bytes[origin["sha256"]].append(place)
            if split in task.source.get("not_used", {}):
                unused.add(place)
                by_rows[content(task.test)].append(place)
            elif task.rows(split):
                by_rows[content(task.rows(split))].append(place)
    told = set()
    for same, how in ((by_bytes, "are the same file, byte by byte"), (by_rows, "hold the same rows")):
        for one, two in (pair for places in same.values() for pair in combinations(places, 2)):
            if (one, two) in told:
                continue
            told.add((one, two))
            aside = f"; nacre leaves {one[1]} alone and holds rows out of train instead" if one in unused else ""
            names = tuple(dict.fromkeys((one[0], two[0])))
            yield Finding("identical", names, f"{_named(one, files)} and {_named(two, files)} {how}{aside}.", 1)


def _named(place: TaskSplit, files: dict[TaskSplit, str]) -> str:
    return _split(place) + (f" ({files[place]})" if files.get(place) else "")


def _split(place: TaskSplit) -> str:
    return f"{place[1]} of '{place[0]}'"


def _overlaps(tasks: Sequence[Task], texts: Texts) -> Iterator[Finding]:
    """Texts in two places: leaks first. Of two places the one that is measured, or chosen on, comes first."""
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
        found = texts.overlap(here, there)
        if found is None:  # they share what stands inside conversations only, which is not what is asked here
            continue
        sentence = (
            f"{found.rows} of {found.size} rows in {_split(here)} have the text of a row in {_split(there)} "
            f"({found.exact} letter by letter, {found.same_target} with the same target)."
        )
        names = tuple(dict.fromkeys((here[0], there[0])))
        yield Finding("overlap" if no_leak else "leak", names, sentence, found.rows, found.examples)


def _repeats(tasks: Sequence[Task], texts: Texts) -> Iterator[Finding]:
    for task in tasks:
        for split in SPLITS:
            found = texts.repeats((task.name, split))
            if found is None:
                continue
            sentence = (
                f"{found.rows} of {found.size} rows in {_split(found.place)} have the text of a row above "
                f"({found.exact} letter by letter, {found.contradicting} with another target)."
            )
            yield Finding("repeats", (task.name,), sentence, found.rows, found.examples)


def label_findings(task: Task, normalize: Callable[[str], str]) -> Iterator[Finding]:
    """Labels that become the same or nothing when answers are compared; that no row has; that are tested and never
    trained."""
    labels = task.labels or ()
    if not labels:
        return
    by_form: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_form[normalize(label)].append(label)
    for form, same in by_form.items():
        if not form or len(same) > 1:
            become = f"become '{form}'" if form else "become nothing"
            sentence = f"labels {_listed(same)} of '{task.name}' {become} when answers are compared; no run takes them."
            yield Finding("labels", (task.name,), sentence, len(same))
    used = {split: Counter(row.target for row in task.rows(split)) for split in SPLITS}
    missing: dict[str, list[str]] = {
        "are in the label set, and no row has them": [one for one in labels if not any(used[s][one] for s in SPLITS)],
        "are asked for in test and never trained": [
            one for one in labels if used["test"][one] and not used["train"][one]
        ],
        "are trained and never asked for in test": [
            one for one in labels if used["train"][one] and not used["test"][one]
        ],
    }
    for what, found in missing.items():
        if found:
            yield Finding("labels", (task.name,), f"labels {_listed(found)} of '{task.name}' {what}.", len(found))


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _identity(tasks: Sequence[Task]) -> Iterator[Finding]:
    if len(tasks) < 2:
        return
    found = prompts(tasks)
    apart = tuple(found["told_apart"])
    if apart:
        sentence = (
            f"{len(apart)} of {len(tasks)} tasks have a prompt of their own, so that a model can read from it which "
            f"task it answers: {', '.join(apart)}."
        )
        yield Finding("identity", apart, sentence, len(apart))
    for key, what in (
        ("same_prompt", "the whole prompt"),
        ("same_instruction", "the instruction"),
        ("same_options", "the option list"),
    ):
        for names in found[key]:
            yield Finding("identity", tuple(names), f"{', '.join(names)} share {what}.", len(names))
