"""What happens while a model learns, as values: one frozen dataclass for each kind of event.

Whoever wants to know passes `on_event`, a function that is called with each event. `nacre run` appends them to
`events.jsonl` (`as_document`) and shows them on the screen. To act on some kinds only, match on the class:

    def on_event(event: Event) -> None:
        match event:
            case StepTaken(step=step, loss=loss):
                print(step, loss)
            case Warned(text=text):
                print(text)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class RunStarted:
    """A run begins or continues.

    Attributes:
        path: The run's folder.
        method: The method's name, with its modifiers.
        tasks: The stream's tasks in their order.
        seed: The run's seed.
        penalties: Keys of the parts that are added to the loss.
        gradient_rules: Keys of the parts that change gradients, in the order in which they act.
    """

    path: str
    method: str
    tasks: Sequence[str]
    seed: int
    penalties: Sequence[str]
    gradient_rules: Sequence[str]


@dataclass(frozen=True)
class Resumed:
    """A run continues from the learner of its last finished task.

    Attributes:
        folder: The folder of that task.
        tasks: The tasks learned so far.
    """

    folder: str
    tasks: Sequence[str]


@dataclass(frozen=True)
class StageStarted:
    """A stage of the curriculum begins.

    Attributes:
        number: Its number, from 1.
        stages: How many stages the run has.
        name: The stage's name; of a single task, the task's.
    """

    number: int
    stages: int
    name: str


@dataclass(frozen=True)
class PastFolded:
    """Earlier tasks' updates were merged into working copies of the host's weights.

    Attributes:
        sites: How many linear maps carry an adapter.
        folded: At how many of them the updates are merged.
        obstacles: Why they are not at the others, each reason once.
        ratios: Smallest and largest size of an update relative to its weight; None where it was not measured.
    """

    sites: int
    folded: int
    obstacles: Sequence[str]
    ratios: Sequence[float] | None


@dataclass(frozen=True)
class FreeDimensionsCounted:
    """The dimensions that earlier tasks leave to this one were counted, in a method that keeps off their directions.

    Attributes:
        site: The linear map where the fewest are left.
        factor: The factor of its update that this holds for.
        left: How many dimensions are left there.
        width: How many dimensions the factor has.
        remaining: How many are left to each factor of each linear map, by name.
    """

    site: str
    factor: str
    left: int
    width: int
    remaining: Mapping[str, int]


@dataclass(frozen=True)
class StartChosen:
    """A new task's parameters begin where earlier tasks' ended, or afresh, as its validation rows say.

    Attributes:
        start: What was chosen: `fresh`, a copy of the `nearest` task's, or the `mean` of the nearest ones'.
        tasks: The earlier tasks that it is made of.
        losses: The mean loss of a validation token under each start; empty where none was tried.
    """

    start: str
    tasks: Sequence[str]
    losses: Mapping[str, float]


@dataclass(frozen=True)
class PseudoRowsGenerated:
    """The learner, or a generator of its own, wrote rows of an earlier task, to learn them or to read them again.

    Attributes:
        task: The earlier task.
        drawn: How many samples were drawn.
        parsed: How many of them were a text and an answer that the task has.
        duplicates: How many of these repeated an earlier one.
        kept: How many rows are kept.
        labels: How many of them have each label; empty for free text.
    """

    task: str
    drawn: int
    parsed: int
    duplicates: int
    kept: int
    labels: Mapping[str, int]


@dataclass(frozen=True)
class GeneratorTaught:
    """What will write rows of a task was taught to, beside the learner.

    Attributes:
        task: The task.
        parameters: How many numbers were trained.
        step: How many steps have been taken.
        steps: How many there are; when the last one is taken, it is ready.
        loss: Of that step.
    """

    task: str
    parameters: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class TrainingPrepared:
    """The slot for a task is open and filled; what will be trained is known.

    Attributes:
        groups: Name and number of parameters of each group that is trained.
    """

    groups: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class RowsEncoded:
    """The training rows of a task are token ids.

    Attributes:
        rows: Their number.
        truncated: How many of them were longer than the input may be, and were cut.
        cut_targets: How many of them have a target that was longer than it may be, and has lost its end token.
    """

    rows: int
    truncated: int
    cut_targets: int


@dataclass(frozen=True)
class StepTaken:
    """Training took a step; sent every `optim.log_every` steps and after the last one.

    Attributes:
        step: Number of the step in its task, from 1.
        steps: How many steps the task has.
        loss: The task loss and all weighted penalties.
        terms: The terms of the loss: `task`, and each penalty before (`KEY`) and after (`KEY_weighted`) weighting.
        rate: The learning rate of the step.
    """

    step: int
    steps: int
    loss: float
    terms: Mapping[str, float]
    rate: float


@dataclass(frozen=True)
class TrainingSaved:
    """Training was saved inside a task.

    Attributes:
        step: How many of the task's steps have been taken.
        steps: How many there are.
        folder: Where it was saved.
    """

    step: int
    steps: int
    folder: str


@dataclass(frozen=True)
class TrainingContinued:
    """Training goes on inside a task, where it was saved.

    Attributes:
        step: How many of the task's steps were taken before.
        steps: How many there are.
        folder: Where it was saved.
    """

    step: int
    steps: int
    folder: str


@dataclass(frozen=True)
class Warned:
    """Something that a person should know, and that does not stop the run.

    Attributes:
        text: The warning, in sentences.
    """

    text: str


@dataclass(frozen=True)
class EvaluationStarted:
    """The tasks are about to be scored.

    Attributes:
        row: Which row of the score matrix is measured, from 0.
        tasks: How many tasks are scored.
    """

    row: int
    tasks: int


@dataclass(frozen=True)
class RowsAnswered:
    """A batch of test rows was answered, or its texts measured. Not in `events.jsonl`: it moves a progress bar.

    Attributes:
        done: How many rows are answered by now.
        rows: How many there are.
    """

    done: int
    rows: int


@dataclass(frozen=True)
class Stopped:
    """Training, or answering rows, is over: done, or ended by an error. Not in `events.jsonl`: it ends a bar."""


@dataclass(frozen=True)
class RowMeasured:
    """A row of the score matrix is known, measured now or read from a finished stage.

    Attributes:
        number: Its number; 0 is before any learning.
        scores: The tasks' scores as fractions; None where a task was not scored.
        tasks: The tasks' names.
    """

    number: int
    scores: Sequence[float | None]
    tasks: Sequence[str]


@dataclass(frozen=True)
class ProbeStarted:
    """A probe (end tasks, base ability) begins to measure something that no file holds yet.

    Attributes:
        kind: What the event is called in `events.jsonl`: `end_task`, `ability`.
        values: What is measured: the stage (`after`), the task, and whatever else the probe tells apart.
    """

    kind: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ProbeMeasured:
    """A result of a probe is known, measured now or read from its file.

    Attributes:
        kind: What the event is called in `events.jsonl`: `end_result`, `ability_result`.
        values: What was measured, as in `ProbeStarted`, and the scores.
        text: The same for a person to read, in one line; not in `events.jsonl`.
    """

    kind: str
    values: Mapping[str, Any]
    text: str


@dataclass(frozen=True)
class RunFinished:
    """A run is finished.

    Attributes:
        path: The run's folder.
        already: Whether it was finished before, so that nothing was run.
    """

    path: str
    already: bool


Event = (
    RunStarted
    | Resumed
    | StageStarted
    | PastFolded
    | FreeDimensionsCounted
    | StartChosen
    | PseudoRowsGenerated
    | GeneratorTaught
    | TrainingPrepared
    | RowsEncoded
    | StepTaken
    | TrainingSaved
    | TrainingContinued
    | Warned
    | EvaluationStarted
    | RowsAnswered
    | Stopped
    | RowMeasured
    | ProbeStarted
    | ProbeMeasured
    | RunFinished
)
"""What `on_event` is called with."""

OnEvent = Callable[[Event], None]
"""What is done with events (a file, a progress bar) is the caller's business."""

EVENT_KINDS: Mapping[type, str] = {
    RunStarted: "run",
    Resumed: "resumed",
    StageStarted: "stage",
    PastFolded: "folded",
    FreeDimensionsCounted: "room",
    StartChosen: "start",
    PseudoRowsGenerated: "pseudo_rows",
    GeneratorTaught: "generator",
    TrainingPrepared: "trainable",
    RowsEncoded: "rows",
    StepTaken: "step",
    TrainingSaved: "saved",
    TrainingContinued: "continued",
    Warned: "warning",
    EvaluationStarted: "evaluate",
    RowMeasured: "row",
    RunFinished: "finished",
}
"""What each class is called in `events.jsonl`; probes name their events themselves. Users parse that file: neither
these names nor the names of the attributes may change."""


def is_kept(event: Event) -> bool:
    """Whether `events.jsonl` has a line for the event; what only moves a bar has none."""
    if isinstance(event, GeneratorTaught):
        return event.step == event.steps
    return not isinstance(event, RowsAnswered | Stopped)


def as_document(event: Event) -> dict[str, Any]:
    """The event as a line of `events.jsonl` holds it, without the time.

    Args:
        event: One that is kept (`is_kept`).

    Returns:
        `event`, the kind's name, and then the attributes in their order.
    """
    if isinstance(event, ProbeStarted | ProbeMeasured):
        return {"event": event.kind, **event.values}
    return {"event": EVENT_KINDS[type(event)], **{field.name: getattr(event, field.name) for field in fields(event)}}


def ignore(event: Event) -> None:
    """The `on_event` of whoever does not want to know."""


def only_warn(event: Event) -> None:
    """The `on_event` of whoever names none: what a user should know becomes a Python warning."""
    if isinstance(event, Warned):
        warnings.warn(event.text, stacklevel=2)
