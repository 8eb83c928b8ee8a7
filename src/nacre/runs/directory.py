"""A run's folder: what is in it, which stages are complete, and whether it may be continued."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from nacre.documents import DocumentError, parse_json
from nacre.errors import CheckpointError, RecipeError
from nacre.events import Event, as_document
from nacre.files import hash_of, read_text, read_yaml, to_json, write_atomically
from nacre.journal import Journal, held
from nacre.measuring.environment import environment
from nacre.migrations import upgraded_recipe
from nacre.records.plain import NO_RESULT, differences
from nacre.runs.recipe import Recipe, probe_settings

FolderState = Literal["new", "begun", "finished"]


class RunDirectory:
    """Reads and writes one run's folder. Every file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = path / "results.json"
        self.report = path / "report.html"
        self.journal = Journal(path / "events.jsonl")

    @property
    def state(self) -> FolderState:
        """How far the run in it has come."""
        if self.results.exists():
            return "finished"
        return "begun" if (self.path / "recipe.yaml").exists() else "new"

    @property
    def stages(self) -> dict[int, Path]:
        """The folders of saved learners, by how many tasks had been learned then."""
        numbered = {each.name.partition("-")[0]: each for each in (self.path / "tasks").glob("*-*")}
        return {int(number): numbered[number] for number in sorted(filter(str.isdecimal, numbered), key=int)}

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
            there = read_yaml(file)
        except DocumentError:
            there = None
        if not isinstance(there, dict):
            raise CheckpointError(f"{file} is damaged: it holds no recipe.")
        free = dict.fromkeys(NO_RESULT)
        self._refuse_differences({**upgraded_recipe(there), **free}, {**recipe.document(), **free}, "settings")

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

    def check_shared(self) -> None:
        """Refuse a folder that the first process has begun, and this one does not see.

        Raises:
            RecipeError: If it is another machine's folder of that name.
        """
        if not (self.path / "recipe.yaml").exists():
            raise RecipeError(f"Output '{self.path}' must be a folder that all processes see.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against a second process.

        Raises:
            RecipeError: If another process holds it.
        """
        with held(self.path, f"Another process is running in '{self.path}'; wait for it, or choose another --output."):
            yield

    def append(self, event: Event) -> None:
        """Append one line to `events.jsonl`."""
        self.journal.append(as_document(event))

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        self.journal.mend()
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


def _visible(folder: Path) -> bool:
    return any(not file.name.startswith(".") for file in folder.iterdir())
