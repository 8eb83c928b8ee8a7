"""A run: a stream learnt by a method, every task measured after every task, in a folder that can be continued."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nacre.errors import RecipeError
from nacre.evaluation.base_ability.benchmarks import AbilityTask
from nacre.evaluation.gates import has_gates, mean_gates
from nacre.evaluation.matrix import DEFINITIONS, metrics
from nacre.evaluation.perplexity import PERPLEXITY, TextScore
from nacre.evaluation.scoring import TaskScore, score
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
from nacre.files import hash_of
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.method import Method
from nacre.models.host import Host
from nacre.models.loading import load_host
from nacre.parts.curriculum import Stage
from nacre.records.base_ability import BEFORE, AbilityRecord
from nacre.records.end_tasks import EndTaskRecord
from nacre.records.run import Record, Seconds, Tokens
from nacre.report import write_report
from nacre.runs.checks import checks_of
from nacre.runs.directory import Row, RunDirectory
from nacre.runs.plan import check_lists
from nacre.runs.probes.base_ability import ability_tasks_of, check_abilities, measure_abilities, measured_stages
from nacre.runs.probes.end_tasks import end_tasks_of, measure_end_tasks
from nacre.runs.protocol import protocol_of
from nacre.runs.recipe import Recipe
from nacre.runs.stream import tasks_of
from nacre.tasks.task import Task


def run(recipe: Recipe, on_event: OnEvent) -> Record:
    """Carry out the recipe in its output folder, or what of it is not done yet.

    A finished folder is read, not run again. Whatever the user could mend is raised before anything is written.
    """
    recipe = recipe.resolved()
    directory = RunDirectory(Path(recipe.output or ""))
    directory.check_place()
    directory.check_same(recipe)
    if directory.results.exists():
        on_event(RunFinished(path=str(directory.path), already=True))
        return Record.read(directory.results)

    method = recipe.build()
    check_abilities(recipe.base_ability, method)
    tasks = tasks_of(recipe)
    check_lists(method, recipe.optim, method.curriculum.stages(tasks))
    recipe.evaluation.check(tasks)
    host = load_host(recipe.model, dropout=recipe.model_dropout)
    learner = _learner(host, method, recipe)
    ends = _end_tasks(recipe, method, tasks, host)
    abilities = ability_tasks_of(recipe.base_ability, host)
    protocol = protocol_of(recipe, tasks, learner, ends, abilities)
    for task in tasks:  # raises if the host cannot learn the task, or a prompt leaves no room for a text
        host.family.check(task)
        if task.kind == "answer":
            host.family.encode(task.template.example("a", "a", task.labels), learner.lengths)
    with directory.locked():
        directory.clean()
        directory.begin(recipe, protocol, lambda: checks_of([*_checked(recipe, tasks), *ends], (host, learner.lengths)))

        def emit(event: Event) -> None:
            directory.append(event)
            on_event(event)

        emit(
            RunStarted(
                path=str(directory.path),
                method=recipe.method,
                tasks=[task.name for task in tasks],
                seed=recipe.seed,
                penalties=[part.key for part in method.penalties],
                gradient_rules=[part.key for part in method.gradient_rules],
            )
        )
        if (warning := _head_warning(host, tasks)) is not None:
            emit(Warned(warning))
        rows, learner = _stages(directory, recipe, learner, tasks, emit)
        as_saved = _as_saved(learner, recipe, directory)
        measured = _measured_ends(directory, recipe, method, tasks, ends, as_saved, emit)
        able = _measured_abilities(directory, recipe, method, tasks, abilities, as_saved, emit)
        record = _record(recipe, method, tasks, rows, protocol, measured, able)
        write_report(directory.report, [record])
        record.write(directory.results)  # last: it says that the run is finished
        emit(RunFinished(path=str(directory.path), already=False))
    return record


def _checked(recipe: Recipe, tasks: Sequence[Task]) -> list[Task]:
    """The tasks without the validation rows that stand in the place of the test rows, which would seem to leak."""
    return [replace(task, validation=()) if recipe.measure_on == "validation" else task for task in tasks]


def _stages(
    directory: RunDirectory, recipe: Recipe, learner: Learner, tasks: Sequence[Task], on_event: OnEvent
) -> tuple[dict[int, Row], Learner]:
    """Row 0, then each stage; complete ones are read, the first incomplete one begins from the one before it. Returns
    the rows, and the learner that the host belongs to by then."""
    learner.on_event = on_event
    stages = learner.method.curriculum.stages(tasks)
    before = directory.stage_folder(0, BEFORE)
    first = tasks if recipe.matrix == "full" else []
    rows = {0: directory.read_row(before) or _measure(directory, before, learner, tasks, 0, first, {}, None, on_event)}
    last_complete = before
    on_event(RowMeasured(number=0, scores=rows[0].scores, tasks=[task.name for task in tasks]))
    for number, stage in enumerate(stages, start=1):
        folder = directory.stage_folder(stage.row, stage.name)
        row = directory.read_row(folder)
        if row is None:
            on_event(StageStarted(number=number, stages=len(stages), name=stage.name))
            learner = _ready(learner, recipe, stage, last_complete, rows, on_event)
            started = time.monotonic()
            learner.learn(*stage.tasks)
            seconds = time.monotonic() - started
            measured = _measured(recipe, stage, tasks)
            row = _measure(directory, folder, learner, tasks, stage.row, measured, rows, seconds, on_event)
        rows[stage.row], last_complete = row, folder
        on_event(RowMeasured(number=stage.row, scores=row.scores, tasks=[task.name for task in tasks]))
    return rows, learner


def _as_saved(learner: Learner, recipe: Recipe, directory: RunDirectory) -> Callable[[Path], Learner]:
    """From a stage's folder to the learner as it was then, in the one host; the learner before it makes room."""
    before = directory.stage_folder(0, BEFORE)

    def as_saved(folder: Path) -> Learner:
        nonlocal learner
        learner.remove()
        learner = _learner(learner.host, learner.method, recipe)
        if folder != before:  # where nothing was learnt, and nothing saved
            learner.restore(checkpoint.read(folder), str(folder))
        return learner

    return as_saved


def _end_tasks(recipe: Recipe, method: Method, tasks: Sequence[Task], host: Host) -> list[Task]:
    """The end tasks that the run asks for, checked."""
    ends = end_tasks_of(recipe.end_tasks, [task.name for task in tasks], recipe.data, host)
    if ends and method.curriculum.needs_task_at_test:
        raise RecipeError(
            f"end_tasks: {method.display_name} ends with a model for each task, and no last one to copy. "
            "Set end_tasks.after=never."
        )
    return ends


def _measured_ends(
    directory: RunDirectory,
    recipe: Recipe,
    method: Method,
    tasks: Sequence[Task],
    ends: Sequence[Task],
    as_saved: Callable[[Path], Learner],
    on_event: OnEvent,
) -> EndTaskRecord | None:
    """The end tasks after the last stage, or each: copies of the learner as it was saved there."""
    if not ends or recipe.end_tasks is None:
        return None
    stages = method.curriculum.stages(tasks)
    if recipe.end_tasks.after == "last":
        stages = stages[-1:]
    folders = [(stage.name, directory.stage_folder(stage.row, stage.name)) for stage in stages]
    return measure_end_tasks(directory.path / "end_tasks", folders, ends, recipe.end_tasks, as_saved, on_event)


def _measured_abilities(
    directory: RunDirectory,
    recipe: Recipe,
    method: Method,
    tasks: Sequence[Task],
    abilities: Sequence[AbilityTask],
    as_saved: Callable[[Path], Learner],
    on_event: OnEvent,
) -> AbilityRecord | None:
    """Base ability before any task and after the last one, or each."""
    if recipe.base_ability is None:
        return None
    stages = measured_stages(recipe.base_ability, method.curriculum.stages(tasks))
    folders = [(BEFORE, directory.stage_folder(0, BEFORE))]
    folders += [(stage.name, directory.stage_folder(stage.row, stage.name)) for stage in stages]
    return measure_abilities(
        directory.path / "base_ability", folders, abilities, recipe.base_ability, as_saved, on_event
    )


def _head_warning(host: Host, tasks: Sequence[Task]) -> str | None:
    """What one should know of the masked-LM head: a random one has everything to learn."""
    if host.family.head is None or all(task.kind == "answer" for task in tasks):
        return None
    if host.family.head.mlm.pretrained:
        return None
    return (
        f"The model '{host.name}' came without its masked-LM head. A random one takes its place, the same for every "
        "seed, and is learnt with the texts: perplexities begin near chance."
    )


def _measured(recipe: Recipe, stage: Stage, tasks: Sequence[Task]) -> Sequence[Task]:
    """The tasks that are scored anew after a stage: as its curriculum says, or fewer if the recipe wants fewer."""
    if stage.afresh or recipe.matrix == "full":
        return stage.measured
    if recipe.matrix == "seen":
        return stage.measured[: stage.row]
    return stage.measured if stage.row == len(tasks) else []


def _ready(
    learner: Learner, recipe: Recipe, stage: Stage, last_complete: Path, rows: dict[int, Row], on_event: OnEvent
) -> Learner:
    """The learner from which a stage begins."""
    if stage.afresh and learner.state.tasks:
        learner.remove()
        learner = _learner(learner.host, learner.method, recipe)
        learner.on_event = on_event
    elif not stage.afresh and not learner.state.tasks and max(rows) > 0:
        learner.restore(checkpoint.read(last_complete), str(last_complete))
        on_event(Resumed(folder=str(last_complete), tasks=list(learner.state.tasks)))
    return learner


def _measure(
    directory: RunDirectory,
    folder: Path,
    learner: Learner,
    tasks: Sequence[Task],
    number: int,
    measured: Sequence[Task],
    rows: dict[int, Row],
    train_seconds: float | None,
    on_event: OnEvent,
) -> Row:
    """Score the measured tasks, and commit the row with the learner it belongs to."""
    on_event(EvaluationStarted(row=number, tasks=len(measured)))
    started = time.monotonic()
    asked = [task for task in measured if task.kind == "answer"]
    answers = learner.answer(asked) if asked else []
    scores = {task.name: (task, score(task, texts)) for task, texts in zip(asked, answers, strict=True)}
    read = {task.name: learner.measure_text(task) for task in measured if task.kind == "text"}
    found = {name: one for name, (_, one) in scores.items()} | read
    # A task whose own, unchanged copy answers it keeps its score: that is what "independent" means.
    kept = rows.get(number - 1) if number > 1 and not learner.method.curriculum.continues else None
    row = Row(
        row=number,
        scores=[_of(found, task, "value", kept.scores[i] if kept else None) for i, task in enumerate(tasks)],
        valid=[_of(found, task, "valid", kept.valid[i] if kept else None) for i, task in enumerate(tasks)],
        perplexity=(
            [_of(found, task, "perplexity", kept.perplexity[i] if kept else None) for i, task in enumerate(tasks)]
            if any(task.kind == "text" for task in tasks)
            else []
        ),
        train_seconds=train_seconds,
        train_tokens=learner.work.tokens if number else None,
        train_positions=learner.work.positions if number else None,
        evaluate_seconds=time.monotonic() - started,
        trainable_parameters=sum(group.size for group in learner.trainable()) if number else None,
        stored_parameters=learner.stored_parameters() + (kept.stored_parameters if kept else 0),
        peak_rss_bytes=peak_rss_bytes(),
    )
    gates = {task.name: mean_gates(learner, task) for task in measured} if has_gates(learner) else {}
    directory.write_stage(folder, row, learner, scores, gates, read)
    return row


def _of(found: Mapping[str, TaskScore | TextScore], task: Task, what: str, otherwise: float | None) -> float | None:
    return getattr(found[task.name], what, None) if task.name in found else otherwise


def _learner(host: Host, method: Method, recipe: Recipe) -> Learner:
    optim, decoding = recipe.optim, recipe.evaluation
    return Learner(host, method, seed=recipe.seed, optim=optim, decoding=decoding, head=recipe.head)


def _record(
    recipe: Recipe,
    method: Method,
    tasks: Sequence[Task],
    rows: dict[int, Row],
    protocol: dict[str, object],
    ends: EndTaskRecord | None,
    abilities: AbilityRecord | None,
) -> Record:
    numbers = range(len(tasks) + 1)
    undefined: list[float | None] = [None] * len(tasks)
    matrix = [rows[number].scores if number in rows else undefined for number in numbers]
    last, learnt = rows[len(tasks)], [rows.get(number) for number in numbers[1:]]
    found = metrics(matrix, [len(task.test) for task in tasks])
    return Record(
        method=recipe.method,
        title=method.title,
        parameters=recipe.parameters,
        stream=recipe.stream_name,
        tasks=[task.name for task in tasks],
        model=recipe.model,
        seed=recipe.seed,
        metric=" / ".join(sorted({task.metric for task in tasks})),
        matrix=matrix,
        perplexity=(
            [rows[number].perplexity if number in rows else undefined for number in numbers]
            if any(task.kind == "text" for task in tasks)
            else None
        ),
        valid_answers=[rows[number].valid if number in rows else undefined for number in numbers],
        average_accuracy=found.average_accuracy,
        learning_accuracy=found.learning_accuracy,
        pooled_accuracy=found.pooled_accuracy,
        forgetting=found.forgetting,
        backward_transfer=found.backward_transfer,
        forward_transfer=found.forward_transfer,
        trainable_parameters=last.trainable_parameters or 0,
        trainable_parameters_per_task=[
            rows[number].trainable_parameters if number in rows else None for number in numbers[1:]
        ],
        stored_parameters=last.stored_parameters,
        seconds=Seconds(
            train=[rows[number].train_seconds if number in rows else None for number in numbers[1:]],
            evaluate=[rows[number].evaluate_seconds if number in rows else None for number in numbers],
            tokens_per_second=_speed(learnt),
        ),
        training=_tokens(learnt),
        end_tasks=ends,
        base_ability=abilities,
        peak_rss_bytes=max(row.peak_rss_bytes for row in rows.values()),
        protocol=protocol,
        protocol_hash=hash_of(protocol),
        definitions=DEFINITIONS | ({"perplexity": PERPLEXITY} if any(task.kind == "text" for task in tasks) else {}),
    )


def _tokens(rows: Sequence[Row | None]) -> Tokens:
    """rows: each task's, None for a task that has none of its own."""
    tokens = sum(row.train_tokens or 0 for row in rows if row)
    positions = sum(row.train_positions or 0 for row in rows if row)
    return Tokens(
        tokens=[row.train_tokens if row else None for row in rows],
        positions=[row.train_positions if row else None for row in rows],
        padding_share=1 - tokens / positions if positions else None,
    )


def _speed(rows: Sequence[Row | None]) -> float | None:
    """Tokens per second of learning, over the tasks for which they were counted."""
    counted = [(row.train_tokens, row.train_seconds) for row in rows if row and row.train_tokens and row.train_seconds]
    return sum(tokens for tokens, _ in counted) / sum(seconds for _, seconds in counted) if counted else None


def peak_rss_bytes() -> int:
    """The most main memory this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
