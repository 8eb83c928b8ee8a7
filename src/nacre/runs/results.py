"""From what each stage measured to the record of a run."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from nacre.evaluation.matrix import DEFINITIONS, run_metrics
from nacre.evaluation.perplexity import PERPLEXITY
from nacre.events import PseudoRowsGenerated
from nacre.files import hash_of
from nacre.learning.learner import Learner
from nacre.measuring.measure import StageScores
from nacre.method import Method
from nacre.records.plain import hash_of_recipe
from nacre.records.probe import ProbeRecord
from nacre.records.run import RunRecord, Seconds, TokenCounts
from nacre.records.stage import Learned, PseudoRowsRecord, StageRow
from nacre.runs.names import method_name
from nacre.runs.recipe import Recipe
from nacre.tasks.task import Task


def learned_of(learner: Learner, seconds: float, written: Sequence[PseudoRowsGenerated] = ()) -> Learned:
    """What learning a stage took.

    Args:
        learner: Right after it.
        seconds: How long it took.
        written: What it reported of rows that it wrote.
    """
    return Learned(
        train_seconds=seconds,
        train_tokens=learner.work.tokens,
        train_positions=learner.work.positions,
        trainable_parameters=sum(group.size for group in learner.trainable()),
        pseudo_rows=[PseudoRowsRecord(**asdict(each)) for each in written],
    )


def stage_row(
    number: int,
    learner: Learner,
    tasks: Sequence[Task],
    measured: StageScores,
    learned: Learned | None,
    previous: StageRow | None,
) -> StageRow:
    """The row of a stage.

    Args:
        number: Of the row, from 0.
        learner: After the stage.
        tasks: The stream's.
        measured: The scores of those that were scored.
        learned: What learning took; None in row 0.
        previous: The row before, where tasks that were not scored keep its values; None where they have none.
    """

    def column(score: Callable[[str], float | None], before: Sequence[float | None] | None) -> list[float | None]:
        kept = before or [None] * len(tasks)
        return [score(task.name) if task.name in measured else old for task, old in zip(tasks, kept, strict=True)]

    return StageRow(
        row=number,
        scores=column(measured.value, previous.scores if previous else None),
        valid=column(measured.valid, previous.valid if previous else None),
        perplexity=column(measured.perplexity, previous.perplexity if previous else None) if _has_text(tasks) else [],
        train_seconds=learned.train_seconds if learned else None,
        train_tokens=learned.train_tokens if learned else None,
        train_positions=learned.train_positions if learned else None,
        evaluate_seconds=measured.seconds,
        trainable_parameters=learned.trainable_parameters if learned else None,
        stored_parameters=learner.stored_parameters() + (previous.stored_parameters if previous else 0),
        peak_rss_bytes=peak_rss_bytes(),
        pseudo_rows=learned.pseudo_rows if learned else [],
        decisions=measured.decisions,
    )


def record_of(
    recipe: Recipe,
    method: Method,
    tasks: Sequence[Task],
    rows: Mapping[int, StageRow],
    protocol: dict[str, Any],
    probes: Mapping[str, ProbeRecord],
    environment: dict[str, Any],
) -> RunRecord:
    """Put the record of a run together.

    Args:
        recipe: The run's, with every default written out.
        method: The run's.
        tasks: The stream's.
        rows: Of the matrix, by number; those that a joint method does not have are missing.
        protocol: The run's.
        probes: What its probes found, by key.
        environment: What it was computed with.
    """
    numbers = range(len(tasks) + 1)
    undefined: list[float | None] = [None] * len(tasks)
    every = [rows.get(number) for number in numbers]
    last, learned = rows[len(tasks)], every[1:]
    matrix = [row.scores if row else undefined for row in every]
    computed: dict[str, Any] = {**run_metrics(matrix, [len(task.test) for task in tasks]), **probes}
    return RunRecord(
        method=method_name(recipe.method),
        title=method.title,
        parameters=recipe.parameters,
        stream=recipe.stream_name,
        tasks=[task.name for task in tasks],
        model=recipe.model,
        seed=recipe.seed,
        metric=" / ".join(sorted({task.metric for task in tasks})),
        matrix=matrix,
        perplexity=[row.perplexity if row else undefined for row in every] if _has_text(tasks) else None,
        valid_answers=[row.valid if row else undefined for row in every],
        **computed,
        trainable_parameters=last.trainable_parameters or 0,
        trainable_parameters_per_task=[row.trainable_parameters if row else None for row in learned],
        stored_parameters=last.stored_parameters,
        seconds=Seconds(
            train=[row.train_seconds if row else None for row in learned],
            evaluate=[row.evaluate_seconds if row else None for row in every],
            tokens_per_second=_speed(learned),
        ),
        training=_tokens(learned),
        pseudo_rows=[row.pseudo_rows if row else [] for row in learned] if _has_written(learned) else None,
        decisions=last.decisions,
        peak_rss_bytes=max(row.peak_rss_bytes for row in rows.values()),
        protocol=protocol,
        protocol_hash=hash_of(protocol),
        recipe_hash=hash_of_recipe(recipe.document()),
        definitions=DEFINITIONS | ({"perplexity": PERPLEXITY} if _has_text(tasks) else {}),
        optim=recipe.optim.model_dump(mode="json"),
        environment=environment,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def peak_rss_bytes() -> int:
    """The most main memory this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _has_text(tasks: Sequence[Task]) -> bool:
    return any(task.kind == "text" for task in tasks)


def _has_written(rows: Sequence[StageRow | None]) -> bool:
    return any(row.pseudo_rows for row in rows if row)


def _tokens(rows: Sequence[StageRow | None]) -> TokenCounts:
    """rows: each task's; None for a task that has none of its own."""
    tokens = sum(row.train_tokens or 0 for row in rows if row)
    positions = sum(row.train_positions or 0 for row in rows if row)
    return TokenCounts(
        tokens=[row.train_tokens if row else None for row in rows],
        positions=[row.train_positions if row else None for row in rows],
        padding_share=1 - tokens / positions if positions else None,
    )


def _speed(rows: Sequence[StageRow | None]) -> float | None:
    """Tokens per second of learning, over the tasks for which they were counted."""
    counted = [(row.train_tokens, row.train_seconds) for row in rows if row and row.train_tokens and row.train_seconds]
    return sum(tokens for tokens, _ in counted) / sum(seconds for _, seconds in counted) if counted else None
