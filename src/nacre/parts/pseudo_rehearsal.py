"""Pseudo-rehearsal: the learner writes rows of earlier tasks itself and learns them with the new task (LFPT5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from nacre.documents import shown
from nacre.errors import RecipeError
from nacre.parts.part import LearnerView, Memory
from nacre.parts.wording import Wording
from nacre.parts.written_rows import ANSWERS, PseudoState, RowDraws
from nacre.tasks.task import Task
from nacre.tasks.template import Example, TaskKind


@final
@dataclass(frozen=True)
class PseudoRehearsal(Memory):
    """Before each task, rows of every earlier task are sampled from its cue, and join the new task's epochs.

    Sample number j of a task depends on the seed, the task and j alone: a run that is killed and continued draws the
    same ones. They are saved with the learner, and reported (`PseudoRowsGenerated`).

    State: `PseudoState`.

    Attributes:
        wording: How rows are written.
        per_label: So many rows of each label are kept, or of a task without labels.
        draws: So many samples are drawn of each label, or of a task without labels.
        top_k: Among so many most likely tokens each is drawn; None: among all.
        batch_size: Samples drawn at once.
    """

    State: ClassVar[type[PseudoState]] = PseudoState
    learns: ClassVar[frozenset[TaskKind]] = ANSWERS
    writes: ClassVar[bool] = True

    wording: Wording
    per_label: int
    draws: int
    top_k: int | None
    batch_size: int = 16

    def __post_init__(self) -> None:
        cue = self.wording.cue
        if "{task}" not in cue:
            raise RecipeError(f"cue = {shown(cue)}: it must contain {{task}}, or all tasks would be asked alike.")
        if self.per_label < 1 or self.draws < self.per_label:
            raise RecipeError(
                f"draws = {self.draws}, per_label = {self.per_label}: at least one row of a label is kept, of at least "
                "as many samples."
            )

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        self.wording.check(learner, tasks)

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> list[Example]:
        draws = RowDraws(self.wording, self.top_k, self.batch_size)
        rows: list[list[str]] = []
        for task in dict.fromkeys(learner.state.tasks):
            count = self.draws * len(learner.state.forms[task].labels or [""])
            rows += draws.write(learner, self.key, task, count, self.per_label, by_label=True)
        written = PseudoState(rows)
        learner.remember(self, written)
        return [example for example, _ in written.examples(learner)]
