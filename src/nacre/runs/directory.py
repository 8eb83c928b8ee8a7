"""A run's folder: what is in it, which stages are complete, and whether it may be continued."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from nacre.documents import DocumentError, parse_json, parse_yaml
from nacre.errors import CheckpointError, RecipeError
from nacre.evaluation.gates import ROWS, TOKENS, SiteGates
from nacre.events import Event, as_document
from nacre.files import build_folder, hash_of, naming, numbered_name, read_text, to_json, write_atomically
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.migrations import upgraded_recipe
from nacre.records.plain import differences
from nacre.records.predictions import write_predictions
from nacre.runs.measuring import StageScores
from nacre.runs.recipe import Recipe, probe_settings
from nacre.runs.results import StageRow

FolderState = Literal["new", "begun", "finished"]


class RunDirectory:
    """Reads and writes one run's folder. Every file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = path / "results.json"
        self.report = path / "report.html"

    @property
    def state(self) -> FolderState:
        """How far the run in it has come."""
        if self.results.exists():
            return "finished"
        return "begun" if (self.path / "recipe.yaml").exists() else "new"

    def check_place(self) -> None:
        """Refuse a folder that is not for a run.

        Raises:
            RecipeError: Unless the folder is new, empty, or a run's.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RecipeError(f"Output '{self.path}' is a file; a run needs a folder of its own.")
        for parent in self.path.parents:
            if parent.exists() and not parent.is_dir():
                raise RecipeError(f"Output '{self.path}': '{parent}' is a file.")
        if self.path.is_dir() and not (self.path / "recipe.yaml").exists() and _visible(self.path):
            raise RecipeError(
                f"Output '{self.path}' holds other things and no recipe.yaml; choose a new or empty folder."
            )

    def check_same(self, recipe: Recipe) -> None:
        """Refuse to continue what was begun with other settings.

        Raises:
            RecipeError: If the settings differ; it names the differences.
            CheckpointError: If the recipe there is damaged.
        """
        file = self.path / "recipe.yaml"
        if not file.exists():
            return
        try:
            there = parse_yaml(read_text(file))
        except (DocumentError, UnicodeDecodeError):
            there = None
        if not isinstance(there, dict):
            raise CheckpointError(f"{file} is damaged: it holds no recipe.")
        there = {**upgraded_recipe(there), "output": None}
        self._refuse_differences(there, {**recipe.document(), "output": None}, "settings")

    def begin(self, recipe: Recipe, protocol: Mapping[str, Any], checks: Callable[[], Mapping[str, Any]]) -> None:
        """Write what is known before the first step, or compare it with what is there.

        Args:
            recipe: The run's.
            protocol: The run's.
            checks: Gives the content of `checks.json`; called only where that is written, because it reads every row.

        Raises:
            RecipeError: If the run was begun with other data, prompts or another model.
        """
        file = self.path / "protocol.json"
        if file.exists():
            try:
                there = parse_json(read_text(file))["protocol"]
            except (ValueError, KeyError, TypeError):
                raise CheckpointError(f"{file} is damaged.") from None
            self._refuse_differences(there, protocol, "data, prompts or model")
            write_atomically(self.path / "recipe.yaml", recipe.yaml())
        else:
            write_atomically(self.path / "recipe.yaml", recipe.yaml())  # first: it says whose folder this is
            self._write_json("environment.json", environment())
            self._write_json("checks.json", checks())
            self._write_json("protocol.json", {"hash": hash_of(protocol), "protocol": protocol})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against a second process.

        Raises:
            RecipeError: If another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RecipeError(
                f"Another process is running in '{self.path}'; wait for it, or choose another --output."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def append(self, event: Event) -> None:
        """Append one line to `events.jsonl`."""
        line = json.dumps({"time": round(time.time(), 3), **as_document(event)}, ensure_ascii=False)
        events = self.path / "events.jsonl"
        with naming(events), events.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def stage_folder(self, number: int, name: str) -> Path:
        """Where a stage lies.

        Args:
            number: Of its row in the matrix.
            name: Its name.
        """
        return self.path / "tasks" / numbered_name(number, name)

    def write_stage(self, folder: Path, row: StageRow, learner: Learner, scores: StageScores) -> None:
        """Commit a stage: predictions, the row, gates (of a gated adapter) and, once something is learned, the learner;
        the manifest last.

        Args:
            folder: Of the stage.
            row: Of the matrix.
            learner: After the stage.
            scores: Of the tasks that were scored.
        """

        def fill(place: Path) -> None:
            if learner.state.tasks:
                checkpoint.write_files(learner.snapshot(), place)
            write_predictions(place, scores.answered, scores.texts)
            if scores.gates:
                (place / "gates.json").write_text(_gates(scores.gates), encoding="utf-8")
            (place / "row.json").write_text(to_json(row.model_dump()) + "\n", encoding="utf-8")
            checkpoint.write_manifest(place)

        build_folder(folder, fill)

    def read_row(self, folder: Path) -> StageRow | None:
        """The row of a complete stage; None if the stage was not finished.

        Raises:
            CheckpointError: If it was finished and is damaged now.
        """
        if not (folder / checkpoint.MANIFEST).exists():
            return None
        checkpoint.verify(folder)
        return StageRow.model_validate_json(read_text(folder / "row.json"))

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        events = self.path / "events.jsonl"
        if events.exists() and not events.read_bytes().endswith(b"\n"):
            with events.open("a", encoding="utf-8") as file:
                file.write("\n")  # the line that a killed process did not finish stays alone
        patterns = (".*.partial", "tasks/.*.partial", *(f"{key}/*/.*.partial" for key in probe_settings()))
        for leftover in [leftover for pattern in patterns for leftover in self.path.glob(pattern)]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _write_json(self, name: str, value: Any) -> None:
        write_atomically(self.path / name, to_json(value) + "\n")

    def _refuse_differences(self, there: Mapping[str, Any], here: Mapping[str, Any], what: str) -> None:
        different = differences(there, here)
        if different:
            raise RecipeError(
                f"'{self.path}' was begun with other {what}: {'; '.join(different[:8])}"
                f"{f'; and {len(different) - 8} more' if len(different) > 8 else ''}. "
                "Choose another --output, or the same settings."
            )


def environment() -> dict[str, Any]:
    """What the numbers were computed with."""
    packages = ("nacre", "torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "lm-eval")
    return {
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in packages},
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _visible(folder: Path) -> bool:
    return any(not file.name.startswith(".") for file in folder.iterdir())


def _gates(gates: Mapping[str, Sequence[SiteGates]]) -> str:
    """Without indentation: fifteen tasks, as many slots and a hundred sites make half a million lines otherwise."""
    tasks = {task: [asdict(site) for site in sites] for task, sites in gates.items()}
    return to_json({"rows": ROWS, "tokens": TOKENS, "tasks": tasks}, indent=None) + "\n"
