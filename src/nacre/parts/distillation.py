"""Learning without forgetting: the learner as the last task left it teaches the new one's inputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter
from nacre.errors import RecipeError
from nacre.functional.dark_logits import target_places
from nacre.functional.distillation import divergence
from nacre.models.batch import Batch
from nacre.parts.part import BatchTerm, LearnerView, MicroBatch
from nacre.per_task import PerTask, check_not_negative
from nacre.tasks.task import Task

NO_ROUTING = "the teacher is a copy of the model, and a routing chooses among the parameters of the model itself"


@dataclass(frozen=True)
class Distillation(BatchTerm):
    """strength * KL(teacher || learner) at the target tokens of the new task's rows, softened by a temperature.

    The teacher is a copy of the model as the last task left it, without dropout. It shares the host's frozen weights,
    so that beside a LoRA it holds the adapter only. A class of an encoder-only host that the teacher does not know has
    no part. On the first task, and where the weight is 0, there is no teacher.

    Attributes:
        strength: Weight of the term.
        temperature: T; both logits are divided by it.
    """

    strength: PerTask = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the teacher")
        if not self.temperature > 0:
            raise RecipeError(f"temperature: {self.temperature} is not positive; logits are divided by it.")

    @property
    def needs_boundaries(self) -> bool:
        return True

    def objection(self, adapter: Adapter) -> str | None:
        if adapter.has_virtual_tokens and adapter.grows:
            return "its teacher knows no prompt of the new task, and here each task has one; share one prompt"
        return None

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        family = learner.host.family
        learner.host.check_whole("distillation, which copies its teacher from it,")
        if family.router is not None:
            raise RecipeError(f"distillation cannot go with a routing: {NO_ROUTING}.")
        if family.head is not None and family.head.kind == "per_task":
            raise RecipeError(
                "distillation compares what old classes score on new rows, and with head=per_task they score nothing "
                "there: take head=growing."
            )
        if learner.task_number == 1 or self.weight(learner.task_number) == 0:
            return
        if family.head is not None and any(task.kind == "text" for task in tasks):
            _ = family.head.mlm  # made now, if there is none, so that the teacher has one
        learner.resources[self.key] = _teacher(learner)

    def value(self, learner: LearnerView, batch: MicroBatch) -> Tensor:
        """The divergence, summed over target tokens, []; without a teacher 0."""
        teacher: nn.Module | None = learner.resources.get(self.key)
        if teacher is None:
            return torch.zeros((), device=learner.host.device)
        with torch.no_grad():
            inputs = Batch.of(batch.rows, batch.tensors)
            expected, _ = learner.host.family.predictions(teacher, inputs)
        if expected.shape[-1] == 0:  # an encoder-only host's teacher that has learned texts alone
            return torch.zeros((), device=learner.host.device)
        places = target_places(batch.labels, batch.num_target_tokens)
        known = batch.logits.flatten(0, -2)[places][:, : expected.shape[-1]]
        return divergence(expected.flatten(0, -2)[places], known, self.temperature)


def _teacher(learner: LearnerView) -> nn.Module:
    """A copy of the model that shares the weights which nobody trains."""
    trained = {parameter for group in learner.adapter.parameter_groups() for parameter in group.parameters}
    shared = {id(parameter): parameter for parameter in learner.host.body.parameters() if parameter not in trained}
    return copy.deepcopy(learner.host.model, shared).eval()
