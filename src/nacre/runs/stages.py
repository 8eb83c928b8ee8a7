"""A run's stages on disk, each bound to its run and to the stage before it.

A stage's folder is written twice: with the learner once a task is learned, and with its row once that is measured. So
a task that was learned is not learned again because its evaluation stopped. Of the learner it holds what is new since
the stage before (`nacre.learning.contents`), so that a run's folder grows with the tasks and not with their square.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nacre.errors import CheckpointError
from nacre.evaluation.gates import ROWS, TOKENS, SiteGates
from nacre.evaluation.settings import Decoding
from nacre.events import OnEvent, Warned
from nacre.files import build_folder, link, numbered_name, to_json
from nacre.learning import checkpoint
from nacre.learning.contents import Contents, Outline
from nacre.learning.learner import Learner
from nacre.learning.settings import Optim
from nacre.learning.snapshot import Snapshot
from nacre.learning.training_saves import TrainingSaves
from nacre.manifest import MANIFEST, Binding, hash_of_manifest, read_manifest, write_manifest
from nacre.measuring.measure import StageScores
from nacre.records.plain import differences
from nacre.records.predictions import write_predictions
from nacre.records.stage import LEARNED, ROW, Learned, StageRow, read_document, write_document

GATES = "gates.json"
"""Of a stage of a gated adapter: the mean gates at every site, by task."""


@dataclass(frozen=True)
class Place:
    """A stage's place in its run.

    Attributes:
        folder: Where it lies.
        row: Which row of the matrix it fills.
        previous: The folder of the stage before; None for the first.
        tasks: What its learner has learned, in order.
    """

    folder: Path
    row: int
    previous: Path | None
    tasks: tuple[str, ...]


class Stages:
    """Reads and writes the folders below `tasks/`, and what `training/` holds of the stage that is being learned.

    Args:
        path: The run's folder.
        run: Hash of what makes the run what it is (`runs.identity`).
        columns: How many tasks the stream has.
        on_event: Is told of stages that are there and cannot be used.
    """

    def __init__(self, path: Path, run: str, columns: int, on_event: OnEvent) -> None:
        self.path = path / "tasks"
        self.saves = path / "training"
        self.run = run
        self.columns = columns
        self.on_event = on_event
        self._latest: tuple[Path, Outline] | None = None  # the stage that was last written or loaded

    def folder(self, number: int, name: str) -> Path:
        """Where a stage lies.

        Args:
            number: Of its row in the matrix.
            name: Its name.
        """
        return self.path / numbered_name(number, name)

    def read(self, place: Place, learner: Learner) -> StageRow | Learned | None:
        """How far a stage has come.

        Args:
            place: Of the stage.
            learner: With the run's settings, wherever it stands.

        Returns:
            Its row; or, if it was learned and not measured, what that took; None if it is still to be learned, or to be
            learned again because the stage before it was.

        Raises:
            CheckpointError: If it is damaged, or belongs to another run; it says what to delete.
        """
        if not (place.folder / MANIFEST).exists():
            return None
        try:
            return self._read(place, learner)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} Delete the folder '{place.folder}': the same command does that stage again, and what follows."
            ) from None

    def learner(self, place: Place, learner: Learner) -> Learner:
        """Bring a learner to where it was at the end of a stage.

        Args:
            place: Of the stage.
            learner: That has learned nothing.

        Raises:
            CheckpointError: If the stage holds another one.
        """
        snapshot = checkpoint.read(place.folder)
        _check_tasks(snapshot, place)
        learner.restore(snapshot, str(place.folder))
        self._latest = place.folder, Contents.of(snapshot).outline()
        return learner

    def training(self, place: Place, every: int | None) -> TrainingSaves:
        """The saves of a stage's training.

        Args:
            place: Of the stage.
            every: Steps between two of them; None: they are made on Ctrl-C only.
        """
        return TrainingSaves(self.saves, self._binding(place), every, self.on_event)

    def drop_training(self) -> None:
        """Remove what is left of a stage's training where all stages are learned."""
        shutil.rmtree(self.saves, ignore_errors=True)

    def write_learned(self, place: Place, snapshot: Snapshot, learned: Learned) -> None:
        """Commit a learner that is not measured yet: what of it is new since the stage before.

        Args:
            place: Of the stage.
            snapshot: Of the learner after it.
            learned: What learning took.
        """
        held = Contents.of(snapshot)
        if self._latest is not None and self._latest[0] == place.previous:
            held, outline = held.since(self._latest[1], place.previous.name)
        else:
            outline = held.outline()

        def fill(folder: Path) -> None:
            checkpoint.write_files(held, folder)
            write_document(learned, folder / LEARNED)
            write_manifest(folder, self._binding(place))

        build_folder(place.folder, fill)
        self._latest = place.folder, outline

    def write_measured(self, place: Place, row: StageRow, scores: StageScores, *, last_time: bool) -> None:
        """Commit a stage: the learner that is there already, predictions, gates (of a gated adapter) and the row.

        Args:
            place: Of the stage.
            row: Of the matrix.
            scores: Of the tasks that were scored.
            last_time: Whether none of them is scored at a later stage.
        """

        def fill(folder: Path) -> None:
            if place.tasks:
                for name in read_manifest(place.folder).sha256:
                    if name != LEARNED:
                        link(place.folder / name, folder / name)
            write_predictions(folder, scores.answered, scores.texts, inputs=last_time)
            if scores.gates:
                (folder / GATES).write_text(_gates(scores.gates), encoding="utf-8")
            write_document(row, folder / ROW)
            write_manifest(folder, self._binding(place))

        build_folder(place.folder, fill)

    def _read(self, place: Place, learner: Learner) -> StageRow | Learned | None:
        manifest = read_manifest(place.folder)
        if manifest.run not in (None, self.run):
            raise CheckpointError(
                f"'{place.folder}' belongs to another run: with other settings, another seed, data or model."
            )
        if manifest.binding != self._binding(place) and not self._is_older(place):
            self.on_event(Warned(f"'{place.folder}' follows a stage that is not there any more. It is learned again."))
            return None
        manifest.check(place.folder)
        if manifest.run is None and place.tasks:
            _check_settings(checkpoint.read(place.folder), place, learner)
        if ROW not in manifest.sha256:
            manifest.check(place.folder, checkpoint.STATE, LEARNED)
            return read_document(Learned, place.folder / LEARNED)
        row = read_document(StageRow, place.folder / ROW)
        if (row.row, len(row.scores), len(row.valid)) != (place.row, self.columns, self.columns):
            raise CheckpointError(
                f"{place.folder / ROW} holds row {row.row} with {len(row.scores)} scores; row {place.row} with "
                f"{self.columns} is expected here."
            )
        return row

    def _is_older(self, place: Place) -> bool:
        """Whether the stage and all before it are from before stages were bound."""
        before = [] if place.previous is None else [place.previous]
        return all(read_manifest(folder).run is None for folder in (place.folder, *before))

    def _binding(self, place: Place) -> Binding:
        return Binding(run=self.run, previous=None if place.previous is None else hash_of_manifest(place.previous))


def _check_settings(snapshot: Snapshot, place: Place, learner: Learner) -> None:
    """Of a stage that is not bound, what it says itself: whose it is."""
    _check_tasks(snapshot, place)
    there = {
        "seed": snapshot.seed,
        "method": dict(snapshot.method),
        "optim": Optim(**snapshot.optim).model_dump(),
        "evaluation": Decoding(**snapshot.decoding).model_dump(),
    }
    here = {
        "seed": learner.state.seed,
        "method": {"name": learner.method.name, "parameters": dict(learner.method.parameters)},
        "optim": learner.optim.model_dump(),
        "evaluation": learner.decoding.model_dump(),
    }
    if different := differences(_plain(there), _plain(here)):
        raise CheckpointError(f"'{place.folder}' belongs to another run: {'; '.join(different)}.")


def _check_tasks(snapshot: Snapshot, place: Place) -> None:
    if snapshot.tasks != place.tasks:
        raise CheckpointError(
            f"'{place.folder}' holds a learner of {', '.join(snapshot.tasks) or 'no task'}; one of "
            f"{', '.join(place.tasks)} belongs there."
        )


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Lists for tuples, as in a file."""
    document: dict[str, Any] = json.loads(to_json(value))
    return document


def _gates(gates: Mapping[str, Sequence[SiteGates]]) -> str:
    """Without indentation: fifteen tasks, as many slots and a hundred sites make half a million lines otherwise."""
    tasks = {task: [asdict(site) for site in sites] for task, sites in gates.items()}
    return to_json({"rows": ROWS, "tokens": TOKENS, "tasks": tasks}, indent=None) + "\n"
