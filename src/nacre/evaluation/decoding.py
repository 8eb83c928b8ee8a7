"""Answers, batched by length: free and greedy, or, of an encoder-only host, labels."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from nacre.models.families import Lengths
from nacre.models.host import Host
from nacre.tasks.task import Task
from nacre.tasks.template import Example


class Decoding(BaseModel):
    """How answers are written. Greedy, as in the papers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(default=64, ge=1, description="rows answered at once")
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="None: two more than the longest label; the targets' limit for free text"
    )


def token_budget(host: Host, tasks: Sequence[Task], lengths: Lengths, decoding: Decoding) -> int:
    """How many tokens an answer may have: what the settings say, or two more than the longest label, so that running
    on past a label still shows; the targets' limit if a task has free text. One if the host does not write: a label is
    then chosen whole, whatever the settings say."""
    if not host.family.writes:
        return 1
    if decoding.max_new_tokens is not None:
        return decoding.max_new_tokens
    if any(task.labels is None for task in tasks):
        return lengths.target
    targets = [task.template.example("", label, task.labels) for task in tasks for label in task.labels or ()]
    return max(len(host.family.encode_target(target, lengths)) for target in targets) + 2


def answer(
    host: Host, groups: Sequence[Sequence[Example]], lengths: Lengths, batch_size: int, max_new_tokens: int
) -> list[list[str]]:
    """Answers to each group's examples, in their order.

    All groups are sorted by length together and cut into batches, so that little is spent on padding; which rows
    share a batch depends on the examples alone.
    """
    rows = [host.family.encode(example, lengths) for group in groups for example in group]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].source))
    answers = [""] * len(rows)
    for start in range(0, len(rows), batch_size):
        chosen = order[start : start + batch_size]
        texts = host.write([rows[index] for index in chosen], max_new_tokens)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text
    remaining = iter(answers)
    return [[next(remaining) for _ in group] for group in groups]
