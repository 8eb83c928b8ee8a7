"""Which classes of an encoder-only host's growing head may answer a row: those of the tasks whose slots do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nacre.parts.class_evidence import TaskLabel
from nacre.parts.part import LearnerView


def open_classes(learner: LearnerView, labels_of_slots: Sequence[Sequence[TaskLabel]], slots: Tensor) -> Tensor | None:
    """The head's open classes [B, C]; of a slot without labels, all. None where nothing can be closed.

    Args:
        learner: Whose head it is.
        labels_of_slots: Of each slot: the labels, each with its task, that it has learned or learns.
        slots: Whether each slot answers each row [B, t].
    """
    head = learner.host.family.head
    if head is None or head.kind != "growing" or not head.labels.classes:
        return None  # a head for each task knows the row's task itself
    opened = torch.zeros(slots.shape[1], len(head.labels.classes), device=slots.device)
    for row, labels in zip(opened, labels_of_slots, strict=False):
        numbers = [head.labels.number(task, label) for task, label in labels]
        row[[number for number in numbers if number is not None] or slice(None)] = 1
    return slots.to(opened) @ opened > 0
