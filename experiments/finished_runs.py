"""The finished runs of sweeps, for the files that have a line for each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacre.records.reading import read_record
from nacre.records.run import RunRecord
from nacre.sweeps.grid import read_grid
from nacre.sweeps.sweep import Sweep


@dataclass(frozen=True)
class FinishedRun:
    """One of a sweep's. names: its values of what is varied; chooses: whether it is one of those that choose."""

    name: str
    names: Mapping[str, str]
    chooses: bool
    folder: Path
    record: RunRecord

    @property
    def kept(self) -> dict[str, Any]:
        """What every line has of a run, whatever it is for."""
        record = self.record
        assert record.optim is not None  # every run that is made today says how it was trained
        return {
            "method": record.method,
            "seed": record.seed,
            "rate": record.optim["learning_rate"],
            "average": record.average_accuracy,
            "incremental_accuracy": record.incremental_accuracy,
            "learning": record.learning_accuracy,
            "forgetting": record.forgetting,
            "matrix": record.matrix,
            "train_seconds": sum(seconds or 0 for seconds in record.seconds.train),
            "evaluate_seconds": sum(seconds or 0 for seconds in record.seconds.evaluate),
            "trainable_parameters": record.trainable_parameters,
            "peak_rss_bytes": record.peak_rss_bytes,
        }


def finished_runs(sweep: Path) -> Iterator[FinishedRun]:
    """A sweep's finished runs, those that choose first; nothing if there is no such sweep."""
    if not (sweep / "grid.yaml").exists():
        return
    found = Sweep(sweep, read_grid(sweep / "grid.yaml"))
    finished = {run.name for run in found.status() if run.state == "finished"}
    for cell in [*found.candidates(), *found.runs()]:
        if cell.name in finished:
            folder = found.folder(cell)
            record = read_record(folder / "results.json")
            yield FinishedRun(cell.name, cell.names, cell.chooses, folder, record)


def commands_of_sweeps(description: str | None) -> tuple[argparse.ArgumentParser, Any]:
    """The commands `collect SWEEPS` and `table`.

    Returns:
        The parser, and what further commands are added to. The command's name is `command`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("collect").add_argument("sweeps", type=Path, help="the folder of the sweeps' folders")
    commands.add_parser("table")
    return parser, commands
