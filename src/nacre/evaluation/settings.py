"""How to answer: settings alone, which are read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nacre.errors import DataError
from nacre.settings import Settings
from nacre.tasks.task import Task

if TYPE_CHECKING:
    from nacre.models.host import Host

Decode = Literal["free", "labels"]


class Decoding(Settings):
    """Settings of decoding: free and greedy, as in the papers, or the most likely of a task's labels.

    The latter is always a valid label, so that scores are higher: a run's protocol names the way.
    """

    decode: Decode = Field(
        default="free", description="free: written token after token; labels: the most likely of the task's labels"
    )
    batch_size: int = Field(
        default=64, ge=1, description="rows answered at once; fewer where the device's memory does not hold them"
    )
    split_padding: int | None = Field(
        default=1024,
        ge=0,
        description="tokens of padding that are worth one batch more, of rows of like length; None: none are",
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="None: two more than the longest label; the targets' limit for free text",
    )

    def check(self, tasks: Sequence[Task]) -> None:
        """Check that every task can be answered this way.

        Raises:
            DataError: Labels are to be chosen, and a task has none.
        """
        for task in tasks:
            if self.decode == "labels" and task.kind == "answer" and task.labels is None:
                raise DataError(
                    f"Task '{task.name}' has no labels, so that decode=labels has nothing to choose from: free text "
                    "needs decode=free."
                )

    def description(self, host: Host) -> str:
        """The decoding as a run's protocol describes it."""
        return host.family.decoding if self.decode == "free" else host.family.label_decoding
