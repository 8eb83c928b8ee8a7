"""What a learner says before it trains: rows that are cut, answers that cannot be given, weights that round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from nacre.evaluation.spelling import cut_targets, respelled_targets, say_respelled
from nacre.events import OnEvent, RowsEncoded, Warned
from nacre.models.families import Encoded
from nacre.models.host import Host
from nacre.models.owner import ParameterGroup
from nacre.tasks.task import Task
from nacre.tasks.template import Example


class Noticing(Protocol):
    """What notices need of a learner."""

    @property
    def host(self) -> Host: ...
    @property
    def on_event(self) -> OnEvent: ...
    @property
    def writes_labels(self) -> bool: ...


def report_rows(learner: Noticing, tasks: Sequence[Task], examples: Sequence[Example], rows: Sequence[Encoded]) -> None:
    """Say what of the rows training does not see, or answers cannot give."""
    family = learner.host.family
    # Texts are packed: their rows are other ones than the examples, and have no targets.
    targets = [] if any(example.kind == "text" for example in examples) else rows
    cut = cut_targets(family, targets)
    truncated = sum(row.truncated for row in rows)
    learner.on_event(RowsEncoded(rows=len(rows), truncated=truncated, cut_targets=len(cut)))
    for task in tasks if targets and learner.writes_labels else ():
        if task.labels is not None:
            continue
        own = [number for number, example in enumerate(examples) if example.task == task.name]
        there = [examples[number] for number in own]
        if respelled := respelled_targets(family, there, [rows[number] for number in own], task.metric):
            learner.on_event(Warned(say_respelled(f"train of '{task.name}'", there, respelled)))


def warn_of_rounding(learner: Noticing, groups: Sequence[ParameterGroup]) -> None:
    """Say so if usual updates of the trained parameters are rounded away."""
    dtypes = {parameter.dtype for group in groups for parameter in group.parameters}
    half = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes & {torch.float16, torch.bfloat16}))
    if half:
        learner.on_event(
            Warned(
                f"The trained weights are {half}: an update that is smaller than their rounding is lost, which most "
                "are at usual rates. Load the model in float32; optim.mixed_precision=bf16 computes in half precision "
                "and keeps full weights."
            )
        )
