"""A label is answered by the host and by the sums over the tasks' rows together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nacre.errors import RecipeError
from nacre.functional.grouped_evidence import gathered
from nacre.functional.label_products import best_weight, product
from nacre.models.families import Encoded
from nacre.parts.abstention import FOREIGN, KNOWN, REWORDED, Abstention
from nacre.parts.class_evidence import Answer
from nacre.parts.evidence_posterior import posterior, texts_of
from nacre.parts.evidence_sums import USUAL, ReadsSums, Sums, SumsSettings, Views, pair_means
from nacre.parts.kept_states import kept_states
from nacre.parts.part import LearnerView, Readout
from nacre.tasks.task import Task

HELD_OUT_ROWS = 100
"""Validation rows that w is chosen on, at most."""


@dataclass(frozen=True)
class LabelEvidence(ReadsSums, Readout):
    """The label with the largest w log p_host(y | x) + e(y | x). A task without labels is answered by the host.

    Attributes:
        sums: How the sums are made and read.
        views: What the sums read of a row.
        host_weight: w; 'chosen': after each task, on its validation rows, which are not kept. A row has that of the
            task that it most likely is of.
        answer: Of a label that several tasks have: the evidence of its 'best_pair', or their 'sum'.
        abstention: Which rows are left to the bare host; None: none.
    """

    sums: SumsSettings = USUAL
    views: Views = "both"
    host_weight: float | Literal["chosen"] = "chosen"
    answer: Answer = "best_pair"
    abstention: Abstention | None = None

    def __post_init__(self) -> None:
        if self.host_weight != "chosen" and self.host_weight < 0:
            raise RecipeError(f"host_weight: {self.host_weight:g} is negative; 0 leaves the evidence alone.")

    @torch.no_grad()
    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        for task in tasks if self.host_weight == "chosen" else ():
            examples = task.examples("validation")[:HELD_OUT_ROWS] if task.labels else []
            if not examples:
                continue
            rows, labels = learner.encode(examples), list(task.labels or ())
            truth = torch.tensor([labels.index(example.target) for example in examples], device=learner.host.device)
            size = self.sums.batch_size
            batches = [rows[start : start + size] for start in range(0, len(rows), size)]
            host = torch.cat([learner.label_scores(batch, labels) for batch in batches])
            evidence = torch.cat([self._opinion(learner, batch, labels).of_labels for batch in batches])
            self._note(learner, task.name, best_weight(host, evidence, truth))

    def _note(self, learner: LearnerView, task: str, weight: float) -> None:
        known = learner.remembered(self, Sums)
        assert known is not None
        tasks = [replace(own, host_weight=weight) if own.task == task else own for own in known.tasks]
        learner.remember(self, replace(known, tasks=tasks))

    @torch.no_grad()
    def classify(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[str]:
        known = learner.remembered(self, Sums)
        if known is None:
            return [""] * len(rows)
        strings = (
            labels if labels is not None else sorted({own.label for own in pair_means(known.tasks, "bare")} - {""})
        )
        if not strings:
            return [""] * len(rows)
        opinion = self._opinion(learner, rows, strings)
        weights = self._weights(known, opinion)
        scores = opinion.of_labels
        if bool((weights > 0).any()):
            scores = product(learner.label_scores(rows, strings), scores, weights)
        answers = [strings[number] for number in scores.argmax(1).tolist()]
        foreign = [number for number, kind in enumerate(opinion.kinds) if kind == FOREIGN]
        for number, answer in zip(foreign, _of_bare_host(learner, [rows[n] for n in foreign], labels), strict=True):
            answers[number] = answer
        return answers

    def _opinion(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str]) -> Opinion:
        known = learner.remembered(self, Sums)
        assert known is not None
        solved = posterior(learner, self.sums, known)
        read = texts_of(self.views if self.abstention is None else "both")
        states = {text: kept_states(learner, rows, self.sums.states(learner, text)) for text in read}
        pairs, kinds = solved.log_evidence(states, self.views), [KNOWN] * len(rows)
        if self.abstention is not None:
            found = self.abstention.kinds(solved, known, states)
            pairs = torch.where((found == REWORDED).unsqueeze(1), solved.log_evidence(states, "bare"), pairs)
            kinds = found.tolist()
        owners = [labels.index(label) if label in labels else -1 for _, label in solved.pairs]
        numbers = torch.tensor(owners, device=pairs.device)
        closed = pairs.masked_fill(numbers < 0, -torch.inf)
        tasks = [solved.pairs[number][0] for number in closed.argmax(1).tolist()]
        return Opinion(gathered(pairs, numbers, len(labels), by_sum=self.answer == "sum"), tasks, kinds)

    def _weights(self, known: Sums, opinion: Opinion) -> Tensor:
        """w of each row [B]."""
        if self.host_weight != "chosen":
            return opinion.of_labels.new_full((len(opinion.tasks),), self.host_weight)
        chosen = {own.task: own.host_weight for own in known.tasks}
        return opinion.of_labels.new_tensor([chosen[task] for task in opinion.tasks])


@dataclass(frozen=True, eq=False)
class Opinion:
    """What the sums say of a batch.

    Attributes:
        of_labels: e of each row and label [B, L].
        tasks: Of each row, the task of the likeliest pair among those of the labels.
        kinds: Of each row, `KNOWN`, `REWORDED` or `FOREIGN`.
    """

    of_labels: Tensor
    tasks: Sequence[str]
    kinds: Sequence[int]


def _of_bare_host(learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[str]:
    """What the bare host answers, of these labels or freely; nothing, if it can only classify."""
    if not rows or not learner.host.family.is_generative:
        return [""] * len(rows)
    with learner.bypassed():
        if labels is None:
            return learner.write(rows)
        return [labels[number] for number in learner.label_scores(rows, labels).argmax(1).tolist()]
