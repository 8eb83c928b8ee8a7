"""Experiment trackers: what they are given, and that none of them can cost a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import tracking

from helpers.outcome import outcome
from helpers.tiny import write_task
from nacre.errors import RecipeError
from nacre.events import Event, Warned, ignore
from nacre.learning.settings import Optim
from nacre.runs.recipe import Recipe
from nacre.runs.run import run

torch.set_num_threads(1)

NAMES = ["animals", "plants"]


class Diary(tracking.GeneralTracker):
    """Writes down what it is given, in the place of TensorBoard."""

    name = "tensorboard"
    requires_logging_directory = True
    lines: list[tuple[str, Any]]
    fails_at = ""

    def __init__(self, *_: object) -> None:
        super().__init__()

    @property
    def tracker(self) -> None:
        return None

    def note(self, what: str, *values: Any) -> None:
        if what == type(self).fails_at:
            raise ConnectionError(f"{what} is not possible\nat all")
        type(self).lines.append((what, values))

    def start(self) -> None:
        self.note("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.note("settings", values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.note("log", step, values)

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.note("images", step, values)

    def finish(self) -> None:
        self.note("finish")


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> type[Diary]:
    monkeypatch.setattr(tracking, "TensorBoardTracker", Diary)
    monkeypatch.setattr("nacre.runs.tracking.is_installed", lambda package: True)
    Diary.lines, Diary.fails_at = [], ""
    return Diary


@pytest.fixture(scope="module")
def recipe(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    data, model = tmp_path_factory.mktemp("data"), tiny_model("t5")
    for name in NAMES:
        write_task(data, name, rows=8)
    optim = Optim(batch_size=4, learning_rate=0.03, log_every=1)

    def made(output: Path, **more: Any) -> Recipe:
        fields: dict[str, Any] = {"method": "o_lora", "stream": NAMES, "data": str(data), "model": str(model)}
        return Recipe(**fields, optim=optim, output=str(output), **more)

    return made


def test_a_tracker_is_given_settings_steps_scores_results_and_the_matrix(
    recipe: Callable[..., Recipe], diary: type[Diary], tmp_path: Path
) -> None:
    record = run(recipe(tmp_path / "run", track=["tensorboard"]), ignore)
    kinds = [what for what, _ in diary.lines]
    assert (kinds[:2], kinds[-2:]) == (["start", "settings"], ["images", "finish"])
    (settings,) = diary.lines[1][1]
    assert (settings["method"], settings["optim.batch_size"], settings["stream"]) == ("o_lora", 4, str(NAMES))
    logged = [values for what, values in diary.lines if what == "log"]
    steps = [(step, values) for step, values in logged if "train/loss" in values]
    assert [step for step, _ in steps] == [1, 2, 3, 4]  # two a task
    assert "train/orthogonality_weighted" in steps[3][1]
    assert steps[0][1]["train/rate"] == 0.03
    scores = [(step, values) for step, values in logged if "score/animals" in values]
    assert [step for step, _ in scores] == [0, 2, 4]
    assert scores[2][1] == {f"score/{name}": score for name, score in zip(NAMES, record.matrix[-1], strict=True)}
    step, results = logged[-1]
    assert (step, results["average_accuracy"], results["forgetting"]) == (4, record.average_accuracy, record.forgetting)
    _, images = next(values for what, values in diary.lines if what == "images")
    assert images["matrix"].ndim == 4
    assert images["matrix"].std() > 10  # something is drawn


def test_trackers_change_no_result(recipe: Callable[..., Recipe], diary: type[Diary], tmp_path: Path) -> None:
    run(recipe(tmp_path / "with", track=["tensorboard"]), ignore)
    run(recipe(tmp_path / "without"), ignore)
    assert outcome(tmp_path / "with") == outcome(tmp_path / "without")


@pytest.mark.parametrize("moment", ["start", "settings", "log", "images", "finish"])
def test_a_tracker_that_fails_costs_nothing(
    recipe: Callable[..., Recipe], diary: type[Diary], tmp_path: Path, moment: str
) -> None:
    diary.fails_at = moment
    told: list[Event] = []
    run(recipe(tmp_path / "run", track=["tensorboard"]), told.append)
    said = [event.text for event in told if isinstance(event, Warned)]
    assert said == [f"The tracker 'tensorboard' failed and is left out from here on: {moment} is not possible"]
    assert (tmp_path / "run" / "results.json").exists()


def test_a_tracker_whose_package_is_missing_is_refused_first(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nacre.runs.tracking.is_installed", lambda package: False)
    with pytest.raises(RecipeError, match="the tracker 'wandb' needs its package: pip install wandb"):
        run(recipe(tmp_path / "run", track=["wandb"]), ignore)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="track"):
        recipe(tmp_path / "run", track=["paper"])


def test_tensorboard_itself(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record = run(recipe(tmp_path / "run", track=["tensorboard"]), ignore)
    read = events.EventAccumulator(str(tmp_path / "run" / "trackers" / "run"))
    read.Reload()
    assert [each.step for each in read.Scalars("train/loss")] == [1, 2, 3, 4]
    assert read.Scalars("average_accuracy")[0].value == pytest.approx(record.average_accuracy)
    assert read.Images("matrix")[0].width == 900
