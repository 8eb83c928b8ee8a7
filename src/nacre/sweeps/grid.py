"""A grid: what all of a sweep's runs have in common, what is varied, and what is chosen first."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from nacre.assignments import put, read_document, validated
from nacre.errors import NacreError, RecipeError
from nacre.files import hash_of
from nacre.records.plain import NO_RESULT
from nacre.runs.recipe import Recipe
from nacre.settings import Settings
from nacre.sweeps.published import PublishedTable
from nacre.sweeps.run_metric import RunMetricKey

ListedValues = Annotated[list[Any], Field(min_length=1)]
NamedGroups = Annotated[dict[str, dict[str, Any]], Field(min_length=1)]

CHOICE = "choice/"
"""What the name of a run begins with that chooses."""

FIRST = ("method", "stream", "model")
"""What a run's name begins with; it ends with the seed."""

LONGEST = 100
"""Characters of a run's name; those of a longer one are cut, and a hash tells it apart."""


class Selection(Settings):
    """Settings that are chosen for each combination, by what short runs reach on validation rows."""

    vary: Annotated[dict[str, ListedValues], Field(min_length=1)] = Field(
        description="the settings, with the values to choose from; of equal ones the first is taken"
    )
    with_: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="settings of the runs that choose, instead of the grid's"
    )
    by: RunMetricKey = Field(default="average_accuracy", description="what a run is chosen by: a metric of its record")


class RunResources(Settings):
    """What each run is given."""

    threads: int | None = Field(default=None, ge=1, description="None: an equal share of the processor's")
    processes: int = Field(default=1, ge=1, description="that carry it out together, on one machine")
    sharded: bool = Field(default=False, description="whether each of them holds a part of the model's layers only")
    gpus: int = Field(default=0, ge=0, description="of its own; engines other than local see to that")
    slurm: dict[str, Any] = Field(default_factory=dict, description="parameters of submitit, such as slurm_partition")

    @model_validator(mode="after")
    def _several_share_the_layers(self) -> RunResources:
        if self.sharded and self.processes == 1:
            raise ValueError("sharded: there is one process, which would hold all layers; raise processes")
        return self


class Where(Settings):
    """Settings of some of a grid's runs."""

    runs: Annotated[dict[str, str | list[str]], Field(min_length=1)] = Field(
        description="by what is varied, the name of its value, or several; a run must have one of each"
    )
    use: Annotated[dict[str, Any], Field(min_length=1)] = Field(description="the settings of these runs, by key")


class SweepSettings(Settings):
    """The content of a grid's file."""

    recipe: dict[str, Any] = Field(
        default_factory=dict, description="a recipe's keys, and the method's parameters, that all runs share"
    )
    vary: dict[str, ListedValues | NamedGroups] = Field(
        default_factory=dict,
        description="by key, the values that are combined with each other; or, by a name of one's own, groups of "
        "settings, each by its name",
    )
    where: list[Where] = Field(
        default_factory=list, description="settings of some of the combinations, which override what is varied"
    )
    choose: Selection | None = Field(
        default=None, description="what is chosen first, for each combination but its seed"
    )
    published: PublishedTable | None = Field(default=None, description="what others published of these runs")
    resources: RunResources = Field(default_factory=RunResources)

    @property
    def axes(self) -> dict[str, list[str]]:
        """The names of the values of everything that is varied."""
        return {
            key: [str(name) for name in values] if isinstance(values, Mapping) else [_text(value) for value in values]
            for key, values in self.vary.items()
        }

    @property
    def shown(self) -> PublishedTable:
        """What stands where in a figure of the sweep: as published, or the first thing that is varied, and the second.

        Raises:
            RecipeError: If it is not clear.
        """
        if self.published is not None:
            return self.published
        varied = [key for key in self.vary if key != "seed"]
        if not 1 <= len(varied) <= 2:
            raise RecipeError(
                f"The grid varies {', '.join(varied) or 'nothing but seeds'}: name the figure's rows under published, "
                "and its columns."
            )
        return PublishedTable(rows=varied[0], columns=(*varied, None)[1])


@dataclass(frozen=True)
class Cell:
    """A run of a sweep.

    Attributes:
        name: Its own, and its folder's.
        settings: What tells it apart, by key.
        recipe: All of it.
        names: Its values of everything that is varied, as text.
    """

    name: str
    settings: Mapping[str, Any]
    recipe: Recipe
    names: Mapping[str, str]

    @property
    def chooses(self) -> bool:
        """Whether it is one of those that choose."""
        return self.name.startswith(CHOICE)


@dataclass(frozen=True)
class Combination:
    """Runs that differ in nothing but their seed, and the runs that choose for them.

    Attributes:
        runs: What is varied in each.
        candidates: The runs that choose, in the order of preference among equals; empty where nothing is chosen.
        to_choose: What each candidate stands for, by key; one without anything where nothing is chosen.
    """

    runs: Sequence[Variation]
    candidates: Sequence[Cell]
    to_choose: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Variation:
    """Values of what is varied: how they are called, and the settings that they mean.

    Attributes:
        names: The chosen values by what is varied, as text.
        settings: By key.
    """

    names: Mapping[str, str]
    settings: Mapping[str, Any]


def read_grid(path: Path) -> SweepSettings:
    """Read a grid's file.

    Raises:
        RecipeError: If it is none; it names the file and the key.
    """
    grid = validated(SweepSettings, read_document(path, "Grid"), f"Grid '{path}'")
    if grid.choose is not None and (twice := grid.choose.vary.keys() & grid.vary.keys()):
        raise RecipeError(f"Grid '{path}': {', '.join(sorted(twice))} is varied, and cannot be chosen as well.")
    for each in grid.where:
        _check_where(each, grid.axes, path)
    if grid.published is not None:
        grid.published.check(grid.axes)
    return grid


def _check_where(where: Where, axes: Mapping[str, Sequence[str]], path: Path) -> None:
    for key, names in where.runs.items():
        for name in [names] if isinstance(names, str) else names:
            if name not in axes.get(key, ()):
                known = ", ".join(axes.get(key, axes))
                raise RecipeError(
                    f"Grid '{path}', where: there is no '{name if key in axes else key}'; known: {known}."
                )


def combinations(grid: SweepSettings) -> list[Combination]:
    """All of a grid's runs, and those that choose for them.

    Raises:
        RecipeError: If a run cannot be.
    """
    points = list(_points(grid.vary))
    groups: dict[str, list[Variation]] = {}
    for point in points:
        apart = {key: name for key, name in point.names.items() if key != "seed"}
        groups.setdefault(hash_of(apart), []).append(point)
    to_choose = [{}] if grid.choose is None else [point.settings for point in _points(grid.choose.vary)]
    return [Combination(group, _candidates(grid, group[0]), to_choose) for group in groups.values()]


def cell_of(grid: SweepSettings, point: Variation, chosen: Mapping[str, Any]) -> Cell:
    """A run of the grid itself.

    Args:
        grid: The grid.
        point: What is varied.
        chosen: What was chosen for it.

    Raises:
        RecipeError: If there can be no such run.
    """
    return _cell(grid, point, chosen, "")


def _candidates(grid: SweepSettings, point: Variation) -> list[Cell]:
    """The runs that choose for a combination: on validation rows, with its first seed."""
    if grid.choose is None:
        return []
    own = {**grid.choose.with_, "measure_on": "validation"}
    kept = {key: name for key, name in point.names.items() if key not in own}
    settings = {key: value for key, value in point.settings.items() if key not in own}
    return [
        _cell(grid, Variation({**kept, **one.names}, settings | own), one.settings, CHOICE)
        for one in _points(grid.choose.vary)
    ]


def _cell(grid: SweepSettings, point: Variation, chosen: Mapping[str, Any], before: str) -> Cell:
    settings = {**point.settings, **chosen}
    fixed = {*chosen, *(grid.choose.with_ if grid.choose is not None and before else ())}
    for where in grid.where:
        if all(point.names.get(key) in ([own] if isinstance(own, str) else own) for key, own in where.runs.items()):
            settings |= {key: value for key, value in where.use.items() if key not in fixed}
    name = before + _name(point.names)
    document = copy.deepcopy(grid.recipe)
    for key in list(document):
        if key not in {*Recipe.model_fields, "set"}:  # a method's parameter, or dotted
            put(document, key, document.pop(key), Recipe)
    for key, value in settings.items():
        put(document, key, copy.deepcopy(value), Recipe)
    if given := [key for key in NO_RESULT if key == "output" and document.get(key) is not None]:
        raise RecipeError(f"Run '{name}': {given[0]} is the sweep's to choose; leave it out.")
    if "method" not in document:
        raise RecipeError(f"Run '{name}' needs a method: write one under recipe, or several under vary.")
    recipe = validated(Recipe, document, f"Run '{name}'")
    try:
        recipe.check_names()
    except NacreError as error:
        raise RecipeError(f"Run '{name}': {error}") from None
    return Cell(name, settings, recipe, point.names)


def _points(vary: Mapping[str, Sequence[Any] | Mapping[str, Mapping[str, Any]]]) -> Iterator[Variation]:
    """Every combination of values, those of the last key changing fastest."""
    axes = [
        [(key, str(name), settings) for name, settings in values.items()]
        if isinstance(values, Mapping)
        else [(key, _text(value), {key: value}) for value in values]
        for key, values in vary.items()
    ]
    for chosen in itertools.product(*axes):
        settings: dict[str, Any] = {}
        for _, _, own in chosen:
            settings |= own
        yield Variation({key: name for key, name, _ in chosen}, settings)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "-".join(map(_text, value)) if isinstance(value, list) else str(value)


def _name(names: Mapping[str, str]) -> str:
    """`method=am_lora,seed=1` as a file's name; the same one in whatever order the grid has its keys."""
    first = {key: place for place, key in enumerate(FIRST)}
    ordered = sorted(names.items(), key=lambda each: (each[0] == "seed", first.get(each[0], len(first)), each[0]))
    pieces = (f"{key.rpartition('.')[2]}={name}" for key, name in ordered)
    text = re.sub(r"[^\w.+=,-]+", "_", ",".join(pieces)) or "run"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 9]}-{hash_of(dict(names))[:8]}"
