"""A recipe: every setting of a run, from a YAML file and flags, checked before anything happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field

from nacre.assignments import assign, put, read_document, validated
from nacre.errors import RecipeError
from nacre.evaluation.scoring import check_metric, normalized_labels
from nacre.files import full_path, user_path
from nacre.learning.learner_settings import NOT_TRAINING, LearnerSettings, plain_parameters
from nacre.measuring.probes.base_ability import BaseAbility
from nacre.measuring.probes.end_tasks import FineTuning
from nacre.measuring.probes.probe import Probe
from nacre.models.named import DEMO
from nacre.places import absolute, expanded
from nacre.records.plain import NO_RESULT
from nacre.runs.names import run_name
from nacre.settings import group_in
from nacre.tasks.published.streams import get_stream
from nacre.tasks.reading.choices import Choices
from nacre.tasks.reading.hub import PREFIX
from nacre.tasks.reading.sources import find_tasks
from nacre.tasks.reading.stream_file import is_stream_file, load_stream, read_stream
from nacre.tasks.task import Task

if TYPE_CHECKING:
    from nacre.method import Method

MatrixKind = Literal["full", "seen", "last"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class Recipe(LearnerSettings):
    """The content of `recipe.yaml`.

    `model`, `data`, `output`, a stream file, and the places of probes such as `base_ability.data` may name variables of
    the environment, `$NACRE_DATA/long_sequence`.
    """

    stream: str | list[str] = Field(
        default="demo",
        description="a stream's name, a stream file (.yaml), or task names found under data",
        json_schema_extra=NOT_TRAINING,
    )
    data: str | None = Field(
        default=None,
        min_length=1,
        description="where the tasks are; the demo's need none",
        json_schema_extra=NOT_TRAINING,
    )
    output: str | None = Field(
        default=None,
        min_length=1,
        description="the run's folder; {seed} in it stands for the seed, {name} for what tells runs apart",
        json_schema_extra=NOT_TRAINING,
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
    save_every: int | None = Field(
        default=None,
        ge=1,
        description="steps between two saves of the training of a task; None: only on Ctrl-C; changes no result",
        json_schema_extra=NOT_TRAINING,
    )
    track: list[TrackerName] = Field(
        default_factory=list,
        description="experiment trackers that follow the run; changes no result",
        json_schema_extra=NOT_TRAINING,
    )
    end_tasks: FineTuning | None = Field(
        default=None, description="copies fine-tuned on each domain's end task; of stream das, unless said otherwise"
    )
    base_ability: BaseAbility | None = Field(
        default=None,
        description="published benchmarks of what pre-training taught, before and after; None: none",
        json_schema_extra=NOT_TRAINING,
    )

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
            return validated(Recipe, {"method": method, **given})
        named = {"method": method.name or method.title, "set": plain_parameters(method.parameters)}
        recipe = validated(Recipe, {**named, **given})
        if not method.name:
            recipe._method = method
        return recipe

    def check_names(self) -> None:
        """Refuse a method, parameter or stream that does not exist, without importing any method.

        Raises:
            RecipeError: If a name or a parameter's type is wrong.
            DataError: If a stream file is.
        """
        self.check_method_name()
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
        written_out = self.method_written_out()
        usual_rate = written_out["optim"].learning_rate == self.build().adapter.learning_rate
        output = self.output or "runs/{name}"
        if "{name}" in output:
            output = output.replace("{name}", self._name(usual_rate))
        return self.model_copy(
            update={
                **written_out,
                "output": output.replace("{seed}", str(self.seed)),
                **{key: getattr(self, key) or kind.usual(self.stream) for key, kind in probe_settings().items()},
            }
        )

    def _name(self, at_usual_rate: bool) -> str:
        """What tells the run apart, as the name of a folder."""
        elsewhere = {"method", "method_hash", "parameters", "stream", "model", "data", "seed", *NO_RESULT}
        settings = self.model_dump(mode="json", exclude_defaults=True, exclude=elsewhere)
        if at_usual_rate:
            settings.get("optim", {}).pop("learning_rate", None)
        stream = self.stream_name if isinstance(self.stream, str) else "-".join(self.stream)
        return run_name(self.method, stream, self.model, self.seed, self.parameters, settings)

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
            place = absolute(expanded(key, getattr(owner, inner)))
            return self.model_copy(update={group: owner.model_copy(update={inner: place})})
        written = getattr(self, key)
        if written is None or (key, written) == ("model", DEMO):  # even where a folder of that name lies about
            return self
        if key == "stream" and self.stream_file is None:  # a name, or several
            return self
        place = expanded(key, written)
        full = str(full_path(user_path(place))) if key == "output" else absolute(place)
        return self.model_copy(update={key: full})

    def with_setting(self, key: str, value: Any) -> Recipe:
        """The recipe with one setting changed.

        Args:
            key: A key of the recipe, dotted for one inside a group (`optim.batch_size`), or a parameter of the method.
            value: A plain value.

        Raises:
            RecipeError: If there is no such key, or if it does not take this value.
        """
        document = self.document()
        put(document, key, value, Recipe)
        return validated(Recipe, document)

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


def read_recipe(path: Path | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Recipe:
    """Read a recipe.

    Args:
        path: Its file; None for none.
        flags: Override the file; None for a flag that was not given.
        settings: KEY=VALUE; override both.

    Raises:
        RecipeError: If something is wrong; it names the file, key and value.
    """
    document = {} if path is None else read_document(path)
    document.update({key: value for key, value in flags.items() if value is not None})
    for setting in settings:
        assign(document, setting, Recipe)
    if "method" not in document:
        raise RecipeError(
            "A run needs a method: --method NAME, or 'method' in the recipe ('nacre methods' lists them)."
        )
    recipe = validated(Recipe, document, _called(path))
    chosen = flags.get("output") is not None or any(setting.startswith("output=") for setting in settings)
    return recipe if path is None or chosen else _beside(recipe, path)


def _beside(recipe: Recipe, path: Path) -> Recipe:
    """The recipe; where flags have changed what a run's own recipe says, with an output beside that run.

    Args:
        recipe: As it will be carried out.
        path: The file that it was read from.
    """
    folder = path.resolve().parent
    written = validated(Recipe, read_document(path), _called(path))
    if recipe == written or written.output is None or Path(written.output).resolve() != folder:
        return recipe
    return recipe.model_copy(update={"output": str(folder.parent / "{name}")})


def _called(path: Path | None) -> str:
    """What an error calls a recipe's file."""
    return f"Recipe '{path}'" if path else ""
