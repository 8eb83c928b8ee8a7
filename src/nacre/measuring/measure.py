"""How a learner is scored on tasks: in a run after each stage, and wherever scores must be comparable with a run's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nacre.evaluation.gates import SiteGates, has_gates, mean_gates
from nacre.evaluation.perplexity import TextScore
from nacre.evaluation.scoring import TaskScore
from nacre.evaluation.spelling import as_answered
from nacre.learning.learner import Learner
from nacre.measuring.deciding import decisions_of
from nacre.records.decisions import Decisions
from nacre.tasks.task import Task


@dataclass(frozen=True)
class StageScores:
    """The scores of a learner on some tasks.

    Attributes:
        answered: Tasks with targets and their scores, by name.
        texts: Scores of tasks of unlabeled text, by name.
        gates: Of a gated adapter, the mean gates at every site, by task.
        seconds: How long scoring took, gates not counted.
        decisions: What was decided of the tasks' rows, if somebody asked and the method says.
    """

    answered: Mapping[str, tuple[Task, TaskScore]]
    texts: Mapping[str, TextScore]
    gates: Mapping[str, Sequence[SiteGates]]
    seconds: float
    decisions: Decisions | None = None

    def __contains__(self, task: str) -> bool:
        """Whether the task was scored."""
        return task in self.answered or task in self.texts

    def value(self, task: str) -> float:
        """The task's score by its metric, a fraction."""
        return self.answered[task][1].value if task in self.answered else self.texts[task].value

    def valid(self, task: str) -> float | None:
        """The share of answers that are among the task's labels; None where it has no labels."""
        return self.answered[task][1].valid if task in self.answered else None

    def perplexity(self, task: str) -> float | None:
        """The perplexity; None where the task is not unlabeled text."""
        return self.texts[task].perplexity if task in self.texts else None


def measure(learner: Learner, tasks: Sequence[Task], *, decisions: bool = False) -> StageScores:
    """Score a learner on the test rows of tasks.

    Args:
        learner: Answers as its `decoding` says; nothing of it changes.
        tasks: In the order in which they are answered.
        decisions: Whether to look at what was decided of their rows, too.
    """
    started = time.monotonic()
    with_targets = [task for task in tasks if task.kind == "answer"]
    scores = learner.evaluate(with_targets) if with_targets else []
    scored = [as_answered(learner.host.family, task) for task in with_targets]
    answered = {task.name: (task, own) for task, own in zip(scored, scores, strict=True)}
    texts = {task.name: learner.measure_text(task) for task in tasks if task.kind == "text"}
    decided = decisions_of(learner, list(answered.values())) if decisions else None
    seconds = time.monotonic() - started
    gates = {task.name: mean_gates(learner, task) for task in tasks} if has_gates(learner) else {}
    return StageScores(answered, texts, gates, seconds, decided)
