"""Base ability in a run: measured at each stage that the recipe names, from the learner as it was saved there.

One result a stage and task, each a file of the run's folder: ``base_ability/NN-stage/TASK.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nacre.errors import CheckpointError, RecipeError
from nacre.evaluation.base_ability.benchmarks import AbilityTask, load_ability_tasks
from nacre.evaluation.base_ability.harness import STOPS, check_host, lm_eval, room
from nacre.evaluation.base_ability.measure import check_consent, measure_ability
from nacre.evaluation.base_ability.programs import containment
from nacre.evaluation.base_ability.scores import AbilityScore
from nacre.events import OnEvent, ProbeMeasured, ProbeStarted
from nacre.files import to_json, write_atomically
from nacre.learning.learner import Learner
from nacre.method import Method
from nacre.models.host import Host
from nacre.parts.curriculum import Stage
from nacre.records.base_ability import BEFORE, AbilityRecord, record_of
from nacre.runs.probes.base_ability_settings import BaseAbility


def check_abilities(settings: BaseAbility | None, method: Method) -> None:
    """Raise ``NacreError`` for what needs neither data nor model to be seen: a task twice, programs that nobody has
    allowed to run or that cannot be contained here, no single model at the end, a library that is not installed."""
    if settings is None:
        return
    if len(set(settings.tasks)) < len(settings.tasks):
        raise RecipeError(f"base_ability.tasks: {', '.join(settings.tasks)} names a task twice.")
    check_consent(settings.tasks, settings.run_generated_code)
    if method.curriculum.needs_task_at_test and settings.when == "ends":
        raise RecipeError(
            f"base_ability: {method.display_name} ends with a model for each task, and no last one to measure. "
            "Set base_ability.when=every."
        )
    lm_eval("")
    if "humaneval" in settings.tasks:
        containment()


def ability_tasks_of(settings: BaseAbility | None, host: Host | None = None) -> list[AbilityTask]:
    """The benchmarks that a run asks for, with their rows; none if it asks for none. host: checked, where there is one.

    Raises ``ModelError`` for a host that cannot be measured, ``DataError`` for what is wrong with the rows.
    """
    if settings is None:
        return []
    if host is not None:
        check_host(host)
    return load_ability_tasks(settings.tasks, settings.data, settings.limit)


def described(settings: BaseAbility, tasks: Sequence[AbilityTask], host: Host) -> dict[str, Any]:
    """For a run's protocol: everything but when, from where and how many at once."""
    found: dict[str, Any] = {
        "prompts and scoring": "lm-eval, no examples shown",
        "tasks": [task.described() for task in tasks],
    }
    for task in tasks:
        if task.name == "humaneval":
            found["programs"] = {
                "prompt": "raw",
                "decoding": "greedy, one program",
                "ends": list(STOPS),
                "max_new_tokens": room(host, task, settings.max_new_tokens),
            }
    return found


def measured_stages(settings: BaseAbility, stages: Sequence[Stage]) -> list[Stage]:
    """The stages after which is measured."""
    return list(stages) if settings.when == "every" else list(stages[-1:])


def measure_abilities(
    folder: Path,
    stages: Sequence[tuple[str, Path]],
    tasks: Sequence[AbilityTask],
    settings: BaseAbility,
    learner_of: Callable[[Path], Learner],
    on_event: OnEvent,
) -> AbilityRecord:
    """Measure what is not there yet, and read the rest.

    folder: of the results. stages: before any task and after those that count, each with its folder in the run, from
    which ``learner_of`` makes the learner.
    """
    scores: list[list[AbilityScore]] = []
    for after, stage in stages:
        learner: Learner | None = None
        found: list[AbilityScore] = []
        for task in tasks:
            file = folder / stage.name / f"{task.name}.json"
            score = _read(file)
            if score is None:
                on_event(ProbeStarted("ability", {"after": after, "task": task.name}))
                learner = learner or learner_of(stage)
                score = measure_ability(
                    learner.host,
                    task,
                    batch_size=settings.batch_size,
                    max_new_tokens=settings.max_new_tokens,
                    run_generated_code=settings.run_generated_code,
                )
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, to_json(score.model_dump(mode="json"), indent=None) + "\n")
            on_event(_measured(after, score))
            found.append(score)
        scores.append(found)
    return record_of([after for after, _ in stages], scores)


def _measured(after: str, score: AbilityScore) -> ProbeMeasured:
    values = {metric: one.value for metric, one in score.scores.items()}
    shown = ", ".join(f"{metric} {100 * value:.1f}" for metric, value in values.items())
    return ProbeMeasured(
        "ability_result",
        {"after": after, "task": score.task, "scores": values},
        f"base ability, {'' if after == BEFORE else 'after '}{after}: {score.task}, {shown}",
    )


def _read(file: Path) -> AbilityScore | None:
    if not file.exists():
        return None
    try:
        return AbilityScore.model_validate_json(file.read_text())
    except (ValidationError, UnicodeDecodeError):
        raise CheckpointError(f"{file} is damaged; delete it, and the same command measures it again.") from None
