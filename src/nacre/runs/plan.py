"""What a recipe would do, found out without a model, without a step, and without writing anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nacre.errors import RecipeError
from nacre.learning.batches import steps_per_epoch
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.parts.curriculum import Stage
from nacre.parts.part import Part
from nacre.per_task import PerTask, value_of
from nacre.registry import per_task_parameters
from nacre.runs.directory import FolderState, RunDirectory
from nacre.runs.estimate import Estimate
from nacre.runs.memory import MemoryNeed, memory_need
from nacre.runs.recipe import MatrixKind, Recipe, places
from nacre.tasks.published.streams import get_stream
from nacre.tasks.reading.hub import PREFIX
from nacre.tasks.task import Task
from nacre.tasks.template import Template


class PlannedPart(BaseModel):
    """A part by its key, and with its settings."""

    model_config = ConfigDict(frozen=True)

    key: str
    settings: str


class PlannedStage(BaseModel):
    """One call of `learn`.

    Numbers are None where they are not known without the data, without having trained or, of the steps on unlabeled
    text, without the tokenizer.

    Attributes:
        name: The stage's.
        tasks: Those that it learns.
        task_number: As the learner counts, from 1; 1 for a fresh copy.
        rows: New training rows.
        kept: Rows that a memory gives back.
        epochs: Over all rows.
        learning_rate: Of the stage.
        steps: Of the optimizer.
        penalties: Each penalty's weight, by key.
        answers: Test rows that are answered, or measured as texts, once the stage is learned.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    tasks: list[str]
    task_number: int
    rows: int | None
    kept: int | None
    epochs: int
    learning_rate: float
    steps: int | None
    penalties: dict[str, float]
    answers: int | None


class RunPlan(BaseModel):
    """A recipe with everything worked out.

    Attributes:
        title: The method's.
        adapter: With its settings, like the other parts.
        start: How a new task's parameters begin.
        penalties: Terms added to the loss.
        gradient_rules: What acts between gradients and step, in its order.
        memory: What is kept of past tasks' data.
        curriculum: In which order tasks are learned.
        stages: What is learned, call by call.
        answers: Test rows that are answered in all, those before any learning included; None without the data. Probes
            are not counted.
        folder: How far a run in the output folder has come.
        needs: What it needs of memory at least; None where the model is not there, or its values decide.
        estimate: What it takes, where that was asked for.
        missing: What a real run would not find, a sentence each.
        recipe: With every default written out.
    """

    model_config = ConfigDict(frozen=True)

    title: str
    adapter: str
    start: PlannedPart
    penalties: list[PlannedPart]
    gradient_rules: list[PlannedPart]
    memory: PlannedPart | None
    curriculum: str
    stages: list[PlannedStage]
    answers: int | None
    folder: FolderState
    missing: list[str]
    needs: MemoryNeed | None = None
    estimate: Estimate | None = None
    recipe: Recipe


def plan_of(recipe: Recipe) -> RunPlan:
    """Find out what `run` would do with a recipe.

    Data that are not there leave the numbers of rows and steps open and are named in `missing`. Everything else that
    would stop a run before its first step is raised as it would be there, except what only the model can tell.

    Args:
        recipe: What would be run.

    Raises:
        NacreError: What would stop the run.
    """
    method = recipe.build()
    recipe = recipe.completed()
    if recipe.optim.gradient_checkpointing:
        method.check_computed_again()
    for probe in recipe.probes.values():
        probe.check(method)
    unset: dict[str, str] = {}  # a place's key -> why it is not known
    for key in places():
        try:
            recipe = recipe.placed(key)
        except RecipeError as error:
            unset[key] = str(error)
    directory = RunDirectory(Path(recipe.output or ""))
    if not unset:
        directory.check_place()
        directory.check_same(recipe)
    no_data = unset.get("data") or _without_data(recipe)
    missing = [*unset.values(), *([no_data] if no_data and "data" not in unset else [])]
    for key, probe in recipe.probes.items():
        known = all(f"{key}.{place}" not in unset for place in probe.places)
        if known and (no_rows := probe.missing()) is not None:
            missing.append(no_rows)
    tasks = [_unread(name) for name in recipe.task_names] if no_data else recipe.tasks()
    stages = method.curriculum.stages(tasks)
    check_lists(method, recipe.optim, stages)
    recipe.evaluation.check_method(method, recipe.head)
    if not no_data:
        recipe.evaluation.check(tasks)
    needs = None if "model" in unset else memory_need(recipe, method, len(tasks))
    if needs is not None and (refusal := needs.refusal()) is not None:
        missing.append(refusal)
    planned = _stages(method, recipe, stages, tasks, counted=not no_data)
    before = _rows(tasks) if recipe.matrix == "full" else 0
    return RunPlan(
        title=method.title,
        adapter=str(method.adapter),
        start=_planned(method.start),
        penalties=[_planned(part) for part in method.penalties],
        gradient_rules=[_planned(part) for part in method.gradient_rules],
        memory=None if method.memory is None else _planned(method.memory),
        curriculum=str(method.curriculum),
        stages=planned,
        answers=None if no_data else before + sum(stage.answers or 0 for stage in planned),
        folder=directory.state,
        missing=missing,
        needs=needs,
        recipe=recipe,
    )


def check_lists(method: Method, optim: Optim, stages: Sequence[Stage]) -> None:
    """Refuse a setting that lists more or fewer values than a learner counts tasks.

    A learner counts its own tasks: on a stream of four, one that learns in sequence comes to four; one that learns
    them all at once, or a fresh copy for each, never gets beyond the first value.

    Args:
        method: Whose parts' settings are checked.
        optim: Whose settings are checked.
        stages: Of the run.

    Raises:
        RecipeError: If a list has another length; it names the setting.
    """
    needed = max(task_numbers(stages))
    settings = {"optim.learning_rate": optim.learning_rate, "optim.epochs": optim.epochs, **per_task_parameters(method)}
    for name, value in settings.items():
        if isinstance(value, tuple) and len(value) != needed:
            raise RecipeError(
                f"{name} lists {len(value)} value(s), and {method.display_name} takes {needed} on this stream: give "
                "one for each task that a learner comes to, or a single one for all."
            )


def task_numbers(stages: Sequence[Stage]) -> list[int]:
    """What the learner's count of tasks is in each stage, from 1."""
    numbers: list[int] = []
    for stage in stages:
        numbers.append(1 if stage.afresh or not numbers else numbers[-1] + 1)
    return numbers


def scored_tasks(stage: Stage, tasks: Sequence[Task], matrix: MatrixKind) -> Sequence[Task]:
    """The tasks that are scored anew after a stage: as its curriculum says, or fewer if the recipe wants fewer.

    Args:
        stage: Of the run.
        tasks: The stream's.
        matrix: What the recipe wants.
    """
    if stage.afresh or matrix == "full":
        return stage.measured
    if matrix == "seen":
        return stage.measured[: stage.row]
    return stage.measured if stage.row == len(tasks) else ()


def _rows(tasks: Sequence[Task]) -> int:
    return sum(len(task.test) for task in tasks)


def _stages(
    method: Method, recipe: Recipe, stages: Sequence[Stage], tasks: Sequence[Task], counted: bool
) -> list[PlannedStage]:
    optim = recipe.optim
    planned: list[PlannedStage] = []
    kept: int | None = 0  # rows that the memory holds when a stage begins
    for stage, number in zip(stages, task_numbers(stages), strict=True):
        rows = sum(len(task.train) for task in stage.tasks) if counted else None
        packed = any(task.kind == "text" for task in stage.tasks)  # how many chunks, only the tokenizer can tell
        epochs = int(value_of(optim.epochs, number, "optim.epochs"))
        planned.append(
            PlannedStage(
                name=stage.name,
                tasks=[task.name for task in stage.tasks],
                task_number=number,
                rows=rows,
                kept=kept,
                epochs=epochs,
                learning_rate=value_of(_rate(method, optim), number, "optim.learning_rate"),
                steps=(
                    None
                    if rows is None or kept is None or packed
                    else epochs * steps_per_epoch(rows + kept, optim.batch_size)
                ),
                penalties=(
                    {part.key: part.weight(number) for part in method.penalties}
                    | {part.key: part.weight(number) for part in method.batch_terms}
                ),
                answers=_rows(scored_tasks(stage, tasks, recipe.matrix)) if counted else None,
            )
        )
        if method.memory is not None:
            sizes = [method.memory.size(len(task.train)) if counted else None for task in stage.tasks]
            kept = None if kept is None or None in sizes else kept + sum(size or 0 for size in sizes)
    return planned


def _rate(method: Method, optim: Optim) -> PerTask:
    return optim.learning_rate or method.adapter.learning_rate


def _without_data(recipe: Recipe) -> str | None:
    """Why the rows cannot be counted, as a sentence; None if they can."""
    if recipe.data is None:
        if recipe.stream_file is not None:
            return None
        if set(recipe.task_names) <= set(get_stream("demo").tasks):
            return None
        return "data: the folder that holds the stream's tasks is not given; pass --data."
    if recipe.data.startswith(PREFIX):
        return f"data: {recipe.data} is read over the network, which a dry run does not use."
    return None if Path(recipe.data).exists() else f"data: the folder {recipe.data} does not exist."


def _unread(name: str) -> Task:
    """A task of which only the name is known."""
    return Task(name=name, train=(), validation=(), test=(), template=Template())


def _planned(part: Part) -> PlannedPart:
    return PlannedPart(key=part.key, settings=str(part))
