"""What a store is made with: its model and method, how it learns and answers, and what it keeps of the rows."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from nacre.errors import RecipeError
from nacre.learning.learner_settings import LearnerSettings
from nacre.measuring.probes.base_ability import BaseAbility
from nacre.method_files import MethodFile
from nacre.models.named import DEMO
from nacre.places import absolute, expanded
from nacre.records.gate_verdict import Against, Unclear
from nacre.store.gate import MustKeep

TestRows = Literal["keep", "reference", "hash"]
TEST_ROWS: tuple[TestRows, ...] = get_args(TestRows)


class StoreSettings(LearnerSettings):
    """The settings in `store.json`. They hold for all of a store's versions."""

    test_rows: TestRows = Field(
        default="keep",
        description="of learned tasks, by which later versions are measured: keep copies them into the store, "
        "reference reads them again where they were, hash keeps neither",
    )
    must_keep: str | None = Field(
        default=None, description="the gate of every new version, such as 'agnews:-2pt, *:-3pt'; None: none"
    )
    unclear: Unclear = Field(
        default="fail",
        description="what the gate does where too few rows tell whether a score was kept: fail, or pass if the change "
        "as measured is within what may be lost",
    )
    against: Against = Field(
        default="before",
        description="which version the gate compares a score with: the one before, or the one that had just learned "
        "the task, so that small losses do not add up",
    )
    base_ability: BaseAbility | None = Field(
        default=None, description="published benchmarks that every version is measured on; None: none"
    )

    def model_post_init(self, context: Any, /) -> None:
        """Refuse a method in a file: opening a store would run whatever the file holds."""
        if MethodFile.of(self.method.split("+")[0]) is not None:
            raise RecipeError(
                f"A store does not run files, and '{self.method}' is one: put the method into a package that registers "
                "it (entry point nacre.methods)."
            )

    def written_out(self) -> StoreSettings:
        """The settings with every default of the method written out and every place found.

        Raises:
            RecipeError: If the method cannot learn task after task, if the gate is not written as one is, or if a
                variable of the environment is not set.
        """
        method = self.build()
        if not method.curriculum.continues:
            raise RecipeError(
                f"{method.display_name} does not go on from one task to the next, which a store does: choose another "
                "method."
            )
        if self.base_ability is not None:
            self.base_ability.check(method)
        if self.must_keep is not None:
            MustKeep.of(self.must_keep)
        model = self.model if self.model == DEMO else absolute(expanded("model", self.model))
        return self.model_copy(update={**self.method_written_out(), "model": model, **self._ability_place()})

    def _ability_place(self) -> dict[str, BaseAbility]:
        ability = self.base_ability
        if ability is None or ability.data is None:
            return {}
        place = absolute(expanded("base_ability.data", ability.data))
        return {"base_ability": ability.model_copy(update={"data": place})}
