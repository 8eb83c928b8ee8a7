"""A run's folder: what is in it, which stages are complete, and whether it may be continued."""

from __future__ import annotations

import gzip
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
import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from nacre.errors import CheckpointError, RecipeError
from nacre.evaluation.gates import ROWS, TOKENS, SiteGates
from nacre.evaluation.perplexity import TextScore
from nacre.evaluation.scoring import TaskScore
from nacre.events import Event, as_document
from nacre.files import build_folder, hash_of, safe_name, to_json, write_atomically
from nacre.learning import checkpoint
from nacre.learning.learner import Learner
from nacre.records.differences import differences
from nacre.runs.recipe import Recipe
from nacre.tasks.task import Task

FolderState = Literal["new", "begun", "finished"]


class Row(BaseModel):
    """One row of the matrix and what it cost; ``row.json`` of a stage's folder. perplexity: of tasks of unlabelled
    text; empty in a stream without any. train_tokens, train_positions: of the rows, over all steps, without and with
    padding (``learning.batches.TokenCount``)."""

    model_config = ConfigDict(extra="forbid")

    row: int
    scores: list[float | None]
    valid: list[float | None]
    perplexity: list[float | None] = []
    train_seconds: float | None
    train_tokens: int | None = None
    train_positions: int | None = None
    evaluate_seconds: float
    trainable_parameters: int | None
    stored_parameters: int
    peak_rss_bytes: int


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
        """Raise ``RecipeError`` unless the folder is new, empty, or a run's."""
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
        """Raise ``RecipeError`` naming the differences if the folder was begun with other settings."""
        file = self.path / "recipe.yaml"
        if not file.exists():
            return
        try:
            there = yaml.safe_load(file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError):
            there = None
        if not isinstance(there, dict):
            raise CheckpointError(f"{file} is damaged: it holds no recipe.")
        here = recipe.document()
        there = {"head": "growing", **there, "output": None}  # the only head there was before recipes could name one
        self._refuse_differences(there, {**here, "output": None}, "settings")

    def begin(self, recipe: Recipe, protocol: Mapping[str, Any], checks: Callable[[], Mapping[str, Any]]) -> None:
        """Write what is known before the first step, or compare it with what is there. checks: asked for when they are
        written, because they read every row."""
        file = self.path / "protocol.json"
        if file.exists():
            try:
                there = json.loads(file.read_text())["protocol"]
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
        """Hold the folder against a second process; ``RecipeError`` if another holds it."""
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
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def stage_folder(self, number: int, name: str) -> Path:
        """Where a stage lies; see ``stage_name``."""
        return self.path / "tasks" / stage_name(number, name)

    def write_stage(
        self,
        folder: Path,
        row: Row,
        learner: Learner,
        scores: Mapping[str, tuple[Task, TaskScore]],
        gates: Mapping[str, Sequence[SiteGates]],
        texts: Mapping[str, TextScore],
    ) -> None:
        """Commit a stage: predictions (of a text its tokens, chunk by chunk), the row, gates (by task,
        of a gated adapter) and, once something is learnt, the learner; the manifest last."""

        def fill(place: Path) -> None:
            if learner.state.tasks:
                checkpoint.write_files(learner.snapshot(), place)
            (place / "predictions").mkdir()
            for number, (task, score) in enumerate(scores.values(), start=1):
                file = place / "predictions" / f"{stage_name(number, task.name)}.jsonl.gz"
                file.write_bytes(_predictions(task, score))
            for number, (name, text) in enumerate(texts.items(), start=len(scores) + 1):
                file = place / "predictions" / f"{stage_name(number, name)}.jsonl.gz"
                file.write_bytes(_tokens(text))
            if gates:
                (place / "gates.json").write_text(_gates(gates))
            (place / "row.json").write_text(to_json(row.model_dump()) + "\n")
            checkpoint.write_manifest(place)

        build_folder(folder, fill)

    def read_row(self, folder: Path) -> Row | None:
        """The row of a complete stage; None if the stage was not finished.

        Raises ``CheckpointError`` if it was finished and is damaged now."""
        if not (folder / checkpoint.MANIFEST).exists():
            return None
        checkpoint.verify(folder)
        return Row.model_validate_json((folder / "row.json").read_text())

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        events = self.path / "events.jsonl"
        if events.exists() and not events.read_bytes().endswith(b"\n"):
            with events.open("a") as file:
                file.write("\n")  # the line that a killed process did not finish stays alone
        places = (".*.partial", "tasks/.*.partial", "end_tasks/*/.*.partial", "base_ability/*/.*.partial")
        for leftover in [leftover for place in places for leftover in self.path.glob(place)]:
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


def stage_name(number: int, name: str) -> str:
    """``NN-name``; characters that a file system may refuse become hyphens."""
    return f"{number:02d}-{safe_name(name)}"


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


def _predictions(task: Task, score: TaskScore) -> bytes:
    """A line for each answer; with its score where the metric gives rows scores that are not just right or wrong."""
    scores = score.by_row if task.metric != "exact_match" else None
    own = [{}] * len(score.answers) if scores is None else [{"score": one} for one in scores]
    lines = (
        json.dumps({"answer": answer, "target": row.target, "right": right, **scored}, ensure_ascii=False)
        for answer, row, right, scored in zip(score.answers, task.test, score.right, own, strict=True)
    )
    return gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)


def _tokens(score: TextScore) -> bytes:
    lines = (
        json.dumps({"right": right, "tokens": tokens}) for right, tokens in zip(score.right, score.tokens, strict=True)
    )
    return gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)


def _gates(gates: Mapping[str, Sequence[SiteGates]]) -> str:
    """Without indentation: fifteen tasks, as many slots and a hundred sites make half a million lines otherwise."""
    tasks = {task: [asdict(site) for site in sites] for task, sites in gates.items()}
    return to_json({"rows": ROWS, "tokens": TOKENS, "tasks": tasks}, indent=None) + "\n"
