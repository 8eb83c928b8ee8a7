"""Answers, batched by length: written freely and greedily, or chosen from a task's labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from nacre import processes
from nacre.evaluation.candidates import Candidates, LabelSet
from nacre.evaluation.settings import Decode, Decoding
from nacre.events import OnEvent, RowsAnswered, ignore
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.models.padding import least_padding
from nacre.tasks.task import Task
from nacre.tasks.template import Example

R = TypeVar("R")

LabelSets = Sequence[Candidates | Sequence[str] | None]
"""Each group's labels, None for free text."""

Answerer = Callable[[Sequence[Encoded]], Sequence[str]]
"""Answers a batch of rows."""


def token_budget(host: Host, tasks: Sequence[Task], lengths: Lengths, decoding: Decoding) -> int:
    """The largest number of tokens of an answer.

    Args:
        host: The host that answers.
        tasks: All tasks of the stream.
        lengths: Limits of inputs and targets.
        decoding: Its `max_new_tokens` decides, if given.

    Returns:
        Otherwise two more than the longest label, so that running on past a label still shows, or the targets' limit if
        a task has free text. 1 if labels are chosen whole, as in every host that is not generative.
    """
    if not host.family.is_generative or decoding.decode == "labels":
        return 1
    if decoding.max_new_tokens is not None:
        return decoding.max_new_tokens
    if any(task.labels is None for task in tasks):
        return lengths.target
    targets = [task.template.example("", label, task.labels) for task in tasks for label in task.labels or ()]
    return max(len(host.family.encode_target(target, lengths)) for target in targets) + 2


def answer(
    host: Host,
    groups: Sequence[Sequence[Example]],
    lengths: Lengths,
    decoding: Decoding,
    max_new_tokens: int,
    labels: LabelSets | None = None,
    on_event: OnEvent = ignore,
    answerer: Answerer | None = None,
) -> list[list[str]]:
    """Answers to each group's examples, in their order.

    All groups, or with `decode=labels` those with the same labels, are sorted by length together and cut into batches,
    so that little is spent on padding; which rows share a batch depends on the examples alone.

    Args:
        host: The host that answers.
        groups: Examples, for instance one group a task.
        lengths: Of inputs and targets.
        decoding: How.
        max_new_tokens: At most so many tokens an answer.
        labels: Of each group, to choose from if `decoding` says so; None: free answers.
        on_event: Is called after each batch.
        answerer: Answers in place of the host, whatever the labels are.
    """
    decode: Decode = "free" if labels is None else decoding.decode
    sets = [None] * len(groups) if labels is None or decode == "free" else labels
    rows = [host.family.encode(example, lengths) for group in groups for example in group]
    label_sets = _label_sets(host, groups, sets, lengths)
    first_seen = {label_set: number for number, label_set in enumerate(dict.fromkeys(label_sets))}
    order = sorted(range(len(rows)), key=lambda index: (first_seen[label_sets[index]], len(rows[index].source)))
    by_index: dict[int, str] = {}
    for label_set, same in groupby(order, key=lambda index: label_sets[index]):
        waiting = list(same)
        own = answerer or _answerer(host, label_set, max_new_tokens, decoding, decode)
        for texts in in_batches(own, [rows[index] for index in waiting], decoding, in_step=host.is_sharded):
            answered, waiting = waiting[: len(texts)], waiting[len(texts) :]
            by_index.update(zip(answered, texts, strict=True))
            on_event(RowsAnswered(done=len(by_index), rows=len(rows)))
    remaining = (by_index[index] for index in range(len(rows)))
    return [[next(remaining) for _ in group] for group in groups]


def in_batches(
    reader: Callable[[Sequence[Encoded]], R], rows: Sequence[Encoded], decoding: Decoding, *, in_step: bool
) -> Iterator[R]:
    """What is read of rows in order of their length, batch by batch.

    Fewer rows are read at once as soon as the device's memory does not hold them. Several processes share the batches
    out; each gets what all have read. Which rows make a batch does not depend on how many processes there are.

    Args:
        reader: Reads a batch.
        rows: In order of their length.
        decoding: Says how many make a batch.
        in_step: Whether all processes must read everything (`processes.by_all`), as with a sharded host; fewer rows at
            once are not tried then.
    """
    batches = cut(rows, decoding.batch_size, decoding.split_padding)
    if in_step and processes.count() > 1:
        yield from map(reader, batches)
        return
    if processes.count() == 1:
        yield from _read(reader, batches, decoding)
        return
    for pieces in processes.by_all(lambda batch: list(_read(reader, [batch], decoding)), batches):
        yield from pieces


def _read(
    reader: Callable[[Sequence[Encoded]], R], batches: Sequence[Sequence[Encoded]], decoding: Decoding
) -> Iterator[R]:
    """What is read of batches, one after the other; of smaller ones where memory does not hold them."""
    rows, done = [row for batch in batches for row in batch], 0
    while batches:
        batch = batches[0]
        try:
            answers = reader(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not should_reduce_batch_size(error):
                raise
        else:
            yield answers
            done, batches = done + len(batch), batches[1:]
            continue
        size = len(batch) // 2
        batches = cut(rows[done:], size, decoding.split_padding)
        clear_device_cache(garbage_collection=True)  # here, where the error no longer holds on to its tensors


def cut(rows: Sequence[Encoded], size: int, split_padding: int | None) -> list[Sequence[Encoded]]:
    """Cut rows into batches.

    Args:
        rows: In order of their length.
        size: Largest number of rows of a batch.
        split_padding: Tokens of padding that are worth one batch more; None: none are.
    """
    runs = [rows[start : start + size] for start in range(0, len(rows), size)]
    if split_padding is None:
        return runs
    return [run[part] for run in runs for part in least_padding([len(row.source) for row in run], split_padding)]


def _answerer(host: Host, label_set: LabelSet, max_new_tokens: int, decoding: Decoding, decode: Decode) -> Answerer:
    """A function that answers a batch of rows with one label set."""
    if decode == "free":
        return lambda rows: host.write(rows, max_new_tokens)
    label_set.check_distinct()
    return lambda rows: host.choose(
        rows, lambda prompts, _: label_set.answers(host.family, prompts, decoding.label_scores)
    )


def _label_sets(host: Host, groups: Sequence[Sequence[Example]], sets: LabelSets, lengths: Lengths) -> list[LabelSet]:
    """Each example's label set, encoded once for all examples that share it."""
    known: dict[tuple[Candidates, str], LabelSet] = {}
    label_sets = []
    for group, own in zip(groups, sets, strict=True):
        candidates = own if isinstance(own, Candidates) else Candidates(tuple(own or ()))
        for example in group:
            key = (candidates, host.family.cue(example))
            if key not in known:
                known[key] = LabelSet.of(host.family, example, candidates, lengths)
            label_sets.append(known[key])
    return label_sets
