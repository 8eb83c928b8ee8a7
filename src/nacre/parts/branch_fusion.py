"""CoDe-LoRA's fusion: the label scores of the routed expert and of the consolidated branch, each without its prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.low_rank import LowRank, PlacedLowRank
from nacre.adapters.route import Route
from nacre.functional.label_fusion import best_share, fused, without_prior
from nacre.functional.label_rules import prior_offsets
from nacre.models.families import Encoded
from nacre.parts.expert_labels import ExpertLabels
from nacre.parts.part import LearnerView
from nacre.parts.slots_of_tasks import slots_of_tasks
from nacre.tasks.task import Task
from nacre.tasks.template import Example


@dataclass(frozen=True)
class Fitted:
    """What is remembered of a task.

    Attributes:
        task: Its name.
        labels: Its labels.
        examples: The validation rows that are kept: the branch goes on changing.
        expert: log p of the labels for them [n, L] in the task's own slot.
        branch_offsets: log q of the branch [L], up to a constant.
        share: a.
    """

    task: str
    labels: list[str]
    examples: list[Example]
    expert: Tensor
    branch_offsets: Tensor
    share: float


@dataclass(frozen=True)
class FittedTasks:
    """What is remembered.

    Attributes:
        tasks: Of each task with validation rows.
    """

    tasks: list[Fitted]


@dataclass(frozen=True)
class BranchFusion(ExpertLabels):
    """The label with the largest a PMI_branch + (1 - a) PMI_expert (`functional/label_fusion`), a chosen for each task.

    Rows are kept: after each task, q of the branch and a are measured anew on all tasks' kept rows.

    State: `FittedTasks`.
    """

    State: ClassVar[type[FittedTasks]] = FittedTasks
    keeps_data: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    def objection(self, adapter: Adapter) -> str | None:
        if isinstance(adapter, LowRank) and adapter.branch:
            return None
        return "it fuses an expert with the branch that it was trained on, and here is no branch; code_lora has one"

    @torch.no_grad()
    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        """Keep the new tasks' rows, and fit all tasks to the branch as it is now."""
        assert isinstance(learner.adapter, PlacedLowRank)
        learner.adapter.consolidate()
        new = {task.name for task in tasks}
        known = [own for own in self._known(learner) if own.task not in new]
        for task in tasks:
            if examples := self.held_out(learner, task):
                labels = list(task.labels or ())
                newest = learner.adapter.tasks - 1
                expert = self.expert_scores(learner, newest, learner.encode(examples), labels)
                known.append(Fitted(task.name, labels, examples, expert, expert.new_zeros(len(labels)), 0.0))
        learner.remember(self, FittedTasks([self._fitted(learner, own) for own in known]))

    def _fitted(self, learner: LearnerView, own: Fitted) -> Fitted:
        """The same, q and a measured in the branch as it is now.

        What a slot writes stays as it is; a growing head's rows are trained on by later tasks with the same labels.
        """
        if learner.host.family.head is not None:
            (slot,) = slots_of_tasks(learner, [own.task])
            own = replace(own, expert=self.expert_scores(learner, slot, learner.encode(own.examples), own.labels))
        branch = self._branch_scores(learner, learner.encode(own.examples), own.labels)
        offsets = prior_offsets(branch, 0)
        numbers = [own.labels.index(example.target) for example in own.examples]
        expert = without_prior(own.expert, prior_offsets(own.expert, 0))
        share = best_share(without_prior(branch, offsets), expert, torch.tensor(numbers, device=branch.device))
        return replace(own, branch_offsets=offsets, share=share)

    def scores(
        self, learner: LearnerView, task: str, slot: int, rows: Sequence[Encoded], labels: Sequence[str]
    ) -> Tensor:
        """Both opinions where a task was fitted, else the expert's scores as they are."""
        own = next((own for own in self._known(learner) if own.task == task), None)
        if own is None:
            return self.expert_scores(learner, slot, rows, labels)
        expert, branch = None, None  # a pass for an opinion that does not count would be lost
        if own.share < 1:
            expert = without_prior(self.expert_scores(learner, slot, rows, labels), prior_offsets(own.expert, 0))
        if own.share > 0:
            branch = without_prior(self._branch_scores(learner, rows, labels), own.branch_offsets)
        return fused(branch, expert, own.share)

    def _branch_scores(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str]) -> Tensor:
        """log p of each label in the branch alone [n, L]."""
        with learner.under(Route()):
            return self.read(learner, rows, labels)

    def _known(self, learner: LearnerView) -> list[Fitted]:
        state = learner.remembered(self, FittedTasks)
        return [] if state is None else state.tasks
