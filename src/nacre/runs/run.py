"""A run: a stream learned by a method, every task measured after every task, in a folder that can be continued."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from nacre import processes
from nacre.errors import RecipeError
from nacre.evaluation.scoring import normalize
from nacre.events import (
    EvaluationStarted,
    Event,
    OnEvent,
    PseudoRowsGenerated,
    Resumed,
    RowMeasured,
    RunFinished,
    RunStarted,
    StageStarted,
    Warned,
    ignore,
    is_kept,
)
from nacre.launcher import launched, told_to_end
from nacre.learning.learner import Learner
from nacre.measuring.environment import environment
from nacre.measuring.measure import measure
from nacre.models.host import Host
from nacre.models.loading import load_host_as
from nacre.models.quiet import quiet_transformers
from nacre.parts.curriculum import Stage
from nacre.records.probe import BEFORE, ProbeRecord
from nacre.records.reading import read_record
from nacre.records.run import RunRecord
from nacre.records.stage import Learned, StageRow
from nacre.records.view import view_of
from nacre.report import write_report
from nacre.runs.checks import checks_of
from nacre.runs.directory import RunDirectory
from nacre.runs.identity import identity_of
from nacre.runs.plan import check_lists, scored_tasks
from nacre.runs.protocol import protocol_of
from nacre.runs.recipe import Recipe
from nacre.runs.results import learned_of, record_of, stage_row
from nacre.runs.stages import Place, Stages
from nacre.runs.tracking import Trackers
from nacre.tasks.checking.findings import as_read, source_findings
from nacre.tasks.checking.targets import target_findings
from nacre.tasks.task import Task


@quiet_transformers()
def run(recipe: Recipe, on_event: OnEvent, *, sharded: bool = False) -> RunRecord:
    """Carry out a recipe in its output folder, or what of it is not done yet.

    A finished folder is read, not run again. Several processes that a launcher has started carry it out together: they
    share out each step's rows and the answers, and the first one writes.

    Args:
        recipe: What to do; defaults and places need not be written out.
        on_event: Is called with what happens, which `events.jsonl` says too; in the first process.
        sharded: Whether each process holds a part of the host's layers only. It changes no result.

    Returns:
        The record, as `results.json` holds it.

    Raises:
        NacreError: Whatever the user can mend, before anything is written.
    """
    with told_to_end(), ExitStack() as stack:
        if launched()[1] > 1:
            processes.device()  # forms their group
        if not processes.is_first():
            on_event = ignore
        with processes.together():
            recipe = recipe.resolved()
            directory = RunDirectory(Path(recipe.output or ""))
            directory.check_place()
            directory.check_same(recipe)
            finished = directory.results.exists()
        if finished:
            record = read_record(directory.results)
            on_event(RunFinished(path=str(directory.path), already=True))
            return record
        with processes.together():
            experiment = Experiment(recipe, directory, on_event, sharded=sharded)
        processes.by_first(lambda: stack.enter_context(directory.locked()))
        processes.by_first(experiment.begin)
        with processes.together():
            directory.check_shared()
        rows = experiment.stages()
        probes = processes.by_first(experiment.probe)
        return processes.by_first(lambda: experiment.finish(rows, probes))


class Experiment:
    """A recipe with everything that it needs to be carried out: `begin`, `stages`, `probe`, `finish`, in this order.

    Args:
        recipe: With every default and place written out.
        directory: The run's folder.
        on_event: Is called with what happens.
        sharded: Whether each process holds a part of the host's layers only.

    Raises:
        NacreError: Whatever would stop the run; nothing is written before.
    """

    def __init__(self, recipe: Recipe, directory: RunDirectory, on_event: OnEvent, *, sharded: bool) -> None:
        self.recipe, self.directory, self._on_event = recipe, directory, on_event
        self._written: list[PseudoRowsGenerated] = []  # of the stage that is being learned
        self.trackers = Trackers(recipe.track, directory.path, self.emit)
        self.method = recipe.build()
        for probe in recipe.probes.values():
            probe.check(self.method)
        self.tasks = recipe.tasks()
        self.curriculum = self.method.curriculum.stages(self.tasks)
        check_lists(self.method, recipe.optim, self.curriculum)
        recipe.evaluation.check_method(self.method, recipe.head)
        recipe.evaluation.check(self.tasks)
        self.host = self._load(sharded)
        self.learner = Learner(
            self.host,
            self.method,
            seed=recipe.seed,
            optim=recipe.optim,
            decoding=recipe.evaluation,
            head=recipe.head,
            on_event=ignore,  # until there is a folder; `begin` says what is to be known of the host
        )
        self._check_host()
        names = [task.name for task in self.tasks]
        prepared = {key: probe.prepare(names, recipe.data, self.host) for key, probe in recipe.probes.items()}
        self.measurements = {key: measurement for key, measurement in prepared.items() if measurement is not None}
        self.protocol = protocol_of(recipe, self.tasks, self.learner, self.measurements)
        self.saved = Stages(directory.path, identity_of(recipe, self.protocol), len(self.tasks), self.emit)
        self.places = _places(self.saved, self.curriculum)

    def emit(self, event: Event) -> None:
        """Write an event down, if it is kept, and pass it on; the first process does."""
        if not processes.is_first():
            return
        if isinstance(event, PseudoRowsGenerated):
            self._written.append(event)
        if is_kept(event):
            self.directory.append(event)
        self.trackers.see(event)
        self._on_event(event)

    def begin(self) -> None:
        """Write what is known before the first step, or compare it with what is there."""
        self.directory.clean()
        others = [task for measurement in self.measurements.values() for task in measurement.checked]
        lengths = self.learner.lengths
        self.directory.begin(
            self.recipe, self.protocol, lambda: checks_of([*self._checked(), *others], (self.host, lengths))
        )
        self.trackers.begin(self.recipe)
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
        for task in as_read(self.tasks):
            for finding in source_findings(task):
                self.emit(Warned(finding.sentence))
        for task in self.tasks:
            for finding in target_findings(task, normalize):
                self.emit(Warned(finding.sentence))
        for warning in (_head_warning(self.host, self.tasks), self.host.unlike):
            if warning:
                self.emit(Warned(warning))

    def stages(self) -> dict[int, StageRow]:
        """Measure row 0 and go through each stage.

        Complete ones are read, the first incomplete one begins from the one before it, and what follows that is learned
        again.

        Returns:
            The rows of the matrix by number.
        """
        self.learner.on_event = self.emit
        first, *others = self.places
        tasks = self.tasks if self.recipe.matrix == "full" else []
        there = self._read(first)
        rows = {0: there if isinstance(there, StageRow) else self.measure(first, tasks, None, None)}
        self._tell(rows[0])
        before = first
        for stage, place in zip(self.curriculum, others, strict=True):
            there = self._read(place)
            if not isinstance(there, StageRow):
                learned = self._learned(stage, place, before) if there is None else self._learned_before(place, there)
                there = self.measure(
                    place, scored_tasks(stage, self.tasks, self.recipe.matrix), learned, rows.get(stage.row - 1)
                )
            rows[stage.row], before = there, place
            self._tell(there)
        return rows

    def measure(
        self, place: Place, tasks: Sequence[Task], learned: Learned | None, previous: StageRow | None
    ) -> StageRow:
        """Score tasks, and commit the row with the learner that it belongs to.

        Args:
            place: Of the stage.
            tasks: Those to score.
            learned: What learning took; None in row 0.
            previous: The row before, if there is one.
        """
        self.emit(EvaluationStarted(row=place.row, tasks=len(tasks)))
        is_last, continues = place.row == len(self.tasks), self.method.curriculum.continues
        scores = measure(self.learner, tasks, decisions=is_last and continues)
        # A task whose own, unchanged copy answers it keeps its score: that is what "independent" means.
        kept = previous if place.row > 1 and not continues else None
        row = stage_row(place.row, self.learner, self.tasks, scores, learned, kept)
        last_time = is_last or not continues
        processes.by_first(lambda: self.saved.write_measured(place, row, scores, last_time=last_time))
        return row

    def probe(self) -> dict[str, ProbeRecord]:
        """Measure what the recipe's probes ask for, from learners as they were saved.

        Returns:
            What each probe found, by key.
        """
        names = [BEFORE, *(stage.name for stage in self.curriculum)]
        stages = [(name, place.folder) for name, place in zip(names, self.places, strict=True)]
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
        record = record_of(self.recipe, self.method, self.tasks, rows, self.protocol, probes, environment())
        write_report(self.directory.report, [view_of(self.directory.path, record)])
        self.directory.clean()  # a disk may have failed while something made way; a finished run is not swept
        self.saved.drop_training()
        record.write(self.directory.results)  # last: it says that the run is finished
        self.trackers.finish(record)
        self.emit(RunFinished(path=str(self.directory.path), already=False))
        return record

    def _load(self, sharded: bool) -> Host:
        if not sharded:
            return load_host_as(self.recipe.model, self.recipe.loaded_as)
        if processes.count() == 1:
            raise RecipeError("A host is sharded over several processes, and there is one: start them with torchrun.")
        if probes := list(self.recipe.probes):
            raise RecipeError(
                f"{probes[0]} is measured by one process, which cannot compute with a sharded host alone: leave it "
                "out, or give every process the whole host."
            )
        with processes.together():  # from here on they wait for one another
            host = load_host_as(self.recipe.model, self.recipe.loaded_as, values=processes.is_first())
        host.shard()
        return host

    def _check_host(self) -> None:
        """Raise if the host cannot learn a task, or if a prompt leaves no room for a text."""
        for task in self.tasks:
            self.learner.check(task)
            if task.kind == "answer":
                example = replace(task.template.example("a", "a", task.labels), task=task.name)
                self.host.family.encode(example, self.learner.lengths)

    def _checked(self) -> list[Task]:
        """The tasks without the validation rows that stand in the place of the test rows, which would seem to leak."""
        on_validation = self.recipe.measure_on == "validation"
        return [replace(task, validation=()) if on_validation else task for task in self.tasks]

    def _tell(self, row: StageRow) -> None:
        self.emit(RowMeasured(number=row.row, scores=row.scores, tasks=[task.name for task in self.tasks]))

    def _learned(self, stage: Stage, place: Place, before: Place) -> Learned:
        """Learn a stage, and save the learner before anything is measured."""
        number = self.curriculum.index(stage) + 1
        self.emit(StageStarted(number=number, stages=len(self.curriculum), name=stage.name))
        wanted = () if stage.afresh else before.tasks
        if tuple(self.learner.state.tasks) != wanted:
            self._restart()
            if wanted:
                self._restore(before)
        training = self.saved.training(place, self.recipe.save_every)
        self._written.clear()
        self.learner.learn(*stage.tasks, saves=training)
        learned = learned_of(self.learner, training.seconds, self._written)
        snapshot = self.learner.snapshot()  # by all processes: of sharded weights each has its part
        processes.by_first(lambda: self.saved.write_learned(place, snapshot, learned))
        processes.by_first(training.remove)
        return learned

    def _learned_before(self, place: Place, learned: Learned) -> Learned:
        """Bring the learner to the end of a stage that was learned and not measured."""
        self._restart()
        self._restore(place)
        return learned

    def _restart(self) -> None:
        if self.learner.state.tasks:
            self.learner = self.learner.restart()

    def _read(self, place: Place) -> StageRow | Learned | None:
        return processes.by_first(lambda: self.saved.read(place, self.learner))

    def _restore(self, place: Place) -> None:
        with processes.together():
            self.saved.learner(place, self.learner)
        self.emit(Resumed(folder=str(place.folder), tasks=list(self.learner.state.tasks)))

    def _as_saved(self, folder: Path) -> Learner:
        """From a stage's folder the learner as it was then, in the one host; the learner before it makes room."""
        self.learner = self.learner.restart()
        place = next(place for place in self.places if place.folder == folder)
        return self.saved.learner(place, self.learner) if place.tasks else self.learner


def _places(saved: Stages, curriculum: Sequence[Stage]) -> list[Place]:
    """Where the stages lie, the one before any learning first."""
    found = [Place(saved.folder(0, BEFORE), 0, None, ())]
    for stage in curriculum:
        before = found[-1]
        learned = (*(() if stage.afresh else before.tasks), *(task.name for task in stage.tasks))
        found.append(Place(saved.folder(stage.row, stage.name), stage.row, before.folder, learned))
    return found


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
