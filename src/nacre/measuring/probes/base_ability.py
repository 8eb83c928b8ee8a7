"""Base ability in a run: published benchmarks, measured of the learner as it was saved at each stage that counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from nacre.errors import RecipeError
from nacre.evaluation.base_ability.benchmarks import AbilityName, load_ability_tasks
from nacre.evaluation.base_ability.programs import check_consent, containment
from nacre.measuring.probes.probe import Probe
from nacre.settings import AS_LIST

if TYPE_CHECKING:
    from nacre.method import Method

DEFAULT_TASKS: tuple[AbilityName, ...] = ("hellaswag", "winogrande", "arc_challenge")


class BaseAbility(Probe):
    """Published benchmarks of what pre-training taught, before and after the stream (`evaluation.base_ability`)."""

    places: ClassVar[tuple[str, ...]] = ("data",)

    tasks: Annotated[tuple[AbilityName, ...], AS_LIST] = Field(default=DEFAULT_TASKS, min_length=1)
    data: str | None = Field(default=None, description="a folder with TASK/test.jsonl; None: the Hugging Face datasets")
    when: Literal["ends", "every"] = Field(
        default="ends", description="before and after the stream, or before it and after every task"
    )
    limit: int | None = Field(default=None, ge=1, description="rows of a task, at most: its first ones")
    run_generated_code: bool = Field(
        default=False, description="whether humaneval may run the programs that the model writes"
    )
    max_new_tokens: int = Field(default=1024, ge=1, le=65_536, description="of a program, at most")
    batch_size: int = Field(default=16, ge=1, description="inputs measured at once")

    def check(self, method: Method) -> None:
        if len(set(self.tasks)) < len(self.tasks):
            raise RecipeError(f"base_ability.tasks: {', '.join(self.tasks)} names a task twice.")
        check_consent(self.tasks, self.run_generated_code)
        if method.curriculum.needs_task_at_test and self.when == "ends":
            raise RecipeError(
                f"base_ability: {method.display_name} ends with a model for each task, not with a last one to measure. "
                "Set base_ability.when=every."
            )
        if method.traits["task identity at test"] and not method.curriculum.needs_task_at_test:
            raise RecipeError(
                f"base_ability: {method.display_name} must be given the task of every input, and a benchmark is none "
                "of the stream's tasks. Leave base_ability out."
            )
        from nacre.evaluation.base_ability.harness import lm_eval  # with torch

        lm_eval("")
        if "humaneval" in self.tasks:
            containment()

    def missing(self) -> str | None:
        if self.data is None:
            return "base_ability: its rows are read from the cache or over the network, which a dry run does not use."
        if not Path(self.data).exists():
            return f"base_ability.data: the folder {self.data} does not exist."
        load_ability_tasks(self.tasks, self.data, self.limit)
        return None

    def summary(self) -> str | None:
        when = "before and after the stream" if self.when == "ends" else "before it and after every task"
        return f"{', '.join(self.tasks)}, {when}; rows from {self.data or 'the Hugging Face Hub'}"
