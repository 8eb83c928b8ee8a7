"""A learner as a value: everything that its future depends on, apart from the pretrained model.

A snapshot is what checkpoints read and write (`nacre.learning.checkpoint`). It can be opened, compared and verified
without a model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from nacre.errors import CheckpointError
from nacre.evaluation.candidates import Calibration
from nacre.settings import complaint
from nacre.tasks.prompts import TaskForm

S = TypeVar("S")
Tree = Any
"""Tensors, plain values, and lists and dicts (with text as keys) of them."""


@dataclass
class State:
    """What a learner remembers besides its owners' tensors. Nothing else influences what it does next.

    The optimizer is not here: each task has its own, and checkpoints are taken between tasks.

    Attributes:
        seed: All randomness is computed from it and from where it is used, so that no generator's state is kept.
        tasks: Names of the tasks learned, in order: the position in the stream.
        parts: What each part remembers, by its key: values of the parts' `State`.
        forms: How each task learned is asked, by its name.
        calibrations: What its labels' scores are calibrated by, by its name, where decoding does so.
    """

    seed: int = 0
    tasks: list[str] = field(default_factory=list)
    parts: dict[str, Any] = field(default_factory=dict)
    forms: dict[str, TaskForm] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class OwnerState:
    """What one owner has learned.

    Attributes:
        tensors: By public name.
        values: Plain values that say what they are.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A learner between two tasks.

    Attributes:
        seed, tasks: See `State`.
        owners: What the adapter, the classification head, the routing and the memory have learned, by their names.
        parts: What parts remember, by key, as trees of tensors and plain values.
        head: The kind of classification head, as the recipe names it.
        method: Name and parameters; an empty name if the method was put together by hand.
        optim, decoding: Settings, as plain values.
        host: Name and hash of the pretrained model, and how it is held in memory.
        forms: How each task learned is asked, as trees; of some tasks unknown, in folders of older versions.
        calibrations: What labels' scores are calibrated by, as trees.
    """

    seed: int
    tasks: tuple[str, ...]
    owners: Mapping[str, OwnerState]
    parts: Mapping[str, Tree]
    head: str
    method: Mapping[str, Any]
    optim: Mapping[str, Any]
    decoding: Mapping[str, Any]
    host: Mapping[str, Any]
    forms: Mapping[str, Tree] = field(default_factory=dict)
    calibrations: Mapping[str, Tree] = field(default_factory=dict)

    def differences(self, other: Snapshot) -> list[str]:
        """Names of what differs, such as ``owners.adapter.values.slots``; none if the two are equal to the bit."""
        mine, theirs = dict(_leaves(self, "")), dict(_leaves(other, ""))
        names = [*mine, *(name for name in theirs if name not in mine)]
        return [
            name for name in names if name not in mine or name not in theirs or not _equal(mine[name], theirs[name])
        ]


def as_tree(state: object, where: str) -> Tree:
    """A part's state as a tree: its dataclasses as dicts of their fields.

    Args:
        state: A dataclass, a tensor, a plain value, or lists, tuples and dicts of these.
        where: What an error calls it.

    Raises:
        TypeError: If something in it could not be read back from a file.
    """
    if isinstance(state, Tensor) or state is None or isinstance(state, bool | int | float | str):
        return state
    if is_dataclass(state) and not isinstance(state, type):
        return {each.name: as_tree(getattr(state, each.name), f"{where}.{each.name}") for each in fields(state)}
    if isinstance(state, list | tuple):
        return [as_tree(value, f"{where}[{number}]") for number, value in enumerate(state)]
    if isinstance(state, Mapping):
        for key in state:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: only text can be a key of what is remembered.")
        return {key: as_tree(value, f"{where}.{key}") for key, value in state.items()}
    raise TypeError(
        f"{where} is a {type(state).__name__}: only tensors, plain values, lists and dicts can be remembered."
    )


def from_tree(kind: type[S], tree: Tree, where: str, device: torch.device) -> S:
    """The state that `as_tree` took apart.

    Args:
        kind: The part's `State`.
        tree: Its fields.
        where: What an error calls it.
        device: Where its tensors are to lie.

    Raises:
        CheckpointError: If the tree does not fit.
    """
    try:
        return _adapter(kind).validate_python(_moved(tree, device))
    except ValidationError as error:
        raise CheckpointError(f"What '{where}' remembers does not fit this version: {complaint(error)}.") from None


def _adapter(kind: type[S]) -> TypeAdapter[S]:
    """pydantic reads lists as tuples and dicts as dataclasses again; tensors it takes as they are."""
    if "__pydantic_config__" not in vars(kind):
        kind.__pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # type: ignore[attr-defined]
    return TypeAdapter(kind)


def _moved(tree: Tree, device: torch.device) -> Tree:
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, list):
        return [_moved(value, device) for value in tree]
    if isinstance(tree, dict):
        return {key: _moved(value, device) for key, value in tree.items()}
    return tree


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, list | tuple):
        value = {str(number): each for number, each in enumerate(value)}
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, each in value.items():
        yield from _leaves(each, f"{name}.{key}" if name else str(key))


def _equal(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        same_kind = mine.dtype == theirs.dtype and mine.shape == theirs.shape
        return same_kind and torch.equal(mine.cpu(), theirs.cpu())
    return type(mine) is type(theirs) and bool(mine == theirs)
