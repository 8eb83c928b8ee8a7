"""What a person sees while something runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from nacre.cli.screen import WARNING, percent, say, screen
from nacre.events import (
    EvaluationStarted,
    Event,
    FreeDimensionsCounted,
    GeneratorTaught,
    PastFolded,
    ProbeMeasured,
    ProbeStarted,
    PseudoRowsGenerated,
    Resumed,
    RowMeasured,
    RowsAnswered,
    RowsEncoded,
    RunFinished,
    RunStarted,
    StageStarted,
    StartChosen,
    StepTaken,
    Stopped,
    TrainingContinued,
    TrainingPrepared,
    TrainingSaved,
    Warned,
)
from nacre.progress import ProgressLine

STARTS = {"fresh": "afresh", "nearest": "where {tasks} ended", "mean": "at an average of {tasks}"}


class Display:
    """The `on_event` of the commands. On a terminal a bar moves; elsewhere a line a task is printed.

    Attributes:
        page: Where the page of the run is; known when the run is finished.
    """

    def __init__(self, *, error: bool = False, verbose: bool = False) -> None:
        """Open the screen; nothing is shown yet.

        Args:
            error: Whether to print to standard error.
            verbose: Whether to list the trained parameters of each task, not only their number.
        """
        self.console = screen(error=error)
        self.verbose = verbose
        self.page = Path()
        self.line = ProgressLine(self.console)
        self._label = ""
        self._saved = ""  # where training is saved inside the task that is being learned

    def __call__(self, event: Event) -> None:
        """Show an event.

        Args:
            event: What happened.
        """
        match event:
            case RunStarted():
                self._begin(event)
            case Resumed(folder=folder, tasks=tasks):
                self._say(f"Continuing after {len(tasks)} finished {'task' if len(tasks) == 1 else 'tasks'}: {folder}")
            case Warned(text=text):
                self._say(f"Warning: {text}", WARNING)
            case StageStarted(number=number, stages=stages, name=name):
                self._label, self._saved = f"task {number} of {stages}: {name}", ""
            case FreeDimensionsCounted(site=site, factor=factor, left=left, width=width):
                self._say(f"Directions left to this task: {left} of {width} at least (fewest: {site}, '{factor}').")
            case PastFolded(sites=sites, folded=folded, obstacles=obstacles) if obstacles:
                why = "; ".join(obstacles)
                self._say(f"Earlier tasks are not folded at {sites - folded} of {sites} linear maps: {why}.")
            case StartChosen(start=start, tasks=tasks):
                self._say(f"The new task begins {STARTS[start].format(tasks=', '.join(tasks))}.")
            case PseudoRowsGenerated(task=task, drawn=drawn, parsed=parsed, duplicates=duplicates, kept=kept):
                self._say(
                    f"Written rows of {task}: {parsed} of {drawn} samples are rows, {duplicates} of these repeat "
                    f"another, {kept} are kept."
                )
            case GeneratorTaught(task=task, parameters=parameters, step=step, steps=steps, loss=loss):
                self.line.move(f"what writes {task}", step, steps, f"loss {loss:.3f}")
                if step == steps:
                    self._say(f"What writes rows of {task}: {parameters:,} parameters, {steps} steps, loss {loss:.3f}.")
            case TrainingPrepared(groups=groups):
                self._show_groups(groups)
            case RowsEncoded():
                self._show_cut(event)
            case StepTaken(step=step, steps=steps, loss=loss, rate=rate):
                self.line.move(self._label, step, steps, f"loss {loss:.3f}  rate {rate:.1e}")
            case TrainingContinued(step=step, steps=steps, folder=folder):
                self._saved = f" after step {step} of {steps}, which is saved"
                self._say(f"Continuing after step {step} of {steps}: {folder}")
            case TrainingSaved(step=step, steps=steps):
                self._saved = f" after step {step} of {steps}, which is saved"
            case EvaluationStarted(row=row):
                self._saved = ""
                self._label = f"measuring after task {row}" if row else "measuring before any task"
            case RowsAnswered(done=done, rows=rows):
                self.line.move(self._label, done, rows, "rows")
            case Stopped():
                self.line.drop()
            case RowMeasured(number=number, scores=scores, tasks=tasks):
                after = f"after task {number}" if number else "before"
                self._say(f"{after}: " + "  ".join(f"{t} {percent(s)}" for t, s in zip(tasks, scores, strict=True)))
            case ProbeStarted(values=values):
                self._label = ", ".join(f"{key} {value}" for key, value in values.items())
            case ProbeMeasured(text=text):
                self._say(text)
            case RunFinished(path=path, already=already):
                self.page = Path(path) / "report.html"
                if already:
                    self._say(f"{path} is finished already; nothing was run.")

    def _show_cut(self, event: RowsEncoded) -> None:
        if event.truncated:
            self._say(
                f"{event.truncated} of {event.rows} training texts are longer than the input may be, and were cut."
            )
        if event.cut_targets:
            self._say(
                f"Warning: {event.cut_targets} of {event.rows} training targets are longer than a target may be, and "
                "were cut before their end token: no answer learned from them ends (optim.max_target_length).",
                WARNING,
            )

    @contextmanager
    def interruptible(self, advice: str) -> Iterator[None]:
        """Show progress inside; on Ctrl-C say what to do and exit with 130.

        Args:
            advice: What to do then, in a sentence.
        """
        try:
            yield
        except KeyboardInterrupt:
            say(screen(error=True), f"Interrupted{self._saved}. {advice}")
            raise typer.Exit(130) from None
        finally:
            self.line.drop()

    def _begin(self, event: RunStarted) -> None:
        tasks = " -> ".join(event.tasks)
        self._say(f"{event.method} on {tasks}, seed {event.seed}, in {event.path}")
        if event.penalties:
            self._say(f"Added to the loss: {', '.join(event.penalties)}")
        if event.gradient_rules:
            self._say(f"Between gradients and step, in this order: {', '.join(event.gradient_rules)}")

    def _show_groups(self, groups: Sequence[tuple[str, int]]) -> None:
        size = sum(size for _, size in groups)
        self._say(f"{self._label}: {size:,} trained parameters")
        for name, own in groups if self.verbose else ():
            self._say(f"  {name} {own:,}")

    def _say(self, text: str, style: str = "") -> None:
        say(self.console, text, style)
