"""Inputs of earlier tasks that a generator of each task writes (SAPT's pseudo-samples)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from nacre.adapters.adapter import Adapter, PlacedAdapter
from nacre.adapters.kept import KeptAdapters
from nacre.errors import RecipeError
from nacre.events import Event, GeneratorTaught, StepTaken, Stopped, ignore
from nacre.models.host import Host
from nacre.parts.attentive_reflection import Attended, mean_attention, words_of
from nacre.parts.part import LearnerView, Memory
from nacre.parts.rehearsal import Rehearsal
from nacre.parts.wording import Wording
from nacre.parts.written_rows import ANSWERS, PseudoState, RowDraws
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example, TaskKind


@final
@dataclass(frozen=True)
class PseudoInputs(Memory):
    """Generators write inputs of earlier tasks for `Reflection`; none is learned, and no row is kept.

    Once a task is learned, a second learner in the bare host is taught to write its rows, by an adapter of its own.
    These generators are kept (`owners["memory"]`). Before each later task they write anew, and of what they wrote the
    inputs are kept. A row follows from the seed, its task and its number alone, and is reported
    (`PseudoRowsGenerated`).

    State: `Attended`.

    Attributes:
        fraction: As many inputs of a task are kept as this share of its rows; at least one.
        generator: The adapter of each generator.
        steps: How many steps it is taught for, in whole epochs: the last one is finished.
        rate: Its learning rate. Its other settings of training are the task's.
        wording: How rows are written.
        draws: Samples drawn for each row that is to be kept.
        top_k: Among so many most likely tokens each is drawn; None: among all.
        batch_size: Samples drawn at once.
    """

    State: ClassVar[type[Attended]] = Attended
    remembers: ClassVar[str] = "kept_inputs"
    mixed: ClassVar[bool] = False
    learns: ClassVar[frozenset[TaskKind]] = ANSWERS
    writes: ClassVar[bool] = True

    fraction: float
    generator: Adapter
    steps: int
    rate: float
    wording: Wording
    draws: int
    top_k: int | None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not Rehearsal(self.fraction).size(1):
            raise RecipeError("fraction: 0 keeps nothing of what is written, and nothing needs to be written then.")
        if self.steps < 1 or self.draws < 1:
            raise RecipeError(
                f"generator_steps = {self.steps}, draws = {self.draws}: a generator learns for at least one step, and "
                "writes at least one sample for each row."
            )
        if not self.rate > 0:
            raise RecipeError(f"generator_rate = {self.rate} is not a positive learning rate.")

    def owner(self, host: Host, adapter: PlacedAdapter) -> KeptAdapters:
        return KeptAdapters(host.body, adapter, self.generator)

    def size(self, rows: int) -> int:
        """Number of inputs kept of a task with this many rows, if so many can be read."""
        return Rehearsal(self.fraction).size(rows)

    def examples(self, learner: LearnerView, tasks: Sequence[Task]) -> list[Example]:
        """None: what is written is not learned."""
        return []

    def prepare(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        self.wording.check(learner, tasks)
        # Now, because a row that cannot be written should stop the task before it is learned, not behind it.
        learner.resources[self.key] = [self.wording.lesson(learner, task) for task in tasks]
        if (state := learner.remembered(self, Attended)) is not None:
            self._write(learner, state)

    @torch.no_grad()
    def end(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        (task,) = tasks  # an attention over tasks learns one at a time
        mean = mean_attention(learner, words_of(learner, task.examples("train")))
        with torch.enable_grad():
            self._teach(learner, learner.resources[self.key][0])
        before = learner.remembered(self, Attended) or Attended([], [])
        sizes = [*before.sizes, self.size(len(task.train))]
        learner.remember(self, Attended(before.inputs, [*before.means, mean], before.written, sizes))

    def _write(self, learner: LearnerView, state: Attended) -> None:
        """Let every generator write."""
        draws = RowDraws(self.wording, self.top_k, self.batch_size)
        written: list[list[list[str]]] = []
        with learner.beside(self.generator, seed=learner.state.seed, on_event=ignore) as second:
            for number, (task, size) in enumerate(zip(learner.state.tasks, state.sizes, strict=True)):
                _generators(learner).put_into(second.adapter, number)
                written.append(draws.write(learner, self.key, task, self.draws * size, size, by_label=False))
        inputs = [words_of(learner, [example for example, _ in PseudoState(own).examples(learner)]) for own in written]
        rows = [row for own in written for row in own]
        learner.remember(self, Attended(inputs, state.means, rows, state.sizes))

    def _teach(self, learner: LearnerView, lesson: Task) -> None:
        """Teach one more generator."""
        an_epoch = learner.step.of // learner.epochs  # the task's: its lesson has as many rows, in batches as large

        def report(event: Event) -> None:
            if isinstance(event, StepTaken):
                size = sum(group.size for group in second.trainable())
                learner.on_event(GeneratorTaught(lesson.name, size, event.step, event.steps, event.loss))
            elif isinstance(event, Stopped):
                learner.on_event(event)

        with learner.beside(
            self.generator,
            seed=derive(learner.state.seed, self.key, learner.task_number),
            on_event=report,
            learning_rate=self.rate,
            epochs=-(-self.steps // an_epoch),
            max_target_length=self.wording.max_length,
        ) as second:
            second.learn(lesson)
            _generators(learner).append(second.adapter.tensors())


def _generators(learner: LearnerView) -> KeptAdapters:
    kept = learner.owners["memory"]
    assert isinstance(kept, KeptAdapters)
    return kept
