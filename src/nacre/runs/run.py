"""A run: a stream learned by a method, every task measured after every task, in a folder that can be continued."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nacre.evaluation.scoring import normalize
from nacre.events import (
    EvaluationStarted,
    Event,
    OnEvent,
    Resumed,
    RowMeasured,
    RunFinished,
    RunStarted,
    StageStarted,
    Warned,
)
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.models.host import Host
from nacre.models.loading import load_host
from nacre.parts.curriculum import Stage
from nacre.records.probe import BEFORE, ProbeRecord
from nacre.records.run import RunRecord
from nacre.report import write_report
from nacre.runs.checks import checks_of
from nacre.runs.directory import RunDirectory
from nacre.runs.measuring import measure
from nacre.runs.plan import check_lists
from nacre.runs.processes import check_single_process
from nacre.runs.protocol import protocol_of
from nacre.runs.recipe import Recipe
from nacre.runs.results import StageRow, record_of, stage_row
from nacre.tasks.checking.findings import source_findings
from nacre.tasks.checking.targets import target_findings
from nacre.tasks.task import Task


def run(recipe: Recipe, on_event: OnEvent) -> RunRecord:
    """Carry out a recipe in its output folder, or what of it is not done yet.

    A finished folder is read, not run again.

    Args:
        recipe: What to do; defaults and places need not be written out.
        on_event: Is called with what happens, which `events.jsonl` says too.

    Returns:
        The record, as `results.json` holds it.

    Raises:
        NacreError: Whatever the user can mend, before anything is written.
    """
    check_single_process()
    recipe = recipe.resolved()
    directory = RunDirectory(Path(recipe.output or ""))
    directory.check_place()
    directory.check_same(recipe)
    if directory.results.exists():
        on_event(RunFinished(path=str(directory.path), already=True))
        return RunRecord.read(directory.results)
    experiment = Experiment(recipe, directory, on_event)
    with directory.locked():
        experiment.begin()
        rows = experiment.stages()
        probes = experiment.probe()
        return experiment.finish(rows, probes)


class Experiment:
    """A recipe with everything that it needs to be carried out: `begin`, `stages`, `probe`, `finish`, in this order.

    Args:
        recipe: With every default and place written out.
        directory: The run's folder.
        on_event: Is called with what happens.

    Raises:
        NacreError: Whatever would stop the run; nothing is written before.
    """

    def __init__(self, recipe: Recipe, directory: RunDirectory, on_event: OnEvent) -> None:
        self.recipe, self.directory, self._on_event = recipe, directory, on_event
        self.method = recipe.build()
        for probe in recipe.probes.values():
            probe.check(self.method)
        self.tasks = recipe.tasks()
        self.curriculum = self.method.curriculum.stages(self.tasks)
        check_lists(self.method, recipe.optim, self.curriculum)
        recipe.evaluation.check(self.tasks)
        self.host = load_host(recipe.model, dropout=recipe.model_dropout)
        self.learner = Learner(
            self.host,
            self.method,
            seed=recipe.seed,
            optim=recipe.optim,
            decoding=recipe.evaluation,
            head=recipe.head,
        )
        names = [task.name for task in self.tasks]
        prepared = {key: probe.prepare(names, recipe.data, self.host) for key, probe in recipe.probes.items()}
        self.measurements = {key: measurement for key, measurement in prepared.items() if measurement is not None}
        self.protocol = protocol_of(recipe, self.tasks, self.learner, self.measurements)
        self._check_host()

    def emit(self, event: Event) -> None:
        """Write an event down and pass it on."""
        self.directory.append(event)
        self._on_event(event)

    def begin(self) -> None:
        """Write what is known before the first step, or compare it with what is there."""
        self.directory.clean()
        others = [task for measurement in self.measurements.values() for task in measurement.checked]
        lengths = self.learner.lengths
        self.directory.begin(
            self.recipe, self.protocol, lambda: checks_of([*self._checked(), *others], (self.host, lengths))
        )
        self.emit(
            RunStarted(
                path=str(self.directory.path),
                method=self.recipe.method,
                tasks=[task.name for task in self.tasks],
                seed=self.recipe.seed,
                penalties=[part.key for part in self.method.penalties],
                gradient_rules=[part.key for part in self.method.gradient_rules],
            )
        )
        for task in self.tasks:
            for finding in (*source_findings(task), *target_findings(task, normalize)):
                self.emit(Warned(finding.sentence))
        if (warning := _head_warning(self.host, self.tasks)) is not None:
            self.emit(Warned(warning))

    def stages(self) -> dict[int, StageRow]:
        """Measure row 0 and go through each stage; complete ones are read, the first incomplete one begins from the
        one before it.

        Returns:
            The rows of the matrix by number.
        """
        self.learner.on_event = self.emit
        before = self.directory.stage_folder(0, BEFORE)
        first = self.tasks if self.recipe.matrix == "full" else []
        rows = {0: self.directory.read_row(before) or self.measure(before, 0, first, None, None)}
        self._tell(rows[0])
        last_complete = before
        for number, stage in enumerate(self.curriculum, start=1):
            folder = self.directory.stage_folder(stage.row, stage.name)
            row = self.directory.read_row(folder)
            if row is None:
                self.emit(StageStarted(number=number, stages=len(self.curriculum), name=stage.name))
                self._ready(stage, last_complete, learned=max(rows) > 0)
                started = time.monotonic()
                self.learner.learn(*stage.tasks)
                seconds = time.monotonic() - started
                row = self.measure(folder, stage.row, self._measured(stage), seconds, rows.get(stage.row - 1))
            rows[stage.row], last_complete = row, folder
            self._tell(row)
        return rows

    def measure(
        self, folder: Path, number: int, tasks: Sequence[Task], train_seconds: float | None, previous: StageRow | None
    ) -> StageRow:
        """Score tasks, and commit the row with the learner that it belongs to.

        Args:
            folder: Of the stage.
            number: Of the row.
            tasks: Those to score.
            train_seconds: How long learning took; None in row 0.
            previous: The row before, if there is one.
        """
        self.emit(EvaluationStarted(row=number, tasks=len(tasks)))
        scores = measure(self.learner, tasks)
        # A task whose own, unchanged copy answers it keeps its score: that is what "independent" means.
        kept = previous if number > 1 and not self.method.curriculum.continues else None
        row = stage_row(number, self.learner, self.tasks, scores, train_seconds, kept)
        self.directory.write_stage(folder, row, self.learner, scores)
        return row

    def probe(self) -> dict[str, ProbeRecord]:
        """Measure what the recipe's probes ask for, from learners as they were saved.

        Returns:
            What each probe found, by key.
        """
        stages = [(BEFORE, self.directory.stage_folder(0, BEFORE))]
        stages += [(stage.name, self.directory.stage_folder(stage.row, stage.name)) for stage in self.curriculum]
        return {
            key: measurement.measure(self.directory.path / key, measurement.stages(stages), self._as_saved, self.emit)
            for key, measurement in self.measurements.items()
        }

    def finish(self, rows: dict[int, StageRow], probes: dict[str, ProbeRecord]) -> RunRecord:
        """Write the page and the record.

        Args:
            rows: Of the matrix, by number.
            probes: What the probes found, by key.
        """
        record = record_of(self.recipe, self.method, self.tasks, rows, self.protocol, probes)
        write_report(self.directory.report, [record])
        record.write(self.directory.results)  # last: it says that the run is finished
        self.emit(RunFinished(path=str(self.directory.path), already=False))
        return record

    def _check_host(self) -> None:
        """Raise if the host cannot learn a task, or if a prompt leaves no room for a text."""
        for task in self.tasks:
            self.host.family.check(task)
            if task.kind == "answer":
                self.host.family.encode(task.template.example("a", "a", task.labels), self.learner.lengths)

    def _checked(self) -> list[Task]:
        """The tasks without the validation rows that stand in the place of the test rows, which would seem to leak."""
        on_validation = self.recipe.measure_on == "validation"
        return [replace(task, validation=()) if on_validation else task for task in self.tasks]

    def _tell(self, row: StageRow) -> None:
        self.emit(RowMeasured(number=row.row, scores=row.scores, tasks=[task.name for task in self.tasks]))

    def _measured(self, stage: Stage) -> Sequence[Task]:
        """The tasks that are scored anew after a stage: as its curriculum says, or fewer if the recipe wants fewer."""
        if stage.afresh or self.recipe.matrix == "full":
            return stage.measured
        if self.recipe.matrix == "seen":
            return stage.measured[: stage.row]
        return stage.measured if stage.row == len(self.tasks) else []

    def _ready(self, stage: Stage, last_complete: Path, learned: bool) -> None:
        """Bring the learner to where a stage begins. learned: whether a stage before it is complete."""
        if stage.afresh and self.learner.state.tasks:
            self.learner = self.learner.restart()
        elif not stage.afresh and not self.learner.state.tasks and learned:
            self.learner.restore(checkpoint.read(last_complete), str(last_complete))
            self.emit(Resumed(folder=str(last_complete), tasks=list(self.learner.state.tasks)))

    def _as_saved(self, folder: Path) -> Learner:
        """From a stage's folder the learner as it was then, in the one host; the learner before it makes room."""
        self.learner = self.learner.restart()
        if folder != self.directory.stage_folder(0, BEFORE):  # where nothing was learned, and nothing saved
            self.learner.restore(checkpoint.read(folder), str(folder))
        return self.learner


def _head_warning(host: Host, tasks: Sequence[Task]) -> str | None:
    """What one should know of the masked-LM head: a random one has everything to learn."""
    if host.family.head is None or all(task.kind == "answer" for task in tasks):
        return None
    if host.family.head.mlm.pretrained:
        return None
    return (
        f"The model '{host.name}' came without its masked-LM head. A random one takes its place, the same for every "
        "seed, and is learned with the texts: perplexities begin near chance."
    )
