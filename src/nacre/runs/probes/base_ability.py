"""Base ability in a run: published benchmarks, measured of the learner as it was saved at each stage that counts.

Each stage and benchmark gives one result, a file of its own in the run's folder: `base_ability/NN-stage/TASK.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from nacre.errors import RecipeError
from nacre.evaluation.base_ability.benchmarks import AbilityName, AbilityTask, load_ability_tasks
from nacre.evaluation.base_ability.harness import STOPS, check_host, lm_eval, room
from nacre.evaluation.base_ability.measure import check_consent, measure_ability
from nacre.evaluation.base_ability.programs import containment
from nacre.evaluation.base_ability.scores import AbilityScore
from nacre.events import OnEvent, ProbeMeasured, ProbeStarted
from nacre.learning.learner import Learner
from nacre.method import Method
from nacre.models.host import Host
from nacre.records.base_ability import AbilityRecord, record_of
from nacre.records.probe import BEFORE
from nacre.runs.probes.probe import Measurement, Probe, SavedStage, read_result, write_result
from nacre.settings import AS_LIST
from nacre.tasks.task import Task

DEFAULT_TASKS: tuple[AbilityName, ...] = ("hellaswag", "winogrande", "arc_challenge")


class BaseAbility(Probe):
    """Published benchmarks of what pre-training taught, before and after the stream (`evaluation.base_ability`)."""

    places: ClassVar[tuple[str, ...]] = ("data",)

    tasks: Annotated[tuple[AbilityName, ...], AS_LIST] = Field(default=DEFAULT_TASKS, min_length=1)
    data: str | None = Field(default=None, description="a folder with TASK/test.jsonl; None: the Hugging Face datasets")
    when: Literal["ends", "every"] = Field(
        default="ends", description="before and after the stream, or before it and after every task"
    )
    limit: int | None = Field(default=None, ge=1, description="rows of a task, at most: its first ones")
    run_generated_code: bool = Field(
        default=False, description="whether humaneval may run the programs that the model writes"
    )
    max_new_tokens: int = Field(default=1024, ge=1, description="of a program, at most")
    batch_size: int = Field(default=16, ge=1, description="inputs measured at once")

    def check(self, method: Method) -> None:
        if len(set(self.tasks)) < len(self.tasks):
            raise RecipeError(f"base_ability.tasks: {', '.join(self.tasks)} names a task twice.")
        check_consent(self.tasks, self.run_generated_code)
        if method.curriculum.needs_task_at_test and self.when == "ends":
            raise RecipeError(
                f"base_ability: {method.display_name} ends with a model for each task, not with a last one to measure. "
                "Set base_ability.when=every."
            )
        if method.traits["task identity at test"] and not method.curriculum.needs_task_at_test:
            raise RecipeError(
                f"base_ability: {method.display_name} must be given the task of every input, and a benchmark is none "
                "of the stream's tasks. Leave base_ability out."
            )
        lm_eval("")
        if "humaneval" in self.tasks:
            containment()

    def missing(self) -> str | None:
        if self.data is None:
            return "base_ability: its rows are read from the cache or over the network, which a dry run does not use."
        if not Path(self.data).exists():
            return f"base_ability.data: the folder {self.data} does not exist."
        load_ability_tasks(self.tasks, self.data, self.limit)
        return None

    def summary(self) -> str | None:
        when = "before and after the stream" if self.when == "ends" else "before it and after every task"
        return f"{', '.join(self.tasks)}, {when}; rows from {self.data or 'the Hugging Face Hub'}"

    def prepare(self, corpora: Sequence[str], data: str | None, host: Host) -> AbilityMeasurement:
        check_host(host)
        return AbilityMeasurement(self, load_ability_tasks(self.tasks, self.data, self.limit), host)


@dataclass(frozen=True)
class AbilityMeasurement(Measurement):
    """Benchmarks with their rows.

    Attributes:
        settings: What is measured, and when.
        tasks: The benchmarks.
        host: The pretrained model.
    """

    settings: BaseAbility
    tasks: Sequence[AbilityTask]
    host: Host

    @property
    def checked(self) -> Sequence[Task]:
        return ()

    def protocol(self) -> dict[str, Any]:
        """Everything but when, from where and how many at once."""
        entries: dict[str, Any] = {
            "prompts and scoring": "lm-eval, no examples shown",
            "tasks": [task.described() for task in self.tasks],
        }
        for task in self.tasks:
            if task.name == "humaneval":
                entries["programs"] = {
                    "prompt": "raw",
                    "decoding": "greedy, one program",
                    "ends": list(STOPS),
                    "max_new_tokens": room(self.host, task, self.settings.max_new_tokens),
                }
        return entries

    def stages(self, stages: Sequence[SavedStage]) -> Sequence[SavedStage]:
        return stages if self.settings.when == "every" else [stages[0], stages[-1]]

    def measure(
        self, folder: Path, stages: Sequence[SavedStage], learner_of: Callable[[Path], Learner], on_event: OnEvent
    ) -> AbilityRecord:
        scores: list[list[AbilityScore]] = []
        for after, stage in stages:
            learner: Learner | None = None
            of_stage: list[AbilityScore] = []
            for task in self.tasks:
                file = folder / stage.name / f"{task.name}.json"
                score = read_result(AbilityScore, file, stage)
                if score is None:
                    on_event(ProbeStarted("ability", {"after": after, "task": task.name}))
                    learner = learner or learner_of(stage)
                    score = measure_ability(
                        learner.host,
                        task,
                        batch_size=self.settings.batch_size,
                        max_new_tokens=self.settings.max_new_tokens,
                        run_generated_code=self.settings.run_generated_code,
                    )
                    write_result(score, file, stage, indent=None)
                on_event(_measured(after, score))
                of_stage.append(score)
            scores.append(of_stage)
        return record_of([after for after, _ in stages], scores)


def _measured(after: str, score: AbilityScore) -> ProbeMeasured:
    values = {metric: mean.value for metric, mean in score.scores.items()}
    shown = ", ".join(f"{metric} {100 * value:.1f}" for metric, value in values.items())
    return ProbeMeasured(
        "ability_result",
        {"after": after, "task": score.task, "scores": values},
        f"base ability, {'' if after == BEFORE else 'after '}{after}: {score.task}, {shown}",
    )
