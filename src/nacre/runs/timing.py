"""How long a run takes and what memory it needs, from a few of its steps and answers. Nothing is written."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from nacre.errors import RecipeError
from nacre.events import Event, StepTaken
from nacre.learning.learner import Learner
from nacre.measuring.measure import measure
from nacre.models.loading import load_host_as
from nacre.parts.curriculum import Stage
from nacre.runs.estimate import Estimate, StageEstimate
from nacre.runs.plan import PlannedStage, RunPlan, scored_tasks
from nacre.runs.results import peak_rss_bytes
from nacre.tasks.task import Task

STEPS = 4
"""Timed in each stage, behind a first one that warms up."""

ANSWERS = 32
"""Timed after each stage."""


def estimated(plan: RunPlan) -> RunPlan:
    """The plan with an estimate: every stage is learned in a few steps, in its order, and answers a few rows.

    So what grows with the tasks grows here too. The model is loaded.

    Args:
        plan: Of a run whose rows are known.

    Returns:
        The same plan with its estimate.

    Raises:
        RecipeError: If something is missing.
        NacreError: What would stop the run.
    """
    if plan.missing:
        raise RecipeError(f"--estimate needs all that a run needs. {plan.missing[0]}")
    recipe, started = plan.recipe, time.monotonic()
    host = load_host_as(recipe.model, recipe.loaded_as)
    timer = _StepTimer()
    learner = Learner(
        host,
        recipe.build(),
        seed=recipe.seed,
        optim=recipe.optim.model_copy(update={"epochs": 1, "log_every": 1}),
        decoding=recipe.evaluation,
        head=recipe.head,
        on_event=timer,
    )
    load = time.monotonic() - started
    tasks = recipe.tasks()
    share = math.ceil((STEPS + 1) * recipe.optim.batch_size / max(len(stage.tasks) for stage in plan.stages))
    few = [task.limited(train=share) for task in tasks]
    stages = []
    before = _seconds_an_answer(learner, tasks) * sum(len(task.test) for task in tasks)
    for stage, planned in zip(learner.method.curriculum.stages(few), plan.stages, strict=True):
        if stage.afresh and learner.state.tasks:
            learner = learner.restart()
        answered = scored_tasks(stage, tasks, recipe.matrix)
        stages.append(_of_stage(learner, stage, planned, answered, timer))
    on_device = learner.host.device.type == "cuda"
    return plan.model_copy(
        update={
            "estimate": Estimate(
                load=load,
                before=before if recipe.matrix == "full" else 0.0,
                stages=stages,
                memory_bytes=torch.cuda.max_memory_allocated() if on_device else peak_rss_bytes(),
                device="GPU" if on_device else "process",
                steps=STEPS,
                answers=ANSWERS,
            )
        }
    )


class _StepTimer:
    """An `on_event` that remembers when each step was over."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepTaken):
            self.times.append(time.monotonic())


def _of_stage(
    learner: Learner, stage: Stage, planned: PlannedStage, answered: Sequence[Task], timer: _StepTimer
) -> StageEstimate:
    timer.times.clear()
    started = time.monotonic()
    learner.learn(*stage.tasks)
    learned = time.monotonic() - started
    gaps = [later - earlier for earlier, later in zip(timer.times, timer.times[1:], strict=False)]
    step = statistics.median(gaps) if gaps else learned / max(1, len(timer.times))
    around = max(0.0, learned - step * len(timer.times))
    steps: float | None = planned.steps
    if steps is None:  # of texts, whose chunks only the tokenizer can count: in proportion to the rows
        steps = len(timer.times) * planned.epochs * (planned.rows or 0) / sum(len(task.train) for task in stage.tasks)
    answer = _seconds_an_answer(learner, answered)
    return StageEstimate(
        name=planned.name,
        step=step,
        around=around,
        answer=answer,
        train=steps * step + around,
        evaluate=answer * (planned.answers or 0),
    )


def _seconds_an_answer(learner: Learner, tasks: Sequence[Task]) -> float:
    """The mean over rows of all these tasks, each as often as it has rows."""
    rows = sum(len(task.test) for task in tasks)
    if not rows:
        return 0.0
    shares = [max(1, round(ANSWERS * len(task.test) / rows)) for task in tasks]
    few = [replace(task, test=task.limited(test=share).test) for task, share in zip(tasks, shares, strict=True)]
    return measure(learner, few).seconds / sum(len(task.test) for task in few)
