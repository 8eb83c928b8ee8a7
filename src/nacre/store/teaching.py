"""From one version to the next: a task is learned or taken out, everything is measured, the gate decides."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nacre.errors import CheckpointError, DataError, RecipeError, nearest
from nacre.evaluation.scoring import normalize
from nacre.events import EvaluationStarted, OnEvent, Resumed, StageStarted, Warned
from nacre.files import build_folder, hash_of, user_path
from nacre.interop.peft_files import PeftLora
from nacre.launcher import check_single_process
from nacre.learning import checkpoint
from nacre.learning.contents import Contents
from nacre.learning.learner import Learner
from nacre.learning.snapshot import Snapshot
from nacre.learning.training_saves import TrainingSaves
from nacre.manifest import MANIFEST, Binding, hash_of_manifest, read_manifest, write_manifest
from nacre.measuring.measure import StageScores, measure
from nacre.models.quiet import quiet_transformers
from nacre.records.gate_verdict import GateVerdict
from nacre.records.stage import LEARNED, Learned, read_document, write_document
from nacre.report.verdict import as_html, as_markdown
from nacre.store.draft import Draft, linked, whole
from nacre.store.gate import MustKeep
from nacre.store.judging import judge
from nacre.store.learners import fresh_learner, learner_of, restored
from nacre.store.rows import test_rows_of
from nacre.store.settings import StoreSettings, TestRows
from nacre.store.source import Source, read_again
from nacre.store.store import Store
from nacre.store.version import Action, LearnedTask, Version
from nacre.tasks.checking.findings import source_findings
from nacre.tasks.checking.targets import target_findings
from nacre.tasks.content import task_content
from nacre.tasks.task import Task


@dataclass(frozen=True)
class NewVersion:
    """What became of a new version.

    Attributes:
        name: The version's.
        version: What it says of itself.
        before: The version that was current.
        verdict: What the gate said; None without one.
        page: The verdict to read; None without one.
        promoted: Whether it is current now.
        already: Whether it was there before.
    """

    name: str
    version: Version
    before: str
    verdict: GateVerdict | None
    page: Path | None
    promoted: bool
    already: bool


@quiet_transformers()
def create(place: str | Path, settings: StoreSettings, on_event: OnEvent) -> Store:
    """Make a store: its first version has learned nothing.

    Args:
        place: A new folder.
        settings: Written out.
        on_event: Is told what happens.

    Raises:
        NacreError: If the model, the method or the place cannot be used.
    """
    check_single_process("A store")
    Store.check_place(user_path(place))
    learner = fresh_learner(settings, on_event)
    return Store.make(place, settings, lambda store: _first(store, "init", learner, (), on_event))


@quiet_transformers()
def adopt(
    place: str | Path,
    settings: StoreSettings,
    snapshot: Snapshot,
    taught: Sequence[tuple[Source, Task]],
    on_event: OnEvent,
) -> Store:
    """Make a store of what was learned elsewhere.

    Args:
        place: A new folder.
        settings: Those of that learner, written out.
        snapshot: The learner.
        taught: Its tasks and where their rows are, in the order in which they were learned.
        on_event: Is told what happens.

    Raises:
        NacreError: If the learner does not fit the settings, or if test rows are to be read again later that are not
            there.
    """
    check_single_process("A store")
    Store.check_place(user_path(place))
    learner = fresh_learner(settings, on_event)
    learner.restore(snapshot)
    return Store.make(place, settings, lambda store: _first(store, "import", learner, taught, on_event))


@quiet_transformers()
def adopt_peft(place: str | Path, settings: StoreSettings, lora: PeftLora, source: Source, on_event: OnEvent) -> Store:
    """Make a store whose first task is a LoRA that PEFT has trained.

    Args:
        place: A new folder.
        settings: With a method whose slots are such LoRAs, written out.
        lora: What was trained.
        source: The task's rows.
        on_event: Is told what happens.

    Raises:
        NacreError: If the LoRA does not fit the settings, or if the task cannot be read.
    """
    check_single_process("A store")
    Store.check_place(user_path(place))
    task = source.read(settings.identity)
    learner = fresh_learner(settings, on_event)
    learner.adopt(task, lora.factors)
    return Store.make(place, settings, lambda store: _first(store, "import", learner, [(source, task)], on_event))


@quiet_transformers()
def learn(
    store: Store,
    source: Source,
    on_event: OnEvent,
    *,
    must_keep: str | None = None,
    kept: TestRows | None = None,
    save_every: int | None = None,
) -> NewVersion:
    """Learn a task, measure every task and benchmark, and let the new version answer if the gate opens.

    What was learned is saved before it is measured, and training where it was stopped, so that the same command goes on
    there. A version that the same work has made before is not made again: its gate is asked anew.

    Args:
        store: Where.
        source: The task.
        on_event: Is told what happens.
        must_keep: The gate; None for the store's.
        kept: What is kept of the task's test rows; None for what the store says.
        save_every: Steps between two saves of the training; None: they are made on Ctrl-C only.

    Raises:
        NacreError: Whatever the user can mend; the current version stays as it was.
    """
    check_single_process("A store")
    gate = _gate(store, must_keep)
    with store.locked():
        before = store.current
        parent = store.read(before)
        if source.name in parent.names:
            raise RecipeError(
                f"Task '{source.name}' is learned already, in version {before}: give the new rows another name, or "
                f"'nacre forget {store.path} {source.name}' first, where the method can."
            )
        if gate is not None:
            gate.check(parent.names, [score.task for score in parent.ability])
        task = source.read(store.settings.identity)
        entry = source.entry(task, kept or store.settings.test_rows)
        work = hash_of({"store": store.id, "parent": before, "task": task_content(task), "test_rows": entry.test_rows})
        if (there := store.made_before(before, work)) is not None:
            return _decide(store, before, there, gate, "learn", already=True)
        belongs = Binding(store.id, hash_of_manifest(store.folder(before)))
        saves = TrainingSaves(store.training(work), belongs, save_every, on_event)
        name = _learned(store, before, parent, task, entry, work, saves, on_event)
        return _decide(store, before, name, gate, "learn", already=False)


@quiet_transformers()
def forget(store: Store, task: str, on_event: OnEvent, *, must_keep: str | None = None) -> NewVersion:
    """Take a task out of the current version, where the method can do so exactly.

    Args:
        store: Where.
        task: The task's name.
        on_event: Is told what happens.
        must_keep: The gate for the other tasks; None for the store's.

    Raises:
        DataError: If no such task has been learned.
        ModelError: If the method's tasks do not lie apart.
    """
    check_single_process("A store")
    gate = _gate(store, must_keep)
    with store.locked():
        before = store.current
        parent = store.read(before)
        if task not in parent.names:
            raise DataError(f"Task '{task}' has not been learned. {nearest(task, parent.names)}")
        entries = [entry for entry in parent.tasks if entry.name != task]
        if gate is not None:
            gate.check([entry.name for entry in entries], [score.task for score in parent.ability])
        work = hash_of({"store": store.id, "parent": before, "forget": task})
        if (there := store.made_before(before, work)) is not None:
            return _decide(store, before, there, gate, "forget", already=True)
        learner = learner_of(store, before, on_event)
        learner.forget(task)
        draft = Draft(store, before=before, action="forget", task=task, work=work, entries=entries, fill=whole(learner))
        name = draft.commit(learner, _kept_tasks(store, entries), 0.0, on_event)
        return _decide(store, before, name, gate, "forget", already=False)


@quiet_transformers()
def evaluate(
    store: Store, name: str, on_event: OnEvent, tasks: Sequence[Task] | None = None
) -> tuple[Version, StageScores]:
    """Score a version again.

    Args:
        store: Where.
        name: The version's.
        on_event: Is told what happens.
        tasks: On which tasks; None for those whose test rows were kept.

    Returns:
        What the version says of itself, and the scores.
    """
    version = store.read(name)
    found = _kept_tasks(store, version.tasks) if tasks is None else tasks
    if not version.tasks:
        raise DataError(f"Version {name} has learned nothing that it could be scored on.")
    if not found:
        raise DataError(f"Version {name} has no test rows to be scored on: give them with --task and --data.")
    learner = learner_of(store, name, on_event)
    on_event(EvaluationStarted(row=len(version.tasks), tasks=len(found)))
    return version, measure(learner, found)


def _first(
    store: Store, action: Action, learner: Learner, taught: Sequence[tuple[Source, Task]], on_event: OnEvent
) -> str:
    """Write a store's first version."""
    kept = store.settings.test_rows
    entries = [source.entry(task, kept) for source, task in taught]
    for entry in entries if kept == "reference" else ():
        read_again(entry, entry.data, store.settings.identity)
    rows = {task.name: task for _, task in taught}
    draft = Draft(
        store,
        before=None,
        action=action,
        task=None,
        work=hash_of({"store": store.id}),
        entries=entries,
        fill=whole(learner),
        rows=rows,
    )
    return draft.commit(learner, [task for _, task in taught], 0.0, on_event)


def _learned(
    store: Store,
    before: str,
    parent: Version,
    task: Task,
    entry: LearnedTask,
    work: str,
    saves: TrainingSaves,
    on_event: OnEvent,
) -> str:
    """Learn a task, or load what was learned before a process was killed, and commit the version."""
    folder = store.unfinished(work)
    for finding in (*source_findings(task), *target_findings(task, normalize)):
        on_event(Warned(finding.sentence))
    learner = _unfinished(store, folder, on_event)
    if learner is None:
        learner = learner_of(store, before, on_event)
        _teach(before, learner, task, folder, saves, on_event)
    draft = Draft(
        store,
        before=before,
        action="learn",
        task=task.name,
        work=work,
        entries=[*parent.tasks, entry],
        fill=linked(folder),
        rows={task.name: task},
    )
    seconds = read_document(Learned, folder / LEARNED).train_seconds
    name = draft.commit(learner, [*_kept_tasks(store, parent.tasks), task], seconds, on_event)
    shutil.rmtree(folder, ignore_errors=True)
    return name


def _unfinished(store: Store, folder: Path, on_event: OnEvent) -> Learner | None:
    """The learner that was taught and not measured; None if there is none."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        read_manifest(folder).check(folder, LEARNED)
        learner = restored(store, folder, on_event)
    except CheckpointError as error:
        on_event(Warned(f"{error} The task is learned again."))
        shutil.rmtree(folder)
        return None
    on_event(Resumed(folder=str(folder), tasks=learner.state.tasks))
    return learner


def _teach(before: str, learner: Learner, task: Task, folder: Path, saves: TrainingSaves, on_event: OnEvent) -> None:
    """Learn a task, and save what is new since the version before, so that measuring can be stopped."""
    outline, number = Contents.of(learner.snapshot()).outline(), len(learner.state.tasks) + 1
    on_event(StageStarted(number=number, stages=number, name=task.name))
    learner.learn(task, saves=saves)
    learned = Learned(
        train_seconds=saves.seconds,
        train_tokens=learner.work.tokens,
        train_positions=learner.work.positions,
        trainable_parameters=sum(group.size for group in learner.trainable()),
        pseudo_rows=[],
    )
    held, _ = Contents.of(learner.snapshot()).since(outline, before)

    def fill(place: Path) -> None:
        checkpoint.write_files(held, place)
        write_document(learned, place / LEARNED)
        write_manifest(place, saves.binding)

    build_folder(folder, fill)
    saves.remove()


def _decide(store: Store, before: str, name: str, gate: MustKeep | None, by: str, *, already: bool) -> NewVersion:
    """Ask the gate, and promote the version if it opens."""
    version = store.read(name)
    verdict, page = None, None
    if gate is not None:
        verdict = judge(store, before, name, gate)
        page = store.write_verdict(verdict, as_markdown(verdict), as_html(verdict))
    promoted = verdict is None or verdict.passed
    if promoted:
        store.promote(name, by)
        store.drop_unfinished()
    return NewVersion(name, version, before, verdict, page, promoted, already)


def _gate(store: Store, must_keep: str | None) -> MustKeep | None:
    text = store.settings.must_keep if must_keep is None else must_keep
    return None if text is None else MustKeep.of(text, store.settings.unclear, store.settings.against)


def _kept_tasks(store: Store, entries: Sequence[LearnedTask]) -> list[Task]:
    """Tasks with their test rows, but for those of which none were kept."""
    found = (test_rows_of(store, entry) for entry in entries)
    return [task for task in found if task is not None]
