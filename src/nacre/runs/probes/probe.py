"""Probes: what a run measures of saved learners besides the score matrix.

To add one: a file beside this one with its settings (`Probe`), its measuring (`Measurement`) and its result
(`ProbeRecord`), a field of that settings' type in `Recipe`, and a field of that result's type in `RunRecord`. Both
fields have the same name, which is also that of the results' folder in a run. Everything else (recipes, dry runs,
protocols, folders, comparisons, pages, the screen) goes over these fields.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from nacre.errors import CheckpointError
from nacre.events import OnEvent
from nacre.files import to_json, write_atomically
from nacre.learning.learner import Learner
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


def read_result(kind: type[Result], file: Path) -> Result | None:
    """Read a stored result.

    Args:
        kind: Its type.
        file: Where it lies if it was measured.

    Returns:
        The result; None if there is no file.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if not file.exists():
        return None
    try:
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise CheckpointError(f"{file} is damaged; delete it, and the same command measures it again.") from None


def write_result(result: BaseModel, file: Path, indent: int | None = 2) -> None:
    """Store a result; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, to_json(result.model_dump(mode="json"), indent=indent) + "\n")
