"""A recipe: every setting of a run, from a YAML file and flags, checked before anything happens."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, JsonValue, PrivateAttr, ValidationError

from nacre.documents import DocumentError, parse_yaml, shown_text
from nacre.errors import RecipeError
from nacre.evaluation.scoring import check_metric, normalized_labels
from nacre.evaluation.settings import Decoding
from nacre.files import full_path, hash_of, read_yaml, user_path
from nacre.learning.settings import Optim
from nacre.method_files import MethodFile
from nacre.models.named import DEMO, HeadKind
from nacre.registry import build_method, check_spelling
from nacre.runs.names import run_name
from nacre.runs.probes.base_ability import BaseAbility
from nacre.runs.probes.end_tasks import FineTuning
from nacre.runs.probes.probe import Probe
from nacre.settings import Settings, group_in, keys_of, sentence
from nacre.tasks.published.streams import get_stream
from nacre.tasks.reading.choices import Choices
from nacre.tasks.reading.hub import PREFIX
from nacre.tasks.reading.sources import find_tasks
from nacre.tasks.reading.stream_file import is_stream_file, load_stream, read_stream
from nacre.tasks.task import Task
from nacre.tasks.template import Identity

if TYPE_CHECKING:
    from nacre.method import Method

MatrixKind = Literal["full", "seen", "last"]

NOT_TRAINING: dict[str, JsonValue] = {"affects_training": False}
"""Marks a field of a recipe that does not say how a model is trained: it says where something is or what is measured,
or the run's record holds it. Runs that differ in other fields are different groups of a comparison."""


class Recipe(Settings):
    """The content of `recipe.yaml`. `set` are the method's parameters.

    `model`, `data`, `output`, a stream file, and the places of probes such as `base_ability.data` may name variables of
    the environment, `$NACRE_DATA/long_sequence`.
    """

    method: str = Field(
        description="a method's name, with modifiers behind +, or a file that holds one: ./mine.py:name",
        json_schema_extra=NOT_TRAINING,
    )
    method_hash: str | None = Field(
        default=None,
        description="filled in: which content a method's file had, or the parts of one put together in Python",
    )
    stream: str | list[str] = Field(
        default="demo",
        description="a stream's name, a stream file (.yaml), or task names found under data",
        json_schema_extra=NOT_TRAINING,
    )
    model: str = Field(
        default="demo",
        min_length=1,
        description="a folder, a Hugging Face name, or 'demo'",
        json_schema_extra=NOT_TRAINING,
    )
    data: str | None = Field(
        default=None,
        min_length=1,
        description="where the tasks are; the demo's need none",
        json_schema_extra=NOT_TRAINING,
    )
    seed: int = Field(default=0, ge=0, json_schema_extra=NOT_TRAINING)
    output: str | None = Field(
        default=None,
        min_length=1,
        description="the run's folder; {seed} in it stands for the seed, {name} for what tells runs apart",
        json_schema_extra=NOT_TRAINING,
    )
    identity: Identity = Field(
        default="none", description="prompt lines that tell the model its task", json_schema_extra=NOT_TRAINING
    )
    limit_train: int | None = Field(
        default=None, ge=1, description="rows of a task to train on, at most", json_schema_extra=NOT_TRAINING
    )
    limit_test: int | None = Field(
        default=None, ge=1, description="rows of a task to test on, at most", json_schema_extra=NOT_TRAINING
    )
    skip_bad_rows: bool = Field(
        default=False, description="rows that cannot be read are left out", json_schema_extra=NOT_TRAINING
    )
    fold_labels: bool = Field(
        default=False,
        description="labels that differ only in case or white space are one label",
        json_schema_extra=NOT_TRAINING,
    )
    measure_on: Literal["test", "validation"] = Field(
        default="test",
        description="the rows that are measured; settings are chosen on validation rows",
        json_schema_extra=NOT_TRAINING,
    )
    matrix: MatrixKind = Field(
        default="full",
        description="what is measured: every task after every task; those learned so far; the last row",
        json_schema_extra=NOT_TRAINING,
    )
    model_dropout: float | None = Field(
        default=None, ge=0, lt=1, description="dropout inside the pretrained model; None: what its configuration says"
    )
    head: HeadKind = Field(
        default="growing",
        description="how an encoder-only host chooses: one head that grows with the tasks' labels, or per_task: a head "
        "for each task, which is given in training and at test",
        json_schema_extra=NOT_TRAINING,
    )
    optim: Optim = Field(default_factory=Optim)
    evaluation: Decoding = Field(default_factory=Decoding, json_schema_extra=NOT_TRAINING)
    end_tasks: FineTuning | None = Field(
        default=None, description="copies fine-tuned on each domain's end task; of stream das, unless said otherwise"
    )
    base_ability: BaseAbility | None = Field(
        default=None,
        description="published benchmarks of what pre-training taught, before and after; None: none",
        json_schema_extra=NOT_TRAINING,
    )
    parameters: dict[str, Any] = Field(default_factory=dict, alias="set")
    _method: Method | None = PrivateAttr(default=None)  # one that was put together in Python has no name to build it by

    @classmethod
    def of(cls, method: Method | str, settings: Mapping[str, Any]) -> Recipe:
        """The recipe of a run that is begun in Python.

        Args:
            method: A method, or its name.
            settings: The recipe's other keys; None for one that is not given.

        Raises:
            RecipeError: If something is wrong; it names the key and the value.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        if isinstance(method, str):
            return _validated({"method": method, **given}, None)
        named = {"method": method.name or method.title, "set": _plain(method.parameters)}
        recipe = _validated({**named, **given}, None)
        if not method.name:
            recipe._method = method
        return recipe

    def build(self) -> Method:
        """The method with its parameters.

        Raises:
            RecipeError: If there is no such method, or if a parameter is not what it takes.
        """
        if self._method is not None:
            return self._method
        return build_method(self.method, self.parameters, instead=keys_of(Recipe))

    def check_names(self) -> None:
        """Refuse a method, parameter or stream that does not exist, without importing any method.

        Raises:
            RecipeError: If a name or a parameter's type is wrong.
            DataError: If a stream file is.
        """
        if self._method is None:
            check_spelling(self.method, self.parameters, instead=keys_of(Recipe))
        if not self._may_be_task():
            _ = self.task_names  # looked up, or read from the stream's file

    def _may_be_task(self) -> bool:
        """Whether the stream may be one task in the data, as far as files here tell."""
        if self.data is None or self.stream_file is not None:
            return False
        if self.data.startswith(PREFIX) or "$" in self.data or not user_path(self.data).exists():
            return True
        return self.stream in find_tasks(self.data)

    def resolved(self) -> Recipe:
        """The recipe with every default written out and every place found, so that it says all of what is run.

        Raises:
            RecipeError: If a variable of the environment is not set.
        """
        recipe = self.completed()
        for key in places():
            recipe = recipe.placed(key)
        return recipe

    def completed(self) -> Recipe:
        """The recipe with the method's defaults, its usual rate and the run's folder written out."""
        method = self.build()
        rate = self.optim.learning_rate or method.adapter.learning_rate
        output = self.output or "runs/{name}"
        if "{name}" in output:
            output = output.replace("{name}", self._name(rate == method.adapter.learning_rate))
        return self.model_copy(
            update={
                "method": method.name or self.method,
                "method_hash": self._hash_of(method),
                "parameters": _plain(method.parameters),
                "optim": self.optim.model_copy(update={"learning_rate": rate}),
                "output": output.replace("{seed}", str(self.seed)),
                **{key: getattr(self, key) or kind.usual(self.stream) for key, kind in probe_settings().items()},
            }
        )

    def _name(self, at_usual_rate: bool) -> str:
        """What tells the run apart, as the name of a folder."""
        elsewhere = {"method", "method_hash", "parameters", "stream", "model", "data", "seed", "output"}
        settings = self.model_dump(mode="json", exclude_defaults=True, exclude=elsewhere)
        if at_usual_rate:
            settings.get("optim", {}).pop("learning_rate", None)
        stream = self.stream_name if isinstance(self.stream, str) else "-".join(self.stream)
        return run_name(self.method, stream, self.model, self.seed, self.parameters, settings)

    def _hash_of(self, method: Method) -> str | None:
        """What a name does not say of the method.

        Raises:
            RecipeError: If the recipe was written for something else.
        """
        if (file := MethodFile.of(self.method.split("+")[0])) is not None:
            found: str | None = file.hash()
        else:
            found = None if method.name else hash_of([str(method.adapter), *map(str, method.parts)])
        if self.method_hash not in (None, found):
            raise RecipeError(f"Method '{self.method}' was changed since this recipe was written; remove method_hash.")
        return found

    def placed(self, key: str) -> Recipe:
        """The recipe with this one of its places found: variables of the environment replaced, local paths complete.

        Args:
            key: One of `places()`.

        Raises:
            RecipeError: If a variable is not set.
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
        full = str(full_path(user_path(place))) if key == "output" else _absolute(place)
        return self.model_copy(update={key: full})

    def document(self) -> dict[str, Any]:
        """Plain values, as written to `recipe.yaml`."""
        return self.model_dump(by_alias=True, mode="json")

    def with_setting(self, key: str, value: Any) -> Recipe:
        """The recipe with one setting changed.

        Args:
            key: A key of the recipe, dotted for one inside a group (`optim.batch_size`), or a parameter of the method.
            value: A plain value.

        Raises:
            RecipeError: If there is no such key, or if it does not take this value.
        """
        document = self.document()
        _set(document, key, value)
        return _validated(document, None)

    @property
    def probes(self) -> dict[str, Probe]:
        """The probes that the recipe asks for, by key."""
        settings = {key: getattr(self, key) for key in probe_settings()}
        return {key: probe for key, probe in settings.items() if probe is not None}

    @property
    def task_names(self) -> Sequence[str]:
        """The stream's tasks in their order, without a look at the data."""
        if self.stream_file is not None:
            return read_stream(self.stream_file).task_names
        return get_stream(self.stream).tasks if isinstance(self.stream, str) else self.stream

    def tasks(self) -> list[Task]:
        """Read the stream's tasks as the recipe wants them.

        With `measure_on: validation`, the validation rows stand in the place of the test rows, which are not read. They
        are asked in the words of the training rows, so that no setting is chosen on the test rows' words.

        Raises:
            DataError: If a row, label, split or metric is not what a task needs.
        """
        tasks = []
        choices = Choices(skip_bad_rows=self.skip_bad_rows, fold_labels=self.fold_labels)
        for task in load_stream(
            str(self.stream_file or "") or self.stream, self.data, option="--data", choices=choices
        ):
            normalized_labels(task)
            check_metric(task)
            if self.measure_on == "validation":
                task = replace(task, test=task.validation, test_templates=())
            tasks.append(task.with_identity(self.identity).limited(self.limit_train, self.limit_test).check())
        return tasks

    def yaml(self) -> str:
        """The text of `recipe.yaml`."""
        return yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=True)

    @property
    def stream_file(self) -> Path | None:
        """Where the stream is described, if it is somebody's own; None for a named one or a list of tasks.

        Raises:
            RecipeError: If a variable of the environment is not set.
        """
        if isinstance(self.stream, str) and is_stream_file(self.stream):
            return user_path(expanded("stream", self.stream))
        return None

    @property
    def stream_name(self) -> str:
        """The stream's name; that in the file for a stream file, `own` for a list of tasks."""
        if self.stream_file is not None:
            return read_stream(self.stream_file).name
        return self.stream if isinstance(self.stream, str) else "own"


def probe_settings() -> dict[str, type[Probe]]:
    """The kinds of probes that a recipe may ask for, by key."""
    nested = {key: group_in(field) for key, field in Recipe.model_fields.items()}
    return {key: kind for key, kind in nested.items() if kind is not None and issubclass(kind, Probe)}


def places() -> tuple[str, ...]:
    """The keys that say where something is, and may name variables of the environment."""
    own = ("model", "data", "output", "stream")
    return (*own, *(f"{key}.{place}" for key, kind in probe_settings().items() for place in kind.places))


def training_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says of how a model is trained, besides its method and parameters, which a record holds.

    Args:
        document: A recipe's plain values; keys that this version does not know are kept.
    """
    marked = {
        key
        for key, field in Recipe.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("affects_training") is False
    }
    return {key: value for key, value in document.items() if key not in {*marked, "set"}}


def expanded(key: str, place: str) -> str:
    """Replace `$NAME` and `${NAME}` by what the environment says.

    Args:
        key: The recipe's key that holds the place.
        place: A path or name.

    Raises:
        RecipeError: If a variable is not set; it names the variable and the key.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not (text := os.environ.get(name)):
            flag = f"--set {key}=FOLDER" if "." in key else f"--{key}"
            raise RecipeError(
                f"{key} = {shown_text(place)}: the environment variable {name} is not set; set it, or pass {flag}."
            )
        return text

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, place)


def read_recipe(path: Path | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Recipe:
    """Read a recipe.

    Args:
        path: Its file; None for none.
        flags: Override the file; None for a flag that was not given.
        settings: KEY=VALUE; override both.

    Raises:
        RecipeError: If something is wrong; it names the file, key and value.
    """
    document = {} if path is None else _read_yaml(path)
    document.update({key: value for key, value in flags.items() if value is not None})
    for setting in settings:
        _apply(document, setting)
    if "method" not in document:
        raise RecipeError(
            "A run needs a method: --method NAME, or 'method' in the recipe ('nacre methods' lists them)."
        )
    recipe = _validated(document, path)
    chosen = flags.get("output") is not None or any(setting.startswith("output=") for setting in settings)
    return recipe if path is None or chosen else _beside(recipe, path)


def _beside(recipe: Recipe, path: Path) -> Recipe:
    """The recipe; where flags have changed what a run's own recipe says, with an output beside that run.

    Args:
        recipe: As it will be carried out.
        path: The file that it was read from.
    """
    folder = path.resolve().parent
    written = _validated(_read_yaml(path), path)
    if recipe == written or written.output is None or Path(written.output).resolve() != folder:
        return recipe
    return recipe.model_copy(update={"output": str(folder.parent / "{name}")})


def _validated(document: dict[str, Any], path: Path | None) -> Recipe:
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        source = f"Recipe '{path}', " if path else ""
        raise RecipeError(f"{source}{sentence(error, Recipe)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"Recipe '{path}' does not exist or is not a file.")
    try:
        document = read_yaml(path)
    except OSError as error:
        raise RecipeError(f"Recipe '{path}' cannot be read: {error.strerror or error}.") from error
    except DocumentError as error:
        raise RecipeError(f"Recipe '{path}' {error}.") from None
    if not isinstance(document, dict):
        raise RecipeError(f"Recipe '{path}' must hold keys and values, such as 'method: am_lora'.")
    return {key: _with_numbers(value) for key, value in document.items()}


def _apply(document: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"--set {shown_text(setting)}: write KEY=VALUE, for example --set rank=4 or --set optim.batch_size=16."
        )
    try:
        value = parse_yaml(text)
    except DocumentError as error:
        raise RecipeError(f"--set {shown_text(setting)}: the value {error}.") from None
    _set(document, key, _with_numbers(value))


def _set(document: dict[str, Any], key: str, value: Any) -> None:
    path = key.split(".")
    if len(path) > 5:
        raise RecipeError(f"--set {shown_text(key)}: no key has so many parts.")
    if path[0] not in keys_of(Recipe):
        path = ["set", *path]  # whatever is not a key of the recipe is a parameter of the method
    place = document
    for name in path[:-1]:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise RecipeError(f"--set {shown_text(key)}: '{shown_text(name)}' is a single value and has no keys.")
    place[path[-1]] = value


_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)e[-+]?[0-9]+|[-+]?inf|nan", re.IGNORECASE)


def _with_numbers(value: Any) -> Any:
    """YAML reads 1e-3 as a string, everybody else as a number."""
    if isinstance(value, dict):
        return {key: _with_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_numbers(entry) for entry in value]
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As YAML and JSON would give them back: lists for tuples, also in a modifier's own parameters."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for key, value in parameters.items()
    }


def _absolute(place: str) -> str:
    """A local folder or file by its full path, so that the recipe works from anywhere; names stay names."""
    path = user_path(place)
    return str(full_path(path)) if path.exists() else place
