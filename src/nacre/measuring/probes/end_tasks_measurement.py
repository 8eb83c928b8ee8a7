"""End tasks measured: each stage, task and seed gives one result, from a copy that is fine-tuned.

Each is a file of its own in the run's folder: `end_tasks/NN-corpus/task-seedS.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nacre.adapters.merged import merged_copy
from nacre.errors import RecipeError
from nacre.evaluation.scoring import check_metric, score
from nacre.events import OnEvent, ProbeMeasured, ProbeStarted, only_warn
from nacre.learning.learner import Learner
from nacre.measuring.probes.end_tasks import FineTuning
from nacre.measuring.probes.probe import Measurement, SavedStage
from nacre.measuring.probes.stored import read_result, write_result
from nacre.methods.seq_ft import seq_ft
from nacre.models.host import Host
from nacre.records.end_tasks import EndResult, EndTaskRecord, average
from nacre.tasks.content import task_content
from nacre.tasks.published.das import END_TASKS, EndTask
from nacre.tasks.reading.end_tasks import load_end_task
from nacre.tasks.reading.hub import PREFIX
from nacre.tasks.task import Task


def prepare(settings: FineTuning, corpora: Sequence[str], data: str | None, host: Host) -> EndTaskMeasurement | None:
    """See `Probe.prepare`."""
    if settings.after == "never":
        return None
    if unknown := [corpus for corpus in corpora if corpus not in END_TASKS]:
        raise RecipeError(
            f"end_tasks: '{unknown[0]}' has no end task; {', '.join(END_TASKS)} have. Set end_tasks.after=never."
        )
    if host.family.head is None:
        raise RecipeError(
            f"end_tasks: copies of an encoder-only host are fine-tuned, and '{host.name}' is {host.family.name}. "
            "Set end_tasks.after=never."
        )
    if data is None or data.startswith(PREFIX):
        raise RecipeError("end_tasks: they are read from a folder; pass it as --data, or set end_tasks.after=never.")
    separator = host.tokenizer.sep_token or host.tokenizer.eos_token
    tasks = [load_end_task(END_TASKS[corpus], data, separator) for corpus in corpora]
    for task in tasks:
        check_metric(task)
    return EndTaskMeasurement(settings, [task.limited(settings.limit_train, settings.limit_test) for task in tasks])


@dataclass(frozen=True)
class EndTaskMeasurement(Measurement):
    """End tasks with their rows.

    Attributes:
        settings: How copies are fine-tuned.
        tasks: The domains' end tasks, in the stream's order.
    """

    settings: FineTuning
    tasks: Sequence[Task]

    @property
    def checked(self) -> Sequence[Task]:
        return self.tasks

    def protocol(self) -> dict[str, Any]:
        settings = self.settings.model_dump(mode="json")
        return {"settings": settings, "tasks": [task_content(task) for task in self.tasks]}

    def stages(self, stages: Sequence[SavedStage]) -> Sequence[SavedStage]:
        return stages[-1:] if self.settings.after == "last" else stages[1:]

    def measure(
        self, folder: Path, stages: Sequence[SavedStage], learner_of: Callable[[Path], Learner], on_event: OnEvent
    ) -> EndTaskRecord:
        results: list[EndResult] = []
        for after, stage in stages:
            learner: Learner | None = None
            for task in self.tasks:
                for seed in self.settings.seeds:
                    file = folder / stage.name / f"{task.name}-seed{seed}.json"
                    result = read_result(EndResult, file, stage)
                    if result is None:
                        on_event(ProbeStarted("end_task", {"after": after, "task": task.name, "seed": seed}))
                        learner = learner or learner_of(stage)
                        result = fine_tuned(learner, _end_of(task), task, self.settings, seed, after)
                        write_result(result, file, stage)
                    on_event(_measured(result))
                    results.append(result.model_copy(update={"answers": []}))
        return EndTaskRecord(results=results, averages=[average(after, results) for after, _ in stages])


def fine_tuned(
    learner: Learner, end: EndTask, task: Task, settings: FineTuning, seed: int, after: str = ""
) -> EndResult:
    """Fine-tune a copy of the learner's encoder on one end task, every parameter of it; the learner stays as it is.

    Where the method must be given each row's task, the copy is of what answers the end task's domain.

    The result depends on the encoder, the task, the settings and the seed, and on nothing that ran before.

    Args:
        learner: Whose encoder is copied.
        end: The end task.
        task: Its rows.
        settings: How the copy is trained.
        seed: Of everything random.
        after: The domain that was learned last.
    """
    started = time.monotonic()
    with learner.as_task(end.corpus):
        copied = merged_copy(learner.host.body)
    host = Host(copied, learner.host.tokenizer, name=learner.host.name)
    optim = settings.optim(end.epochs)
    decoding = learner.decoding.of_own_task()
    tuned = Learner(host, seq_ft(), seed=seed, optim=optim, decoding=decoding, on_event=only_warn)
    tuned.learn(task)
    (answers,) = tuned.answer([task])
    scored = score(replace(task, metric="macro_f1"), answers)
    return EndResult(
        after=after,
        corpus=end.corpus,
        task=task.name,
        seed=seed,
        train_rows=len(task.train),
        test_rows=len(task.test),
        accuracy=scored.accuracy,
        macro_f1=scored.value,
        # Every answer is one of the labels and every row has one, so that micro-F1 is the accuracy.
        f1=scored.accuracy if end.f1 == "micro" else scored.value,
        seconds=time.monotonic() - started,
        answers=list(answers),
    )


def _end_of(task: Task) -> EndTask:
    return next(end for end in END_TASKS.values() if end.name == task.name)


def _measured(result: EndResult) -> ProbeMeasured:
    place = {"after": result.after, "task": result.task, "seed": result.seed}
    return ProbeMeasured(
        "end_result",
        {**place, "f1": result.f1, "accuracy": result.accuracy},
        f"after {result.after}: {result.task}, seed {result.seed}: F1 {100 * result.f1:.1f}, "
        f"accuracy {100 * result.accuracy:.1f}",
    )
