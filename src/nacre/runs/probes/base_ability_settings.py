"""What a run measures of its model's base ability, and when."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from nacre.evaluation.base_ability.benchmarks import AbilityName

DEFAULT_TASKS: tuple[AbilityName, ...] = ("hellaswag", "winogrande", "arc_challenge")


class BaseAbility(BaseModel):
    """Published benchmarks of what pre-training taught, before and after the stream (``evaluation.ability``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[AbilityName, ...] = Field(default=DEFAULT_TASKS, min_length=1)
    data: str | None = Field(default=None, description="a folder with TASK/test.jsonl; None: the Hugging Face datasets")
    when: Literal["ends", "every"] = Field(
        default="ends", description="before and after the stream, or before it and after every task"
    )
    limit: int | None = Field(default=None, ge=1, description="rows of a task, at most: its first ones")
    run_generated_code: bool = Field(
        default=False, description="whether humaneval may run the programs that the model writes"
    )
    max_new_tokens: int = Field(default=1024, ge=1, description="of a program, at most")
    batch_size: int = Field(default=16, ge=1, description="inputs measured at once")
