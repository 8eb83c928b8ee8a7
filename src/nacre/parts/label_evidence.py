"""A label is answered by the host and by the sums over the tasks' rows together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nacre.errors import RecipeError
from nacre.functional.grouped_evidence import gathered
from nacre.functional.label_products import best_products, best_weight, product
from nacre.models.families import Encoded
from nacre.parts.abstention import FOREIGN, Abstention, assess
from nacre.parts.class_evidence import Answer
from nacre.parts.decision import KINDS, Decision
from nacre.parts.evidence_posterior import landmarks_of, posterior, texts_of
from nacre.parts.evidence_sums import USUAL, ReadsSums, Sums, SumsSettings, Views, pair_means
from nacre.parts.kept_states import kept_states, some_at_hand
from nacre.parts.landmarks import Landmarks
from nacre.parts.part import LearnerView, Readout
from nacre.parts.text_pairs import of_pairs, with_pairs
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
        pairs: Whether the two parts of a task's texts are compared, where every text has two (`parts/text_pairs`).
    """

    sums: SumsSettings = USUAL
    views: Views = "both"
    host_weight: float | Literal["chosen"] = "chosen"
    answer: Answer = "best_pair"
    abstention: Abstention | None = None
    pairs: bool = True

    def __post_init__(self) -> None:
        if self.host_weight != "chosen" and self.host_weight < 0:
            raise RecipeError(f"host_weight: {self.host_weight:g} is negative; 0 leaves the evidence alone.")

    @property
    def abstains(self) -> bool:
        return self.abstention is not None

    def landmarks(self, learner: LearnerView) -> Landmarks | None:
        return landmarks_of(learner, self.sums, learner.remembered(self, Sums), self.views)

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        held_out = self.held_out(learner, tasks)
        known = learner.remembered(self, Sums)
        if self.pairs and known is not None:
            learner.remember(self, with_pairs(learner, self.sums, known, held_out))

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
        open_labels = self._open(learner, labels)
        if not open_labels:
            return [""] * len(rows)

        views = [self.sums.states(learner, text) for text in texts_of(self.views)]

        def by_host(numbers: Sequence[int], asked: Sequence[int]) -> Tensor:
            own, of_them = [rows[number] for number in numbers], [open_labels[number] for number in asked]
            with some_at_hand(learner, rows, numbers, views):
                return learner.label_scores(own, of_them)

        opinion = self._opinion(learner, rows, open_labels)
        best = best_products(by_host, opinion.of_labels, self._weights(learner, opinion))
        return _answers(learner, rows, labels, [open_labels[number] for number in best.tolist()], opinion)

    @torch.no_grad()
    def decide(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[Decision]:
        open_labels, known = self._open(learner, labels), learner.remembered(self, Sums)
        if known is None or not open_labels:
            return [Decision("", "foreign")] * len(rows)
        opinion = self._opinion(learner, rows, open_labels)
        weights, scores = self._weights(learner, opinion), opinion.of_labels
        if bool((weights > 0).any()):
            scores = product(learner.label_scores(rows, open_labels), scores, weights)
        answers = _answers(
            learner, rows, labels, [open_labels[number] for number in scores.argmax(1).tolist()], opinion
        )
        solved = posterior(learner, self.sums, known)
        names = [own.task for own in known.tasks]
        tasks = solved.of_tasks(opinion.of_pairs, names).exp().tolist()
        labels_of = {name: {label for task, label in solved.pairs if task == name} for name in names}
        return [
            Decision(answers[number], "foreign")
            if kind == FOREIGN
            else Decision.of(
                answers[number],
                KINDS[kind],
                dict(zip(open_labels, scores[number].softmax(0).tolist(), strict=True)),
                dict(zip(names, tasks[number], strict=True)),
                labels_of,
            )
            for number, kind in enumerate(opinion.kinds)
        ]

    def _open(self, learner: LearnerView, labels: Sequence[str] | None) -> list[str]:
        """What is chosen from: these labels, or all that are known; nothing before a task with labels is learned."""
        known = learner.remembered(self, Sums)
        if known is None or not known.tasks:
            return []
        return sorted({own.label for own in pair_means(known.tasks, "bare")} - {""}) if labels is None else list(labels)

    def _opinion(self, learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str]) -> Opinion:
        known = learner.remembered(self, Sums)
        assert known is not None
        solved = posterior(learner, self.sums, known)
        assessed = assess(
            solved,
            known,
            lambda text: kept_states(learner, rows, self.sums.states(learner, text)),
            self.views,
            self.abstention,
            lambda: torch.tensor([len(row.source) for row in rows], device=learner.host.device),
            [row.bare for row in rows],
        )
        pairs = assessed.pairs
        if self.pairs and (said := of_pairs(learner, self.sums, known, solved.pairs, rows)) is not None:
            pairs = pairs + said
        owners = [labels.index(label) if label in labels else -1 for _, label in solved.pairs]
        numbers = torch.tensor(owners, device=pairs.device)
        closed = pairs.masked_fill(numbers < 0, -torch.inf)
        tasks = [solved.pairs[number][0] for number in closed.argmax(1).tolist()]
        of_labels = gathered(pairs, numbers, len(labels), by_sum=self.answer == "sum")
        return Opinion(pairs, of_labels, tasks, assessed.kinds.tolist())

    def _weights(self, learner: LearnerView, opinion: Opinion) -> Tensor:
        """w of each row [B]; 0 of a foreign one, which the bare host answers."""
        known = learner.remembered(self, Sums)
        assert known is not None
        chosen = {own.task: own.host_weight for own in known.tasks}
        weights = [chosen[task] if self.host_weight == "chosen" else self.host_weight for task in opinion.tasks]
        are_foreign = torch.tensor(opinion.kinds, device=opinion.of_labels.device) == FOREIGN
        return opinion.of_labels.new_tensor(weights).masked_fill(are_foreign, 0)


@dataclass(frozen=True, eq=False)
class Opinion:
    """What the sums say of a batch.

    Attributes:
        of_pairs: e of each row and pair of a task and a label [B, P].
        of_labels: e of each row and label [B, L].
        tasks: Of each row, the task of the likeliest pair among those of the labels.
        kinds: Of each row, `KNOWN`, `REWORDED` or `FOREIGN`.
    """

    of_pairs: Tensor
    of_labels: Tensor
    tasks: Sequence[str]
    kinds: Sequence[int]


def _answers(
    learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None, best: list[str], opinion: Opinion
) -> list[str]:
    """The best labels, and what the bare host answers to foreign rows."""
    foreign = [number for number, kind in enumerate(opinion.kinds) if kind == FOREIGN]
    by_bare_host = _of_bare_host(learner, [rows[number] for number in foreign], labels)
    answers = dict(enumerate(best)) | dict(zip(foreign, by_bare_host, strict=True))
    return list(answers.values())


def _of_bare_host(learner: LearnerView, rows: Sequence[Encoded], labels: Sequence[str] | None) -> list[str]:
    """What the bare host answers, of these labels or freely; nothing, if it can only classify."""
    if not rows or not learner.host.family.is_generative:
        return [""] * len(rows)
    with learner.bypassed():
        if labels is None:
            return learner.write(rows)
        return [labels[number] for number in learner.label_scores(rows, labels).argmax(1).tolist()]
