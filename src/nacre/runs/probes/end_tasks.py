"""End tasks: what a model has gained from the texts it read, measured by copies that are fine-tuned (DAS, order 7).

One result a stage, task and seed, each a file of the run's folder: ``end_tasks/NN-corpus/task-seedS.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from nacre.adapters.merged import merged_copy
from nacre.errors import CheckpointError, RecipeError
from nacre.evaluation.scoring import check_metric, score
from nacre.events import OnEvent, ProbeMeasured, ProbeStarted
from nacre.files import to_json, write_atomically
from nacre.learning.learner import Learner
from nacre.methods.seq_ft import seq_ft
from nacre.models.host import Host
from nacre.records.end_tasks import EndResult, EndTaskRecord, average
from nacre.runs.probes.fine_tuning import FineTuning
from nacre.tasks.published.das import END_TASKS, EndTask
from nacre.tasks.reading.end_tasks import load_end_task
from nacre.tasks.reading.hub import PREFIX
from nacre.tasks.task import Task


def end_tasks_of(settings: FineTuning | None, corpora: Sequence[str], data: str | None, host: Host) -> list[Task]:
    """The domains' end tasks, in the stream's order; none if the run wants none.

    Raises ``RecipeError`` if a domain has none, if the host cannot be fine-tuned on them, or if there is no folder to
    read them from; ``DataError`` for what is wrong with their rows.
    """
    if settings is None or settings.after == "never":
        return []
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
    return [task.limited(settings.limit_train, settings.limit_test) for task in tasks]


def measure_end_tasks(
    folder: Path,
    stages: Sequence[tuple[str, Path]],
    tasks: Sequence[Task],
    settings: FineTuning,
    learner_of: Callable[[Path], Learner],
    on_event: OnEvent,
) -> EndTaskRecord:
    """Fine-tune what is not there yet, and read the rest.

    folder: of the results. stages: the domains after which is measured, each with its learner's folder, from which
    ``learner_of`` makes the learner.
    """
    results: list[EndResult] = []
    for after, stage in stages:
        learner: Learner | None = None
        for end, task in zip(map(_end_of, tasks), tasks, strict=True):
            for seed in settings.seeds:
                file = folder / stage.name / f"{task.name}-seed{seed}.json"
                result = _read(file)
                if result is None:
                    on_event(ProbeStarted("end_task", {"after": after, "task": task.name, "seed": seed}))
                    learner = learner or learner_of(stage)
                    result = fine_tuned(learner, end, task, settings, seed, after)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(file, to_json(result.model_dump()) + "\n")
                on_event(_measured(result))
                results.append(result.model_copy(update={"answers": []}))
    return EndTaskRecord(results=results, averages=[average(after, results) for after, _ in stages])


def fine_tuned(
    learner: Learner, end: EndTask, task: Task, settings: FineTuning, seed: int, after: str = ""
) -> EndResult:
    """Fine-tune a copy of the learner's encoder on one end task, every parameter of it; the learner stays as it is.

    The result depends on the encoder, the task, the settings and the seed, and on nothing that ran before.
    """
    started = time.monotonic()
    host = Host(merged_copy(learner.host.body), learner.host.tokenizer, name=learner.host.name)
    tuned = Learner(host, seq_ft(), seed=seed, optim=settings.optim(end.epochs), decoding=learner.decoding)
    tuned.learn(task)
    (answers,) = tuned.answer([task])
    found = score(replace(task, metric="macro_f1"), answers)
    return EndResult(
        after=after,
        corpus=end.corpus,
        task=task.name,
        seed=seed,
        train_rows=len(task.train),
        test_rows=len(task.test),
        accuracy=found.accuracy,
        macro_f1=found.value,
        # Every answer is one of the labels and every row has one, so that micro-F1 is the accuracy.
        f1=found.accuracy if end.f1 == "micro" else found.value,
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


def _read(file: Path) -> EndResult | None:
    if not file.exists():
        return None
    try:
        return EndResult.model_validate_json(file.read_text())
    except (ValidationError, UnicodeDecodeError):
        raise CheckpointError(f"{file} is damaged; delete it, and the same command measures it again.") from None
