"""The checks of a stream as a run stores them, `checks.json`, and as `nacre check` prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nacre.errors import DataError
from nacre.evaluation.scoring import normalize
from nacre.evaluation.spelling import cut_targets, label_spellings, respelled_targets, say_respelled
from nacre.tasks.checking.finding import Finding, FindingKind, plain
from nacre.tasks.checking.findings import check_stream
from nacre.tasks.checking.overlap import NAMED
from nacre.tasks.published.streams import stream_names
from nacre.tasks.reading.choices import DEFAULT, Choices
from nacre.tasks.reading.sources import find_tasks, load_tasks
from nacre.tasks.reading.stream_file import is_stream_file, load_stream
from nacre.tasks.task import SPLITS, Split, Task
from nacre.tasks.template import Identity

if TYPE_CHECKING:
    from nacre.models.families import Encoded, Lengths
    from nacre.models.host import Host


def checks_of(tasks: Sequence[Task], reader: tuple[Host, Lengths] | None = None) -> dict[str, Any]:
    """Check a stream's rows (`tasks.checking`), and what a host cannot read or write of them.

    Args:
        tasks: The stream's.
        reader: A host and its lengths; None to leave that out.

    Returns:
        The content of `checks.json`. `truncated`: rows that are cut, by task and split, with the limit; None without a
        reader. Unlabeled texts are not counted: they are packed, and nothing of them is lost.
    """
    checks = check_stream(tasks, normalize)
    if reader is None:
        return {**checks, "truncated": None}
    host, lengths = reader
    limit = host.family.source_limit(lengths)
    counts: dict[str, dict[str, int]] = {}
    found: list[Finding] = []
    for task in tasks:
        if task.kind != "text":
            counts[task.name] = {}
            for split in SPLITS:
                rows = [host.family.encode(example, lengths) for example in task.examples(split)]
                cut = [number for number, row in enumerate(rows) if row.truncated]
                counts[task.name][split] = len(cut)
                found += _of_rows(task, split, rows, cut, (host, lengths))
            found += _of_labels(task, host)
    return {
        **checks,
        "truncated": {"max_source_length": limit, "tasks": counts},
        "findings": [*checks["findings"], *map(plain, found)],
    }


def _of_rows(
    task: Task, split: Split, rows: Sequence[Encoded], cut: Sequence[int], reader: tuple[Host, Lengths]
) -> Iterator[Finding]:
    """What a host does not read, or cannot answer, of a split's rows. cut: numbers of those whose text is cut."""
    (host, lengths), where = reader, f"{split} of '{task.name}'"

    def finding(kind: FindingKind, sentence: str, numbers: Sequence[int]) -> Finding:
        named = (task.rows(split)[number].place or f"{split}, row {number + 1}" for number in numbers[:NAMED])
        return Finding(kind, (task.name,), sentence, len(numbers), tuple((name,) for name in named))

    if cut:
        limit = host.family.source_limit(lengths)
        sentence = f"{len(cut)} of {len(rows)} texts in {where} are cut: inputs have {limit} tokens."
        yield finding("truncation", sentence, cut)
    if targets := cut_targets(host.family, rows):
        sentence = (
            f"{len(targets)} of {len(rows)} targets in {where} are cut before their end token: targets have "
            f"{lengths.target} tokens."
        )
        yield finding("truncation", sentence, targets)
    examples = task.examples(split)
    if task.labels is None and (respelled := respelled_targets(host.family, examples, rows, task.metric)):
        yield finding("spelling", say_respelled(where, examples, respelled), list(respelled))


def _of_labels(task: Task, host: Host) -> Iterator[Finding]:
    """Labels that the host's tokenizer writes in another way, or that no answer could say."""
    try:
        spellings = label_spellings(host.family, task)
    except DataError as error:
        yield Finding("spelling", (task.name,), str(error), 1)
        return
    if spellings:
        named = ", ".join(f"'{label}' as '{text}'" for text, label in list(spellings.items())[:NAMED])
        sentence = (
            f"{len(spellings)} of {len(task.labels or ())} labels of '{task.name}' are written in another way by this "
            f"model's tokenizer ({named}), and are counted as right when they are answered so."
        )
        yield Finding("spelling", (task.name,), sentence, len(spellings))


def tasks_to_check(
    data: str | None, stream: str | None, identity: Identity, choices: Choices = DEFAULT
) -> tuple[list[Task], list[Finding]]:
    """Read the tasks that `nacre check` looks at.

    Args:
        data: Their folder, `hub:NAME` or `hub:published`; None for the demo's.
        stream: A stream's name, a stream file, or task names with commas; None for all tasks that there are.
        identity: Prompt lines that tell the model its task.
        choices: What to do with bad rows and labels.

    Returns:
        The tasks, and a finding for each that cannot be read; in a named stream, such a task is an error.

    Raises:
        DataError: If there is no task that can be read.
    """
    if stream is not None:
        names = stream if is_stream_file(stream) or stream in stream_names() else stream.split(",")
        return [task.with_identity(identity) for task in load_stream(names, data, option="DATA", choices=choices)], []
    tasks: list[Task] = []
    unreadable: list[Finding] = []
    names = find_tasks(data)
    for name in names:
        try:
            tasks += [task.with_identity(identity) for task in load_tasks([name], data, **asdict(choices))]
        except DataError as error:
            unreadable.append(Finding("unreadable", (name,), str(error), 1))
    if not tasks:
        raise DataError(unreadable[0].sentence if unreadable else f"There is no task in {data}.")
    return tasks, unreadable
