"""Answers chosen among the labels of the task that a method's routing chose for each row."""

from __future__ import annotations

from collections.abc import Sequence

from nacre.evaluation.candidates import Candidates, LabelSet
from nacre.evaluation.settings import LabelRule
from nacre.functional.segments import NONE
from nacre.learning.router import ChosenRoute, LearnerRouter, routed_by
from nacre.models.batch import Batch
from nacre.models.families import Encoded, Lengths
from nacre.tasks.template import Example


class RoutedLabels:
    """Answers batches of rows. The routing is asked once for each row, and its route answers then.

    Attributes:
        router: The learner's.
        lengths: Of targets.
        rule: How a label is scored.
        of_slots: The candidates of each slot, oldest first.
    """

    def __init__(
        self, router: LearnerRouter, lengths: Lengths, rule: LabelRule, of_slots: Sequence[Candidates]
    ) -> None:
        self.router = router
        self.lengths = lengths
        self.rule = rule
        self.of_slots = of_slots
        self._known: dict[tuple[int, str], LabelSet] = {}

    def __call__(self, rows: Sequence[Encoded]) -> list[str]:
        """The best label for each row; "" before anything is learned, and where the slot has learned no labels."""
        if not self.of_slots:
            return [""] * len(rows)
        host = self.router.learner.host
        return host.choose(rows, lambda prompts, places: self._answers([rows[place] for place in places], prompts))

    def _answers(self, rows: Sequence[Encoded], prompts: Batch) -> list[str]:
        family = self.router.learner.host.family
        route, slots = self.router.chosen_slots(prompts, len(self.of_slots))
        sets = [self._label_set(row.example, slot) for row, slot in zip(rows, slots, strict=True)]
        answers = [""] * len(rows)
        for label_set in dict.fromkeys(sets):
            own = [number for number, of_row in enumerate(sets) if of_row == label_set]
            with routed_by(family, ChosenRoute(self.router.learner, None if route is None else route.rows(own))):
                found = label_set.answers(family, prompts.taken(own), self.rule)
            for number, text in zip(own, found, strict=True):
                answers[number] = text
        return answers

    def _label_set(self, example: Example | None, slot: int) -> LabelSet:
        assert example is not None
        family = self.router.learner.host.family
        key = (slot, family.cue(example))
        if key not in self._known:
            candidates = Candidates(()) if slot == NONE else self.of_slots[slot]
            self._known[key] = LabelSet.of(family, example, candidates, self.lengths)
        return self._known[key]
