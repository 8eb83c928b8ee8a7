"""Probes: what a run measures of saved learners besides the score matrix.

To add one: a file NAME.py beside this one with its settings (`Probe`), which are read without torch; a file
NAME_measurement.py with its `Measurement` and a function `prepare(settings, corpora, data, host)` that makes it; its
result (`ProbeRecord`); a field of that settings' type in `Recipe`, and one of that result's type in `RunRecord`. Both
fields have the same name, which is also that of the results' folder in a run. Everything else (recipes, dry runs,
protocols, folders, comparisons, pages, the screen) goes over these fields.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from nacre.events import OnEvent
from nacre.records.probe import ProbeRecord
from nacre.settings import Settings
from nacre.tasks.task import Task

if TYPE_CHECKING:
    from nacre.learning.learner import Learner
    from nacre.method import Method
    from nacre.models.host import Host

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

    @final
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
        measurement = import_module(f"{type(self).__module__}_measurement")  # with torch, and only now
        return measurement.prepare(self, corpora, data, host)  # type: ignore[no-any-return]


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
