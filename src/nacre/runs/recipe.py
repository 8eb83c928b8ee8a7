"""A recipe: every setting of a run, from a YAML file and flags, checked before anything happens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nacre.errors import RecipeError, nearest
from nacre.evaluation.decoding import Decoding
from nacre.learning.settings import Optim
from nacre.method import Method
from nacre.models.classification_head import HeadKind
from nacre.models.loading import DEMO
from nacre.registry import build_method
from nacre.runs.probes.base_ability_settings import BaseAbility
from nacre.runs.probes.fine_tuning import FineTuning
from nacre.tasks.reading.stream_file import is_stream_file, read_stream
from nacre.tasks.template import Identity

PLACES = ("model", "data", "output", "stream", "base_ability.data")
"""The keys that say where something is, and may name variables of the environment."""


class Recipe(BaseModel):
    """What ``recipe.yaml`` holds. ``set`` are the method's parameters. ``model``, ``data``, ``output`` and a
    stream file, and ``base_ability.data``, may name variables of the environment, ``$NACRE_DATA/long_sequence``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    method: str
    stream: str | list[str] = Field(
        default="demo", description="a stream's name, a stream file (.yaml), or task names found under data"
    )
    model: str = Field(default="demo", description="a folder, a Hugging Face name, or 'demo'")
    data: str | None = Field(default=None, description="where the tasks are; the demo's need none")
    seed: int = Field(default=0, ge=0)
    output: str | None = Field(default=None, description="the run's folder; {seed} in it stands for the seed")
    identity: Identity = Field(default="none", description="prompt lines that tell the model its task")
    limit_train: int | None = Field(default=None, ge=1, description="rows of a task to train on, at most")
    limit_test: int | None = Field(default=None, ge=1, description="rows of a task to test on, at most")
    measure_on: Literal["test", "validation"] = Field(
        default="test", description="the rows that are measured; settings are chosen on validation rows"
    )
    matrix: Literal["full", "seen", "last"] = Field(
        default="full", description="what is measured: every task after every task; those learnt so far; the last row"
    )
    model_dropout: float | None = Field(
        default=None, ge=0, lt=1, description="dropout inside the pretrained model; None: what its configuration says"
    )
    head: HeadKind = Field(
        default="growing",
        description="how an encoder-only host chooses: one head that grows with the tasks' labels, or per_task: a head "
        "for each task, which is told in training and at test",
    )
    optim: Optim = Field(default_factory=Optim)
    evaluation: Decoding = Field(default_factory=Decoding)
    end_tasks: FineTuning | None = Field(
        default=None, description="copies fine-tuned on each domain's end task; of stream das, unless said otherwise"
    )
    base_ability: BaseAbility | None = Field(
        default=None, description="published benchmarks of what pre-training taught, before and after; None: none"
    )
    parameters: dict[str, Any] = Field(default_factory=dict, alias="set")

    def build(self) -> Method:
        return build_method(self.method, self.parameters, instead=_top_level())

    def resolved(self) -> Recipe:
        """The recipe with every default written out and every place found, so that it says all of what is run.

        Raises ``RecipeError`` if a variable of the environment is not set.
        """
        recipe = self.completed()
        for key in PLACES:
            recipe = recipe.placed(key)
        return recipe

    def completed(self) -> Recipe:
        """The recipe with the method's defaults, its usual rate and the run's folder written out."""
        method = self.build()
        rate = self.optim.learning_rate or method.adapter.learning_rate
        stream = self.stream_name if isinstance(self.stream, str) else "-".join(self.stream)
        output = self.output or f"runs/{stream}-{self.method}-seed{{seed}}"
        return self.model_copy(
            update={
                "parameters": _plain(method.parameters),
                "optim": self.optim.model_copy(update={"learning_rate": rate}),
                "output": output.replace("{seed}", str(self.seed)),
                "end_tasks": self.end_tasks or (FineTuning() if self.stream == "das" else None),
            }
        )

    def placed(self, key: str) -> Recipe:
        """The recipe with this one of its places found: variables of the environment replaced, local paths complete.

        Raises ``RecipeError`` if a variable is not set.
        """
        group, _, inner = key.rpartition(".")
        if group:
            owner = getattr(self, group)
            if owner is None or getattr(owner, inner) is None:
                return self
            place = _absolute(expanded(key, getattr(owner, inner)))
            return self.model_copy(update={group: owner.model_copy(update={inner: place})})
        written = getattr(self, key)
        if written is None or (key, written) == ("model", DEMO):  # even where a folder of that name lies about
            return self
        if key == "stream" and self.stream_file is None:  # a name, or several
            return self
        place = expanded(key, written)
        found = str(Path(place).expanduser().resolve()) if key == "output" else _absolute(place)
        return self.model_copy(update={key: found})

    def document(self) -> dict[str, Any]:
        """Plain values, as written to ``recipe.yaml``."""
        return self.model_dump(by_alias=True, mode="json")

    def yaml(self) -> str:
        return yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=True)

    @property
    def stream_file(self) -> Path | None:
        """Where the stream is described, if it is somebody's own; None for a named one or a list of tasks.

        Raises ``RecipeError`` if a variable of the environment is not set.
        """
        if isinstance(self.stream, str) and is_stream_file(self.stream):
            return Path(expanded("stream", self.stream)).expanduser()
        return None

    @property
    def stream_name(self) -> str:
        """The stream's name; its file's own for a stream file, ``own`` for a list of tasks."""
        if self.stream_file is not None:
            return read_stream(self.stream_file).name
        return self.stream if isinstance(self.stream, str) else "own"


def expanded(key: str, place: str) -> str:
    """The place with ``$NAME`` and ``${NAME}`` replaced by what the environment says.

    Raises ``RecipeError`` naming the variable and the recipe's key if it is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not (found := os.environ.get(name)):
            flag = f"--set {key}=FOLDER" if "." in key else f"--{key}"
            raise RecipeError(f"{key} = {place}: the environment variable {name} is not set; set it, or pass {flag}.")
        return found

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, place)


def read_recipe(path: Path | None, flags: Mapping[str, Any], settings: Iterable[str]) -> Recipe:
    """The recipe of a file (None for none), overridden by flags (None means not given), overridden by KEY=VALUE.

    Raises ``RecipeError`` naming the file, key and value that is wrong.
    """
    document = {} if path is None else _read_yaml(path)
    document.update({key: value for key, value in flags.items() if value is not None})
    for setting in settings:
        _apply(document, setting)
    if "method" not in document:
        raise RecipeError(
            "A run needs a method: --method NAME, or 'method' in the recipe ('nacre methods' lists them)."
        )
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeError(_sentence(error, path)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"Recipe '{path}' does not exist or is not a file.")
    try:
        document = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"Recipe '{path}' is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(document, dict):
        raise RecipeError(f"Recipe '{path}' must hold keys and values, such as 'method: am_lora'.")
    return document


def _apply(document: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {setting}: write KEY=VALUE, for example --set rank=4 or --set optim.batch_size=16.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {setting}: the value is not valid YAML.") from None
    if isinstance(value, str):
        value = _number(value)
    path = key.split(".")
    if path[0] not in _top_level():
        path = ["set", *path]  # everything that is no key of the recipe is a parameter of the method
    place = document
    for name in path[:-1]:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise RecipeError(f"--set {setting}: '{name}' is a single value and has no keys.")
    place[path[-1]] = value


def _number(text: str) -> Any:
    """YAML reads 1e-3 as a string, everybody else as a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _top_level() -> set[str]:
    return {field.alias or name for name, field in Recipe.model_fields.items()}


def _sentence(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    # A setting that takes a number or a list of numbers is a union, whose members' types pydantic adds to the path.
    where = ".".join(str(part) for part in first["loc"] if not re.search(r"float|int|tuple", str(part)))
    source = f"Recipe '{path}', " if path else ""
    if first["type"] == "extra_forbidden":
        group = {
            "optim": Optim.model_fields,
            "evaluation": Decoding.model_fields,
            "end_tasks": FineTuning.model_fields,
            "base_ability": BaseAbility.model_fields,
        }.get(str(first["loc"][0]))
        known = set(group) if group and len(first["loc"]) > 1 else _top_level()
        return f"{source}there is no key '{where}'. {nearest(str(first['loc'][-1]), known)}"
    return f"{source}{where} = {first['input']!r}: {first['msg']}."


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As YAML and JSON would give them back: lists for tuples, also in a modifier's own parameters."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for key, value in parameters.items()
    }


def _absolute(place: str) -> str:
    """A local folder or file by its full path, so that the recipe works from anywhere; names stay names."""
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() else place
