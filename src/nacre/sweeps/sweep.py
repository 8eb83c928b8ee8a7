"""A sweep: the runs of a grid in a folder, each carried out once, whatever stops the sweep in between.

SWEEP/
  grid.yaml        what was asked for last
  recipes/         each run's recipe
  runs/NAME/       each run's folder (`nacre run`)
  choice/NAME/     of those that choose, on validation rows
  logs/            what each run printed
  journal.jsonl    what happened when
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from nacre.errors import NacreError, RecipeError
from nacre.files import write_atomically
from nacre.journal import Journal, held
from nacre.launcher import torchrun
from nacre.records.reading import read_record
from nacre.records.run import RunRecord
from nacre.runs.directory import RunDirectory
from nacre.sweeps.engines.engine import Resources, RunEngine
from nacre.sweeps.engines.leashed import ANY
from nacre.sweeps.grid import Cell, Combination, SweepSettings, cell_of, combinations
from nacre.sweeps.published import Found
from nacre.sweeps.run_metric import metric_of

RunState = Literal["new", "begun", "failed", "finished", "waiting"]

DIVERGED = "not finite"
"""Is in the reason of a run whose training diverged: a rate that was too high is no candidate, and no obstacle."""


@dataclass(frozen=True)
class RunStatus:
    """How a run of a sweep stands.

    Attributes:
        name: Its name.
        state: `waiting`: for what is chosen first; `failed`: begun, and ended by an error the last time.
        chosen: What was chosen for it, by key.
        value: The grid's metric, or the average; None until it is finished.
        reason: Why it failed, in one line; or what it waits for.
    """

    name: str
    state: RunState
    chosen: Mapping[str, Any]
    value: float | None
    reason: str


@dataclass(frozen=True)
class RunEnded:
    """A run has ended.

    Attributes:
        name: Its name.
        code: Its exit code.
        reason: Why it failed, in one line; empty if it is finished.
        done: How many runs of this stage have ended.
        of: How many there are.
    """

    name: str
    code: int
    reason: str
    done: int
    of: int


class Sweep:
    """Reads a sweep's folder, and carries out what is missing in it.

    Attributes:
        path: The folder.
        grid: What is to be carried out.
    """

    def __init__(self, path: Path, grid: SweepSettings) -> None:
        """Look at the grid; nothing is written.

        Raises:
            RecipeError: If one of its runs cannot be.
        """
        self.path, self.grid = path, grid
        self.combinations: Sequence[Combination] = combinations(grid)
        self._journal = Journal(path / "journal.jsonl")
        self._known: set[str] = set()  # runs whose folder has been compared with the grid
        possible = [self._cells(combination, combination.to_choose[0]) for combination in self.combinations]
        _check_names([*self.candidates(), *itertools.chain(*possible)])

    @property
    def metric(self) -> str:
        """What runs are compared by."""
        return "average_accuracy" if self.grid.choose is None else self.grid.choose.by

    def usual_threads(self, jobs: int) -> int:
        """An equal share of the processor for each process of so many runs at a time."""
        return max(1, (os.cpu_count() or 1) // (jobs * self.grid.resources.processes))

    def candidates(self) -> list[Cell]:
        """The runs that choose; combinations may share some."""
        found = {cell.name: cell for combination in self.combinations for cell in combination.candidates}
        return list(found.values())

    def runs(self) -> list[Cell]:
        """The grid's own runs of which it is known what was chosen for them."""
        reasons = self._reasons()
        return [
            cell
            for combination in self.combinations
            if (chosen := self._chosen(combination, reasons)) is not None
            for cell in self._cells(combination, chosen)
        ]

    def folder(self, cell: Cell) -> Path:
        """Where a run's files are, or will be."""
        return self.path / (cell.name if cell.chooses else f"runs/{cell.name}")

    def found(self) -> list[Found]:
        """The grid's own runs that are finished."""
        return [Found(cell.names, record) for cell in self.runs() if (record := self._record(cell)) is not None]

    def status(self) -> list[RunStatus]:
        """How each run stands, those that choose first."""
        reasons = self._reasons()
        found = [self._status(cell, {}, reasons) for cell in self.candidates()]
        for combination in self.combinations:
            chosen = self._chosen(combination, reasons)
            for cell in self._cells(combination, combination.to_choose[0] if chosen is None else chosen):
                if chosen is None:
                    found.append(RunStatus(cell.name, "waiting", {}, None, self._waits_for(combination, reasons)))
                else:
                    found.append(self._status(cell, chosen, reasons))
        return found

    def carry_out(self, engine: RunEngine, threads: int, on_end: Callable[[RunEnded], None]) -> list[RunStatus]:
        """Carry out what is not finished: first what chooses, then the grid's own runs.

        Args:
            engine: Where.
            threads: Of each process of a run.
            on_end: Is called when a run has ended.

        Returns:
            How each run stands afterwards.

        Raises:
            RecipeError: If another process does the same.
        """
        with self._locked():
            document = self.grid.model_dump(by_alias=True, mode="json", exclude_defaults=True)
            write_atomically(self.path / "grid.yaml", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
            for cells in (self.candidates, self.runs):
                self._carry_out([cell for cell in cells() if not self._is_finished(cell)], engine, threads, on_end)
        return self.status()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with held(self.path, f"Another process is sweeping in '{self.path}'; wait for it, or choose another --output."):
            self._journal.mend()
            yield

    def _carry_out(
        self, cells: Sequence[Cell], engine: RunEngine, threads: int, on_end: Callable[[RunEnded], None]
    ) -> None:
        waiting: dict[Future[int], Cell] = {}
        for cell in cells:
            recipe = self.path / "recipes" / f"{cell.name}.yaml"
            recipe.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(recipe, cell.recipe.yaml())
            words = [sys.executable, "-m", "nacre", "run", str(recipe), "--output", str(self.folder(cell))]
            if (together := self.grid.resources.processes) > 1:
                words = [*torchrun(together), "nacre.sweeps.engines.leashed", ANY, *words]
            if self.grid.resources.sharded:
                words.append("--sharded")
            resources = Resources(threads, self.grid.resources.gpus, self._log(cell))
            waiting[engine.submit(words, resources)] = cell
        while waiting:
            ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                cell = waiting.pop(future)
                code, reason = self._outcome(cell, future)
                self._journal.append({"event": "ended", "run": cell.name, "code": code, "reason": reason})
                on_end(RunEnded(cell.name, code, reason, len(cells) - len(waiting), len(cells)))

    def _outcome(self, cell: Cell, future: Future[int]) -> tuple[int, str]:
        try:
            code = future.result()
        except Exception as error:  # of the engine, whose kinds of errors are its own
            return 1, f"the engine failed: {type(error).__name__}: {error}".splitlines()[0]
        if code == 0 and self._is_finished(cell):
            return code, ""
        said = self._log(cell).read_text(encoding="utf-8", errors="replace").splitlines()
        if errors := [line for line in said if line.startswith("Error: ")]:
            return code, errors[-1].removeprefix("Error: ")
        return code, f"it ended with exit code {code}; see {self._log(cell)}"

    def _cells(self, combination: Combination, chosen: Mapping[str, Any]) -> list[Cell]:
        return [cell_of(self.grid, point, chosen) for point in combination.runs]

    def _chosen(self, combination: Combination, reasons: Mapping[str, str]) -> Mapping[str, Any] | None:
        """What the candidates chose; None while one of them is missing, or where the metric is not defined in one."""
        if not combination.candidates:
            return {}
        lower = metric_of(self.metric).better == "lower"
        best: tuple[float, Mapping[str, Any]] | None = None
        for cell, settings in zip(combination.candidates, combination.to_choose, strict=True):
            record = self._record(cell)
            if record is None and DIVERGED in reasons.get(cell.name, ""):
                continue
            value = self._value(record)
            if value is None:
                return None
            worth = -value if lower else value
            if best is None or worth > best[0]:
                best = worth, settings
        return None if best is None else best[1]

    def _waits_for(self, combination: Combination, reasons: Mapping[str, str]) -> str:
        missing = [cell.name for cell in combination.candidates if not self._is_finished(cell)]
        if not missing:
            undefined = [cell.name for cell in combination.candidates if self._value(self._record(cell)) is None]
            return f"{self.metric} is not defined in {', '.join(undefined)}; choose by another metric"
        failed = [name for name in missing if name in reasons]
        return f"{'failed' if failed else 'not finished'}: {', '.join(failed or missing)}"

    def _status(self, cell: Cell, chosen: Mapping[str, Any], reasons: Mapping[str, str]) -> RunStatus:
        directory = RunDirectory(self.folder(cell))
        if self._is_finished(cell):
            return RunStatus(cell.name, "finished", chosen, self._value(self._record(cell)), "")
        reason = reasons.get(cell.name) or self._other_settings(cell)
        return RunStatus(cell.name, "failed" if reason else directory.state, chosen, None, reason)

    def _reasons(self) -> dict[str, str]:
        """Why runs failed when they last ended, by name."""
        last = {line["run"]: line for line in self._journal.lines() if line.get("event") == "ended"}
        return {name: str(line["reason"]) for name, line in last.items() if line["reason"]}

    def _value(self, record: RunRecord | None) -> float | None:
        return None if record is None else record.value(self.metric)

    def _record(self, cell: Cell) -> RunRecord | None:
        return read_record(RunDirectory(self.folder(cell)).results) if self._is_finished(cell) else None

    def _is_finished(self, cell: Cell) -> bool:
        """Whether the run is finished, with these settings: a grid may have changed since."""
        return RunDirectory(self.folder(cell)).state == "finished" and not self._other_settings(cell)

    def _other_settings(self, cell: Cell) -> str:
        """What the run in the cell's folder has otherwise; empty where it has nothing otherwise, or is not there."""
        folder = self.folder(cell)
        if cell.name in self._known:
            return ""
        try:
            RunDirectory(folder).check_same(cell.recipe.model_copy(update={"output": str(folder)}).resolved())
        except NacreError as error:
            return str(error)
        if RunDirectory(folder).state != "new":
            self._known.add(cell.name)
        return ""

    def _log(self, cell: Cell) -> Path:
        return self.path / "logs" / f"{cell.name}.txt"


def _check_names(cells: Sequence[Cell]) -> None:
    """Refuse two runs of one name."""
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise RecipeError(f"Two runs of the grid are called '{cell.name}'; give their values names of their own.")
        seen.add(cell.name)
