"""A version before it has a name: a learner, what it has learned, its scores, and the test rows that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from nacre.evaluation.base_ability.scores import AbilityScore
from nacre.events import EvaluationStarted, OnEvent, ProbeStarted
from nacre.files import build_named_folder, link
from nacre.learning import checkpoint
from nacre.learning.contents import Contents
from nacre.learning.learner import Learner
from nacre.manifest import Binding, hash_of_manifest, read_manifest, write_manifest
from nacre.measuring.environment import environment
from nacre.measuring.measure import StageScores, measure
from nacre.measuring.probes.base_ability_measurement import prepare
from nacre.records.predictions import write_predictions
from nacre.records.stage import LEARNED
from nacre.store.rows import written_rows
from nacre.store.settings import StoreSettings
from nacre.store.store import Store, name_of
from nacre.store.version import Action, LearnedTask, RecordedScore, Version
from nacre.tasks.task import Task


@dataclass(frozen=True)
class Draft:
    """A version before it is written.

    Attributes:
        store: Where.
        before: The version that it is made of.
        action, task, work: See `Version`.
        entries: What it says of its tasks, but for their scores.
        fill: Writes the learner.
        rows: Tasks whose test rows may have to be copied, by name; others' copies are there.
    """

    store: Store
    before: str | None
    action: Action
    task: str | None
    work: str
    entries: Sequence[LearnedTask]
    fill: Callable[[Path], None]
    rows: Mapping[str, Task] = field(default_factory=dict)

    def commit(self, learner: Learner, tasks: Sequence[Task], seconds: float, on_event: OnEvent) -> str:
        """Score the learner, and write the version.

        Args:
            learner: That it is to hold.
            tasks: To score, with their test rows.
            seconds: How long learning took.
            on_event: Is told what happens.

        Returns:
            The version's name.
        """
        on_event(EvaluationStarted(row=len(self.entries), tasks=len(tasks)))
        scores = measure(learner, tasks)
        ability = _abilities(self.store.settings, learner, on_event)
        version = Version(
            parent=self.before,
            action=self.action,
            task=self.task,
            work=self.work,
            tasks=[self._entry(entry, scores) for entry in self.entries],
            measured=[*scores.answered, *scores.texts],  # the order in which predictions are numbered
            ability=ability,
            stored_parameters=learner.stored_parameters(),
            train_seconds=seconds,
            evaluate_seconds=scores.seconds,
            environment=environment(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        parent = None if self.before is None else self.store.folder(self.before)

        def fill(folder: Path) -> None:
            self.fill(folder)
            write_predictions(folder, scores.answered, scores.texts, inputs=False)
            version.write(folder)
            write_manifest(folder, Binding(self.store.id, None if parent is None else hash_of_manifest(parent)))

        made = build_named_folder(self.store.versions, fill, name_of).name
        self.store.note("version", version=made, action=self.action, task=self.task, parent=self.before)
        return made

    def _entry(self, entry: LearnedTask, scores: StageScores) -> LearnedTask:
        """A task with its score, and where its rows are copied."""
        more: dict[str, object] = {"score": _score(scores, entry.name)}
        if entry.name in self.rows and entry.test_rows == "keep":
            more["file"] = self.store.keep_rows(written_rows(self.rows[entry.name]))
        return entry.model_copy(update=more)


def whole(learner: Learner) -> Callable[[Path], None]:
    """Writes all of a learner."""
    held = Contents.of(learner.snapshot())
    return lambda folder: checkpoint.write_files(held, folder)


def linked(source: Path) -> Callable[[Path], None]:
    """Writes what another folder holds of a learner."""

    def fill(folder: Path) -> None:
        for name in read_manifest(source).sha256:
            if name != LEARNED:
                link(source / name, folder / name)

    return fill


def _score(scores: StageScores, task: str) -> RecordedScore | None:
    if task not in scores:
        return None
    rows = len(scores.answered[task][1].answers if task in scores.answered else scores.texts[task].tokens)
    return RecordedScore(
        value=scores.value(task), valid=scores.valid(task), perplexity=scores.perplexity(task), rows=rows
    )


def _abilities(settings: StoreSettings, learner: Learner, on_event: OnEvent) -> list[AbilityScore]:
    """The learner's scores on the benchmarks that the store asks for."""
    if settings.base_ability is None:
        return []
    measurement = prepare(settings.base_ability, (), None, learner.host)
    scores = []
    for task in measurement.tasks:
        on_event(ProbeStarted("ability", {"after": len(learner.state.tasks), "task": task.name}))
        scores.append(measurement.score(task, learner.host))
    return scores
