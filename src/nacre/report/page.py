"""From runs to everything the templates print: no template computes, no function here knows HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nacre.evaluation.matrix import RUN_METRICS, RunMetric
from nacre.records.plain import differing_keys
from nacre.records.predictions import Answered
from nacre.records.run import TASK_IDENTITY, RunRecord
from nacre.records.view import RunView, TaskSamples
from nacre.report import numbers
from nacre.report.curves import MARKERS, Chart, Curves, curves_of
from nacre.report.decisions import DecisionSection, decision_section
from nacre.report.extra_tables import ExtraTable, extra_tables
from nacre.report.heat import HeatMap, score_map, valid_map
from nacre.report.losses import loss_chart
from nacre.report.metrics import Definition, definitions, value_text
from nacre.report.names import columns, run_names, short_place, shorten
from nacre.report.sentence import leader, outcome
from nacre.report.settings import Entry, entries_of

SHOWN_KEYS = 12

NAMED_METHODS = 3
"""Methods that a title names; more are counted."""

LONGEST_TEXT = 400
"""Columns of an input or an answer that a page shows."""

TRAINING = {"Learning rate": "learning_rate", "Epochs": "epochs", "Batch size": "batch_size"}
"""Settings that stand at a page's head, by what they are called there."""


@dataclass(frozen=True)
class MetricValue:
    """A metric of a run as text.

    Attributes:
        metric: The metric.
        text: Its value.
        defined: Whether it has one.
        share: Length of its bar in percent; None without a bar.
    """

    metric: RunMetric
    text: str
    defined: bool
    share: str | None


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage, as texts.

    Attributes:
        task: The task that was learned; None before any.
        parameters: How many were trained.
        train: Seconds of training.
        evaluate: Seconds of evaluation.
    """

    task: str | None
    parameters: str
    train: str
    evaluate: str


@dataclass(frozen=True)
class RunCost:
    """Cost of a run as texts.

    Attributes:
        trainable: Trainable parameters of the last task.
        stored: Numbers kept besides the pretrained model.
        train: Seconds of training.
        speed: Tokens a second and the share of padding; empty where they were not counted.
        evaluate: Seconds of evaluation.
        memory: The most main memory used.
        stages: The cost of each stage.
    """

    trainable: str
    stored: str
    train: numbers.Total
    speed: str
    evaluate: numbers.Total
    memory: str
    stages: tuple[StageCost, ...]


@dataclass(frozen=True)
class Sample:
    """An answer as texts.

    Attributes:
        input: What was asked, shortened; a dash where it was not kept.
        target: What should be answered.
        answer: What was answered; "nothing" where it is empty.
        score: In percent.
    """

    input: str
    target: str
    answer: str
    score: str


@dataclass(frozen=True)
class SampleTable:
    """Some of a task's answers at the end.

    Attributes:
        task: The task.
        metric: What the score counts.
        worst: Rows with the lowest score.
        best: Rows with the highest score.
    """

    task: str
    metric: str
    worst: tuple[Sample, ...]
    best: tuple[Sample, ...]


@dataclass(frozen=True)
class RunSection:
    """A run on a page.

    Attributes:
        name: What tells it apart from the others on the page.
        record: Its record.
        outcome: Its result, in a sentence.
        values: Its metrics.
        score: Its score matrix.
        valid: Its matrix of valid answers; None where no task has such a notion.
        extra_tables: What only some runs have.
        cost: What it took.
        loss: The loss over its steps; None where it is not known.
        decisions: What its learner decided of the test rows; None where it decided nothing.
        samples: Some of its answers at the end.
        training: How it was trained, and with what.
        parameters: The method's parameters.
        protocol: How it was measured.
    """

    name: str
    record: RunRecord
    outcome: str
    values: tuple[MetricValue, ...]
    score: HeatMap
    valid: HeatMap | None
    extra_tables: tuple[ExtraTable, ...]
    cost: RunCost
    loss: Chart | None
    decisions: DecisionSection | None
    samples: tuple[SampleTable, ...]
    training: tuple[Entry, ...]
    parameters: tuple[Entry, ...]
    protocol: tuple[Entry, ...]


@dataclass(frozen=True)
class Page:
    """Everything that the template prints.

    Attributes:
        title: The page's.
        result: What came out, in a sentence; empty where runs cannot be ranked.
        facts: What holds for all runs: a word and its value.
        runs: The runs.
        metrics: The metrics, in their order.
        definitions: Of all metrics that the records define.
        other_definitions: Those of metrics that have no column.
        curves: The charts.
        markers: SVG paths of the lines' markers.
        differences: Protocol keys that are not the same in all runs; None if the runs are comparable.
        more_differences: How many more there are.
        crowded: Whether heat maps have small cells.
        most_tasks: The largest number of tasks.
        longest_name: The width of the longest task's name, in columns of text.
        has_valid: Whether a run has a map of valid answers.
        has_lone_marks: Whether a chart has a mark that no line reaches.
    """

    title: str
    result: str
    facts: tuple[tuple[str, str], ...]
    runs: tuple[RunSection, ...]
    metrics: tuple[RunMetric, ...]
    definitions: list[Definition]
    other_definitions: list[Definition]
    curves: list[Curves]
    markers: tuple[str, ...]
    differences: list[str] | None
    more_differences: int
    crowded: bool
    most_tasks: int
    longest_name: int
    has_valid: bool
    has_lone_marks: bool


def page_of(views: Sequence[RunView]) -> Page:
    """Put together the page of one run, or of several beside each other.

    Args:
        views: The runs.
    """
    records = [view.record for view in views]
    alone = len(records) == 1
    names = run_names(records)
    defined = definitions(records)
    curves = curves_of(records, names)
    keys = {metric.key for metric in RUN_METRICS}
    comparable = len({record.protocol_hash for record in records}) == 1
    differing = [] if comparable else differing_keys([record.protocol for record in records])
    runs = tuple(_run(view, name) for view, name in zip(views, names, strict=True))
    return Page(
        title=records[0].title if alone else _title(records),
        result=outcome(records[0]) if alone else leader(records, names) if comparable else "",
        facts=_facts(records),
        runs=runs,
        metrics=RUN_METRICS,
        definitions=defined,
        other_definitions=[definition for definition in defined if definition.key not in keys],
        curves=curves,
        markers=MARKERS,
        differences=None if comparable else differing[:SHOWN_KEYS],
        more_differences=max(0, len(differing) - SHOWN_KEYS),
        crowded=any(run.score.crowded for run in runs),
        most_tasks=max(len(record.tasks) for record in records),
        longest_name=max(columns(task) for record in records for task in record.tasks),
        has_valid=any(run.valid is not None for run in runs),
        has_lone_marks=any(chart.has_lone_marks for group in curves for chart in group.charts),
    )


def _title(records: Sequence[RunRecord]) -> str:
    methods = list(dict.fromkeys(record.method for record in records))
    if len(methods) == len(records) <= NAMED_METHODS:
        return f"{', '.join(methods[:-1])} and {methods[-1]} side by side"
    return f"{len(records)} {'methods' if len(methods) == len(records) else 'runs'} side by side"


def _facts(records: Sequence[RunRecord]) -> tuple[tuple[str, str], ...]:
    """What all runs share; a single run shares everything with itself."""
    candidates = (
        ("Method", [record.method for record in records]),
        ("Stream", [record.stream for record in records]),
        ("Tasks", [str(len(record.tasks)) for record in records]),
        ("Model", [short_place(record.model) for record in records]),
        ("Seed", [str(record.seed) for record in records]),
        ("Scored by", [_scored_by(record) for record in records]),
        (TASK_IDENTITY.capitalize(), [record.protocol.get(TASK_IDENTITY, "") for record in records]),
        *((word, [_text(record.optim, key) for record in records]) for word, key in TRAINING.items()),
        ("Device", [_text(record.environment, "device") for record in records]),
        ("Software", [_software(record) for record in records]),
        ("Finished", [(record.finished or "").replace("T", " ").removesuffix("+00:00") for record in records]),
    )
    return tuple((word, values[0]) for word, values in candidates if len(set(values)) == 1 and values[0])


def _text(settings: Mapping[str, Any] | None, key: str) -> str:
    """A setting; empty where it is not known. One value a task is a list."""
    value = (settings or {}).get(key)
    values = value if isinstance(value, list) else [value]
    return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values if one is not None)


def _software(record: RunRecord) -> str:
    packages = (record.environment or {}).get("packages") or {}
    return ", ".join(f"{name} {packages[name]}" for name in ("nacre", "torch", "transformers") if packages.get(name))


def _scored_by(record: RunRecord) -> str:
    """The metric of all tasks, or each metric with its tasks."""
    by_metric: dict[str, list[str]] = {}
    for task, metric in zip(record.tasks, record.task_metrics, strict=True):
        by_metric.setdefault(metric, []).append(task)
    if len(by_metric) == 1:
        return record.task_metrics[0]
    return "; ".join(f"{metric}: {', '.join(tasks)}" for metric, tasks in by_metric.items())


def _run(view: RunView, name: str) -> RunSection:
    record = view.record
    training = {key: value for key, value in (("optim", record.optim), ("environment", record.environment)) if value}
    return RunSection(
        name=name,
        record=record,
        outcome=outcome(record),
        values=tuple(_value(metric, record) for metric in RUN_METRICS),
        score=score_map(record, name),
        valid=valid_map(record, name),
        extra_tables=extra_tables(record),
        cost=_cost(record),
        loss=loss_chart(view.losses),
        decisions=None if record.decisions is None else decision_section(record.decisions, name),
        samples=tuple(_sample_table(samples, record) for samples in view.samples),
        training=entries_of(training),
        parameters=entries_of(record.parameters),
        protocol=entries_of(record.protocol),
    )


def _sample_table(samples: TaskSamples, record: RunRecord) -> SampleTable:
    metric = record.task_metrics[record.tasks.index(samples.task)]
    worst, best = (tuple(map(_sample, answers)) for answers in (samples.worst, samples.best))
    return SampleTable(samples.task, metric, worst, best)


def _sample(answered: Answered) -> Sample:
    return Sample(
        input=numbers.DASH if answered.input is None else shorten(answered.input, LONGEST_TEXT),
        target=shorten(answered.target, LONGEST_TEXT),
        answer=shorten(answered.answer, LONGEST_TEXT) or "nothing",
        score=numbers.percent(answered.score),
    )


def _value(metric: RunMetric, record: RunRecord) -> MetricValue:
    value = record.value(metric.key)
    has_bar = metric.unit == "%" and value is not None
    share = f"{100 * min(max(value or 0.0, 0.0), 1.0):.1f}" if has_bar else None
    return MetricValue(metric, value_text(metric, value), value is not None, share)


def _cost(record: RunRecord) -> RunCost:
    spent = record.seconds
    learning = zip(record.tasks, record.trainable_parameters_per_task, spent.train, spent.evaluate[1:], strict=True)
    stages = [StageCost(None, numbers.DASH, numbers.DASH, numbers.seconds(spent.evaluate[0]))]
    for task, parameters, train, evaluate in learning:
        stages.append(StageCost(task, numbers.count(parameters), numbers.seconds(train), numbers.seconds(evaluate)))
    return RunCost(
        trainable=numbers.count(record.trainable_parameters),
        stored=numbers.count(record.stored_parameters),
        train=numbers.total_seconds(spent.train),
        speed=_speed(record),
        evaluate=numbers.total_seconds(spent.evaluate),
        memory=numbers.size(record.peak_rss_bytes),
        stages=tuple(stages),
    )


def _speed(record: RunRecord) -> str:
    speed = record.seconds.tokens_per_second
    if speed is None or record.training is None:
        return ""
    return f"{speed:,.0f} tokens/s, {numbers.percent(record.training.padding_share)} % padding"
