"""Probes: what a run measures of saved learners besides the score matrix.

To add one: a file beside this one with its settings (`Probe`), its measuring (`Measurement`) and its result
(`ProbeRecord`), a field of that settings' type in `Recipe`, and a field of that result's type in `RunRecord`. Both
fields have the same name, which is also that of the results' folder in a run. Everything else (recipes, dry runs,
protocols, folders, comparisons, pages, the screen) goes over these fields.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel

from nacre.errors import CheckpointError
from nacre.events import OnEvent
from nacre.files import hash_of, to_json, write_atomically
from nacre.learning.checkpoint import is_learners
from nacre.learning.learner import Learner
from nacre.manifest import read_manifest
from nacre.method import Method
from nacre.models.host import Host
from nacre.records.probe import ProbeRecord
from nacre.settings import Settings
from nacre.tasks.task import Task

Result = TypeVar("Result", bound=BaseModel)

SavedStage = tuple[str, Path]
"""A stage's name and its folder in the run; the first stage of a run is before any task."""


class Probe(Settings, ABC):
    """A probe's settings, as a recipe holds them."""

    places: ClassVar[tuple[str, ...]] = ()
    """The settings that say where something is, and may name variables of the environment."""

    @classmethod
    def usual(cls, stream: str | list[str]) -> Probe | None:
        """The probe that a run of this stream has if its recipe names none."""
        return None

    @abstractmethod
    def check(self, method: Method) -> None:
        """Refuse what needs neither data nor model to be seen.

        Raises:
            NacreError: If the probe cannot work so, or not with this method.
        """

    @abstractmethod
    def missing(self) -> str | None:
        """Why a run would not find its rows, as a sentence; None if it would, or if only the host can tell.

        Raises:
            DataError: If rows that are there are not what the probe needs.
        """

    @abstractmethod
    def summary(self) -> str | None:
        """What is measured, for a dry run, in a phrase; None if nothing is."""

    @abstractmethod
    def prepare(self, corpora: Sequence[str], data: str | None, host: Host) -> Measurement | None:
        """Read what is measured.

        Args:
            corpora: The names of the stream's tasks.
            data: Where the stream's rows are.
            host: The pretrained model.

        Returns:
            What measures; None if nothing is to be measured.

        Raises:
            NacreError: If there is nothing to read, or if the host cannot be measured.
        """


class Measurement(ABC):
    """A probe with its rows."""

    @property
    @abstractmethod
    def checked(self) -> Sequence[Task]:
        """Tasks whose rows are checked with those of the stream."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What makes results comparable, for the run's protocol."""

    @abstractmethod
    def stages(self, stages: Sequence[SavedStage]) -> Sequence[SavedStage]:
        """After which of a run's stages is measured."""

    @abstractmethod
    def measure(
        self, folder: Path, stages: Sequence[SavedStage], learner_of: Callable[[Path], Learner], on_event: OnEvent
    ) -> ProbeRecord:
        """Measure what no file holds yet, and read the rest.

        Args:
            folder: Of the results.
            stages: After which is measured.
            learner_of: From a stage's folder to the learner as it was then. It is called only where something is
                measured, and takes the host from the learner that it made before.
            on_event: Is told of every measurement and result.
        """


STAGE = "stage"
"""The key of a stored result that says of which stage it is."""


def read_result(kind: type[Result], file: Path, stage: Path) -> Result | None:
    """Read a stored result.

    Args:
        kind: Its type.
        file: Where it lies if it was measured.
        stage: The folder of the stage that was measured.

    Returns:
        The result; None if there is no file.

    Raises:
        CheckpointError: If the file is damaged, or of another learner.
    """
    if not file.exists():
        return None
    advice = "delete it, and the same command measures it again"
    try:
        document = json.loads(file.read_bytes())
        measured = document.pop(STAGE, None)
        result = kind.model_validate(document)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise CheckpointError(f"{file} is damaged; {advice}.") from None
    older = measured is None and read_manifest(stage).run is None
    if not older and measured != _mark(stage):
        raise CheckpointError(f"{file} was measured on another learner than the one in '{stage}'; {advice}.")
    return result


def write_result(result: BaseModel, file: Path, stage: Path, indent: int | None = 2) -> None:
    """Store a result; the file appears whole or not at all.

    Args:
        result: What was measured.
        file: Where it is to lie.
        stage: The folder of the stage that was measured.
        indent: Of the JSON.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {**result.model_dump(mode="json"), STAGE: _mark(stage)}
    write_atomically(file, to_json(document, indent=indent) + "\n")


def _mark(stage: Path) -> str:
    """Hash of the run and of the learner in a stage, which is the same when the stage was learned again."""
    manifest = read_manifest(stage)
    learner = {name: digest for name, digest in manifest.sha256.items() if is_learners(name)}
    return hash_of({"run": manifest.run, "learner": learner})
