"""A run followed by experiment trackers, through accelerate: TensorBoard, Weights & Biases, MLflow, trackio.

Names, over the number of optimizer steps that this process has taken:

    train/loss, train/rate    every `optim.log_every` steps
    train/TERM                the terms of the loss: `task`, and each penalty before and after weighting
    score/TASK                after each task, of the metric that the task is scored by
    METRIC                    when the run is finished, `average_accuracy`, `forgetting` and the others of its record
    matrix                    then also, as a picture: the score matrix, and each task's score beside its best so far
                              (not in trackio; needs matplotlib)

A run that was stopped and goes on is a second one for a tracker.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nacre.errors import RecipeError
from nacre.evaluation.matrix import RUN_METRICS
from nacre.events import Event, OnEvent, RowMeasured, StageStarted, StepTaken, Warned
from nacre.optional import need
from nacre.records.plain import leaves
from nacre.records.run import RunRecord
from nacre.runs.recipe import Recipe, TrackerName

PROJECT = "nacre"
"""What trackers that sort runs by projects call this one."""


class Trackers:
    """The trackers of one run. One that fails is left out from then on, with a warning: it never costs the run."""

    def __init__(self, names: Sequence[TrackerName], folder: Path, on_event: OnEvent) -> None:
        """Nothing is opened yet.

        Args:
            names: Of the trackers.
            folder: The run's.
            on_event: Is called with a warning where one fails.

        Raises:
            NacreError: If a tracker's package is not installed.
        """
        self._on_event = on_event
        self._steps = self._before = 0
        self._open = [_tracker(name, folder) for name in dict.fromkeys(names)]

    def begin(self, recipe: Recipe) -> None:
        """Open them, and tell them the run's settings."""
        plain = leaves(recipe.document()).items()
        settings = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in plain
            if value is not None
        }
        self._each(lambda tracker: tracker.start())
        self._each(lambda tracker: tracker.store_init_configuration(settings))

    def see(self, event: Event) -> None:
        """Pass an event on, if it says something that is measured."""
        match event:
            case StageStarted():
                self._before = self._steps
            case StepTaken(step=step, loss=loss, rate=rate, terms=terms):
                self._steps = self._before + step
                named = {"loss": loss, "rate": rate, **terms}
                self._log({f"train/{key}": value for key, value in named.items()})
            case RowMeasured(scores=scores, tasks=tasks):
                pairs = zip(tasks, scores, strict=True)
                self._log({f"score/{task}": score for task, score in pairs if score is not None})

    def finish(self, record: RunRecord) -> None:
        """Pass the results on, and close."""
        values = {metric.key: record.value(metric.key) for metric in RUN_METRICS}
        self._log({key: value for key, value in values.items() if value is not None})
        if self._open and is_installed("matplotlib"):
            self._draw(record)
        self._each(lambda tracker: tracker.finish())

    def _draw(self, record: RunRecord) -> None:
        figure = picture(record)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]

        def show(tracker: Any) -> None:
            if tracker.name == "tensorboard":
                tracker.log_images({"matrix": pixels[None]}, step=self._steps, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"matrix": [pixels]}, step=self._steps)
            elif tracker.name == "mlflow":
                tracker.log_figure(figure, "matrix.png")

        self._each(show)

    def _log(self, values: dict[str, float]) -> None:
        if values:
            self._each(lambda tracker: tracker.log(values, step=self._steps))

    def _each(self, call: Callable[[Any], object]) -> None:
        for tracker in list(self._open):
            try:
                call(tracker)
            except Exception as error:  # of a server, a network or a disk of somebody else's
                self._open.remove(tracker)
                said = (str(error) or type(error).__name__).splitlines()[0]
                self._on_event(Warned(f"The tracker '{tracker.name}' failed and is left out from here on: {said}"))


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def picture(record: RunRecord) -> Any:
    """A figure of matplotlib: the score matrix, and what each task has lost since its best score."""
    figures = need("matplotlib.figure", "A picture of the score matrix", "track")
    backend = need("matplotlib.backends.backend_agg", "A picture of the score matrix", "track")
    matrix = np.array([[np.nan if score is None else 100 * score for score in row] for row in record.matrix])
    figure = figures.Figure(figsize=(9, 4), dpi=100, layout="constrained")
    backend.FigureCanvasAgg(figure)
    scores, lost = figure.subplots(1, 2)
    drawn = scores.imshow(matrix, vmin=0, vmax=100, aspect="auto", cmap="viridis")
    figure.colorbar(drawn, ax=scores, label="score, %")
    scores.set_xticks(range(len(record.tasks)), record.tasks, rotation=45, ha="right")
    scores.set_yticks(range(len(matrix)), ["before", *record.tasks])
    scores.set_ylabel("after")
    best = np.fmax.accumulate(matrix, axis=0)
    for column, task in enumerate(record.tasks):
        later = range(column + 1, len(matrix))
        lost.plot(later, (best - matrix)[column + 1 :, column], marker="o", label=task)
    lost.set_xticks(range(1, len(matrix)), record.tasks, rotation=45, ha="right")
    lost.set_ylabel("points below its best score so far")
    lost.legend(fontsize="small")
    return figure


def _tracker(name: TrackerName, folder: Path) -> Any:
    from accelerate import tracking

    classes = {
        "tensorboard": lambda: tracking.TensorBoardTracker(folder.name, folder / "trackers"),
        "wandb": lambda: tracking.WandBTracker(PROJECT, name=folder.name),
        "mlflow": lambda: tracking.MLflowTracker(PROJECT, run_name=folder.name),
        "trackio": lambda: tracking.TrackioTracker(PROJECT, name=folder.name),
    }
    if not is_installed(name):
        raise RecipeError(f"track: the tracker '{name}' needs its package: pip install {name}.")
    return classes[name]()
