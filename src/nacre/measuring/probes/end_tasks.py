"""End tasks: what a model gained from the texts it read, measured by copies that are fine-tuned (DAS, order 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from nacre.errors import RecipeError
from nacre.learning.settings import Optim, Rate
from nacre.measuring.probes.probe import Probe
from nacre.settings import AS_LIST

if TYPE_CHECKING:
    from nacre.method import Method


class FineTuning(Probe):
    """The end tasks of the DAS benchmark; defaults as released by its authors (ContinualLM, approaches/finetune.py)."""

    after: Literal["last", "each", "never"] = Field(
        default="last", description="after which domains: the last one, each one, or not at all"
    )
    seeds: Annotated[tuple[int, ...], AS_LIST] = Field(
        default=(2021, 111, 222, 333, 444), min_length=1, description="a copy is fine-tuned for each"
    )
    epochs: int | None = Field(default=None, ge=1, description="None: as released, 5 to 15 by task")
    learning_rate: Rate = 3e-5
    batch_size: int = Field(default=16, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_source_length: int = Field(default=164, ge=8)
    limit_train: int | None = Field(default=None, ge=1, description="rows to train on, at most")
    limit_test: int | None = Field(default=None, ge=1, description="rows to test on, at most")

    @classmethod
    def usual(cls, stream: str | list[str]) -> FineTuning | None:
        return cls() if stream == "das" else None

    def optim(self, epochs: int) -> Optim:
        """How a copy is trained. The rate falls linearly, without a warm-up.

        Args:
            epochs: Of the task, where the settings name none.
        """
        return Optim(
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            epochs=self.epochs or epochs,
            weight_decay=self.weight_decay,
            schedule="linear",
            max_source_length=self.max_source_length,
        )

    def check(self, method: Method) -> None:
        if self.after != "never" and method.curriculum.needs_task_at_test:
            raise RecipeError(
                f"end_tasks: {method.display_name} ends with a model for each task, not with a last one to copy. "
                "Set end_tasks.after=never."
            )
        routing = method.routing
        by_task = routing is not None and routing.needs_task_at_test and method.adapter.copied_by_task
        if self.after != "never" and ((routing is not None and not by_task) or method.adapter.has_virtual_tokens):
            raise RecipeError(
                f"end_tasks: what {method.display_name} has learned is no part of the encoder's weights, so that a "
                "copy of the encoder would not have it. Set end_tasks.after=never."
            )

    def missing(self) -> str | None:
        return None  # they lie with the stream's rows, and how they are read depends on the tokenizer

    def summary(self) -> str | None:
        when = {"last": "after the last domain", "each": "after every domain", "never": None}[self.after]
        return when and f"copies fine-tuned {when}, {len(self.seeds)} seed(s) each"
