"""How copies of a model are fine-tuned on end tasks."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from nacre.learning.settings import Optim


class FineTuning(BaseModel):
    """The end tasks of the DAS benchmark; defaults as released by its authors (ContinualLM, approaches/finetune.py)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Literal["last", "each", "never"] = Field(
        default="last", description="after which domains: the last one, each one, or not at all"
    )
    seeds: tuple[int, ...] = Field(
        default=(2021, 111, 222, 333, 444), min_length=1, description="a copy is fine-tuned for each"
    )
    epochs: int | None = Field(default=None, ge=1, description="None: as released, 5 to 15 by task")
    learning_rate: float = Field(default=3e-5, gt=0)
    batch_size: int = Field(default=16, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_source_length: int = Field(default=164, ge=8)
    limit_train: int | None = Field(default=None, ge=1, description="rows to train on, at most")
    limit_test: int | None = Field(default=None, ge=1, description="rows to test on, at most")

    def optim(self, epochs: int) -> Optim:
        """epochs: of the task, where the settings name none. The rate falls linearly, without a warm-up."""
        return Optim(
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            epochs=self.epochs or epochs,
            weight_decay=self.weight_decay,
            schedule="linear",
            max_source_length=self.max_source_length,
        )
