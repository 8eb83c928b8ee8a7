"""The checks of a stream as a run stores them, `checks.json`, and as `nacre check` prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nacre.errors import DataError
from nacre.evaluation.scoring import normalize
from nacre.tasks.checking.finding import Finding, plain
from nacre.tasks.checking.findings import check_stream
from nacre.tasks.checking.overlap import NAMED
from nacre.tasks.published.streams import stream_names
from nacre.tasks.reading.choices import DEFAULT, Choices
from nacre.tasks.reading.sources import find_tasks, load_tasks
from nacre.tasks.reading.stream_file import is_stream_file, load_stream
from nacre.tasks.task import SPLITS, Task
from nacre.tasks.template import Identity

if TYPE_CHECKING:
    from nacre.models.families import Lengths
    from nacre.models.host import Host


def checks_of(tasks: Sequence[Task], reader: tuple[Host, Lengths] | None = None) -> dict[str, Any]:
    """Check a stream's rows (`tasks.checking`), and count the texts that are cut.

    Args:
        tasks: The stream's.
        reader: A host and its lengths; None to leave out the texts that are cut.

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
    cut: list[Finding] = []
    for task in tasks:
        if task.kind != "text":
            findings = list(_truncated(task, host, lengths, limit))
            counts[task.name] = {split: finding.count for split, finding in findings}
            cut += [finding for _, finding in findings if finding.count]
    return {
        **checks,
        "truncated": {"max_source_length": limit, "tasks": counts},
        "findings": [*checks["findings"], *map(plain, cut)],
    }


def _truncated(task: Task, host: Host, lengths: Lengths, limit: int) -> Iterator[tuple[str, Finding]]:
    for split in SPLITS:
        rows, examples = task.rows(split), task.examples(split)
        cut = [index for index, example in enumerate(examples) if host.family.encode(example, lengths).truncated]
        sentence = f"{len(cut)} of {len(rows)} texts in {split} of '{task.name}' are cut: inputs have {limit} tokens."
        named = tuple((rows[index].place or f"{split}, row {index + 1}",) for index in cut[:NAMED])
        yield split, Finding("truncation", (task.name,), sentence, len(cut), named)


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
