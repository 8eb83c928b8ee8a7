"""Which pair of a task and a label a row is of, by the sums over the tasks' rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nacre.functional.gaussian_evidence import evidence
from nacre.functional.grouped_evidence import gathered
from nacre.models.pooled_states import Text
from nacre.parts.class_evidence import TaskLabel
from nacre.parts.derived import derived
from nacre.parts.evidence_sums import TEXTS, Sums, SumsSettings, Views, pair_means, temperatures_of
from nacre.parts.landmarks import Landmarks
from nacre.parts.pair_means import in_order
from nacre.parts.part import LearnerView


def texts_of(views: Views) -> tuple[Text, ...]:
    """What is read."""
    return TEXTS if views == "both" else (views,)


@dataclass(frozen=True, eq=False)
class Posterior:
    """The sums, solved.

    Attributes:
        pairs: Sorted.
        solved: Of each text: F [d, d] and the whitened means m F [P, d].
        temperatures: T, by `Views`.
    """

    pairs: list[TaskLabel]
    solved: Mapping[Text, tuple[Tensor, Tensor]]
    temperatures: Mapping[str, float]

    def log_evidence(self, states: Mapping[Text, Tensor], views: Views) -> Tensor:
        """e / T of each row and pair [B, P]; with both views, of the sum of their e.

        Args:
            states: z of the rows by what is read [B, d].
            views: Which texts count.
        """
        found = [evidence(states[text], self.solved[text][1], self.solved[text][0]) for text in texts_of(views)]
        return torch.stack(found).sum(0) / self.temperatures[views]

    def landmarks(self, views: Views) -> Landmarks | None:
        """The pairs that have a label; None if there is none.

        Args:
            views: Which texts count; with both views, squared distances are added, as e is.
        """
        own = [number for number, (_, label) in enumerate(self.pairs) if label]
        whitened = torch.cat([self.solved[text][1][own] for text in texts_of(views)], 1)
        return Landmarks([self.pairs[number] for number in own], whitened) if own else None

    def of_tasks(self, log_evidence: Tensor, tasks: Sequence[str]) -> Tensor:
        """log p(task | row) of each of these tasks [B, t]; -inf of one that no sum is of.

        Args:
            log_evidence: As above [B, P].
            tasks: Names.
        """
        owners = [tasks.index(task) if task in tasks else -1 for task, _ in self.pairs]
        numbers = torch.tensor(owners, device=log_evidence.device)
        return gathered(log_evidence.log_softmax(1), numbers, len(tasks), by_sum=True)


def posterior(learner: LearnerView, settings: SumsSettings, known: Sums) -> Posterior:
    """The sums, solved; once a task and for each way in which a part of the method solves them."""
    return derived(learner, f"evidence solved, {settings}", known, lambda: _solved(learner, settings, known))


def landmarks_of(learner: LearnerView, settings: SumsSettings, known: Sums | None, views: Views) -> Landmarks | None:
    """Where the sums' pairs lie; None before anything is known."""
    return posterior(learner, settings, known).landmarks(views) if known and known.tasks else None


def _solved(learner: LearnerView, settings: SumsSettings, known: Sums) -> Posterior:
    solved = {
        text: settings.solved(learner, pair_means(known.tasks, text), [own.view(text).scatter for own in known.tasks])
        for text in TEXTS
    }
    pairs = [own.pair for own in in_order(pair_means(known.tasks, TEXTS[0]))]
    return Posterior(pairs, solved, temperatures_of(known.tasks))
