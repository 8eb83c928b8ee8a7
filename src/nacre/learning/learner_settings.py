"""Everything that makes a learner: model, method, seed, how it trains and how it answers. Read without torch."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, JsonValue, PrivateAttr

from nacre.errors import RecipeError
from nacre.evaluation.settings import Decoding
from nacre.files import hash_of
from nacre.learning.settings import Optim
from nacre.method_files import MethodFile
from nacre.models.loaded_as import Attention, Dtype, LoadedAs, Quantization
from nacre.models.named import HeadKind
from nacre.registry import build_method, check_spelling
from nacre.settings import Settings, keys_of
from nacre.tasks.template import Identity

if TYPE_CHECKING:
    from nacre.method import Method

NOT_TRAINING: dict[str, JsonValue] = {"affects_training": False}
"""Marks a field of a recipe that does not say how a model is trained: it says where something is or what is measured,
or the run's record holds it. Runs that differ in other fields are different groups of a comparison."""


class LearnerSettings(Settings, ABC):
    """What recipes and stores have in common. `set` are the method's parameters."""

    method: str = Field(
        description="a method's name, with modifiers behind +, or a file that holds one: ./mine.py:name",
        json_schema_extra=NOT_TRAINING,
    )
    method_hash: str | None = Field(
        default=None,
        description="filled in: which content a method's file had, or the parts of one put together in Python",
    )
    model: str = Field(
        default="demo",
        min_length=1,
        description="a folder, a Hugging Face name, or 'demo'",
        json_schema_extra=NOT_TRAINING,
    )
    seed: int = Field(default=0, ge=0, json_schema_extra=NOT_TRAINING)
    identity: Identity = Field(
        default="none", description="prompt lines that tell the model its task", json_schema_extra=NOT_TRAINING
    )
    model_dropout: float | None = Field(
        default=None, ge=0, lt=1, description="dropout inside the pretrained model; None: what its configuration says"
    )
    model_dtype: Dtype = Field(
        default="float32",
        description="of the pretrained weights in memory; what adapters train stays float32 at least",
    )
    model_quantization: Quantization = Field(
        default="none", description="of its linear maps: none, int8, or nf4 (4 bits); needs an adapter method"
    )
    model_attention: Attention | None = Field(
        default=None, description="how attention is computed; None: as transformers chooses"
    )
    head: HeadKind = Field(
        default="growing",
        description="how an encoder-only host chooses: one head that grows with the tasks' labels, or per_task: a head "
        "for each task, which is given in training and at test",
        json_schema_extra=NOT_TRAINING,
    )
    optim: Optim = Field(default_factory=Optim)
    evaluation: Decoding = Field(default_factory=Decoding, json_schema_extra=NOT_TRAINING)
    parameters: dict[str, Any] = Field(default_factory=dict, alias="set")
    _method: Method | None = PrivateAttr(default=None)  # one that was put together in Python has no name to build it by

    @property
    def loaded_as(self) -> LoadedAs:
        """How the model is held in memory."""
        return LoadedAs(self.model_dtype, self.model_quantization, self.model_attention, self.model_dropout)

    def build(self) -> Method:
        """The method with its parameters.

        Raises:
            RecipeError: If there is no such method, or if a parameter is not what it takes.
        """
        if self._method is not None:
            return self._method
        return build_method(self.method, self.parameters, instead=keys_of(type(self)))

    def check_method_name(self) -> None:
        """Refuse a method or parameter that does not exist, without importing any method.

        Raises:
            RecipeError: If a name or a parameter's type is wrong.
        """
        if self._method is None:
            check_spelling(self.method, self.parameters, instead=keys_of(type(self)))

    def method_written_out(self) -> dict[str, Any]:
        """The fields that say of a method all that the settings leave to it: its name, parameters and usual rate.

        Raises:
            RecipeError: If the method was changed since the settings were written.
        """
        method = self.build()
        rate = self.optim.learning_rate or method.adapter.learning_rate
        return {
            "method": method.name or self.method,
            "method_hash": self._hash_of(method),
            "parameters": plain_parameters(method.parameters),
            "optim": self.optim.model_copy(update={"learning_rate": rate}),
        }

    def document(self) -> dict[str, Any]:
        """Plain values, as they are written to a file; the method's parameters come last."""
        document = self.model_dump(by_alias=True, mode="json")
        return {**document, "set": document.pop("set")}

    def _hash_of(self, method: Method) -> str | None:
        """What a name does not say of the method."""
        if (file := MethodFile.of(self.method.split("+")[0])) is not None:
            found: str | None = file.hash()
        else:
            found = None if method.name else hash_of([str(method.adapter), *map(str, method.parts)])
        if self.method_hash not in (None, found):
            raise RecipeError(f"Method '{self.method}' was changed since this recipe was written; remove method_hash.")
        return found


def plain_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As YAML and JSON would give them back: lists for tuples, also in a modifier's own parameters."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return plain_parameters(value)
        return list(value) if isinstance(value, tuple) else value

    return {key: plain(value) for key, value in parameters.items()}
