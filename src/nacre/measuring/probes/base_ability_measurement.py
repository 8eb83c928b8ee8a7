"""Base ability measured in a run: each stage and benchmark gives one result.

Each is a file of its own in the run's folder: `base_ability/NN-stage/TASK.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacre.evaluation.base_ability.benchmarks import AbilityTask, load_ability_tasks
from nacre.evaluation.base_ability.harness import STOPS, check_host, room
from nacre.evaluation.base_ability.measure import measure_ability
from nacre.evaluation.base_ability.scores import AbilityScore
from nacre.events import OnEvent, ProbeMeasured, ProbeStarted
from nacre.learning.learner import Learner
from nacre.measuring.probes.base_ability import BaseAbility
from nacre.measuring.probes.probe import Measurement, SavedStage
from nacre.measuring.probes.stored import read_result, write_result
from nacre.models.host import Host
from nacre.records.base_ability import AbilityRecord, record_of
from nacre.records.probe import BEFORE
from nacre.tasks.task import Task


def prepare(settings: BaseAbility, _corpora: Sequence[str], _data: str | None, host: Host) -> AbilityMeasurement:
    """See `Probe.prepare`."""
    check_host(host)
    return AbilityMeasurement(settings, load_ability_tasks(settings.tasks, settings.data, settings.limit), host)


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

    def score(self, task: AbilityTask, host: Host) -> AbilityScore:
        """Measure a benchmark.

        Args:
            task: One of the benchmarks.
            host: With what was learned in it.
        """
        return measure_ability(
            host,
            task,
            batch_size=self.settings.batch_size,
            max_new_tokens=self.settings.max_new_tokens,
            run_generated_code=self.settings.run_generated_code,
        )

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
                    score = self.score(task, learner.host)
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
