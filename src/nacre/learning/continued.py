"""What of a learner is new since an earlier state of it: tensors that only gained rows, and lists that gained items.

A frozen stack of slots, a memory's rows or a head's classes are the same after the next task, with something behind
them. Of such a tensor only the rows after the earlier ones are kept (along its first dimension), of such a list only
the items after the earlier ones, and of what did not change nothing. Equal means equal to the bit.

This is coding alone: it knows no learner and no disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Plain = Any
"""A plain value: text, numbers, and lists and dicts (with text as keys) of them."""

Grown = Any
"""Where a plain value continues an earlier one: a list's number of earlier items, True for a dict that keeps every
earlier entry, or a dict of these by key. None: nowhere."""


@dataclass(frozen=True)
class Print:
    """What suffices to recognize a tensor, and to recognize it as the first rows of another.

    Attributes:
        shape: Of the tensor.
        dtype: Its type.
        sha256: The hash of its bytes.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    sha256: bytes

    @property
    def rows(self) -> int:
        """Its size along the first dimension; 0 where there is none."""
        return self.shape[0] if self.shape else 0


@dataclass(frozen=True)
class NewRows:
    """Tensors as far as an earlier state lacks them.

    Attributes:
        tensors: By name; whole ones, and of those in `after` the rows behind the earlier ones. What did not change is
            not among them.
        after: The number of earlier rows, by name.
        dropped: Names of the earlier state that are not there any more.
        prints: Of all tensors, whole.
    """

    tensors: dict[str, Tensor]
    after: dict[str, int]
    dropped: list[str]
    prints: dict[str, Print]


def new_rows(tensors: Mapping[str, Tensor], before: Mapping[str, Print]) -> NewRows:
    """What of tensors is new.

    Args:
        tensors: By name, contiguous and on the CPU.
        before: The earlier state's; {}: everything is new.
    """
    new = NewRows({}, {}, [name for name in before if name not in tensors], {})
    for name, tensor in tensors.items():
        earlier = before.get(name)
        number = earlier.rows if earlier and _may_begin(tensor, earlier) else 0
        first, new.prints[name] = _hashes(tensor, number)
        if earlier == new.prints[name]:
            continue
        if earlier and number and earlier.sha256 == first:
            new.after[name] = number
            new.tensors[name] = tensor[number:]
        else:
            new.tensors[name] = tensor
    return new


def prints_of(tensors: Mapping[str, Tensor]) -> dict[str, Print]:
    """How each of these tensors is recognized later."""
    return new_rows(tensors, {}).prints


def joined(pieces: Sequence[Tensor], after: Sequence[int]) -> Tensor:
    """The tensor that stages hold piece by piece.

    Args:
        pieces: Its rows, the earliest first.
        after: For each piece, how many rows come before it; 0 for the first.

    Raises:
        ValueError: They do not belong together.
    """
    first, *others = pieces
    if any(piece.dtype != first.dtype or piece.shape[1:] != first.shape[1:] for piece in others):
        raise ValueError("Rows have another form than the rows before them.")
    rows = 0
    for piece, number in zip(pieces, after, strict=True):
        if number != rows:
            raise ValueError(f"There are {rows} rows where {number} are continued.")
        rows += len(piece) if others else 0
    return torch.cat([first, *others]) if others else first


def new_items(value: Plain, before: Plain) -> tuple[Plain, Grown]:
    """What of a plain value is new.

    Args:
        value: Now.
        before: Earlier; None: everything is new.

    Returns:
        The value without the earlier items and entries, and where it continues.
    """
    if isinstance(value, list) and isinstance(before, list) and before and _equal(value[: len(before)], before):
        return value[len(before) :], len(before)
    if not isinstance(value, dict) or not isinstance(before, dict) or not before:
        return value, None
    if all(key in value and _equal(value[key], earlier) for key, earlier in before.items()):
        return {key: each for key, each in value.items() if key not in before}, True
    pairs = {key: new_items(each, before.get(key)) for key, each in value.items()}
    grown = {key: where for key, (_, where) in pairs.items() if where is not None}
    return {key: each for key, (each, _) in pairs.items()}, grown or None


def with_items(value: Plain, grown: Grown, before: Plain) -> Plain:
    """The whole value that `new_items` took apart.

    Args:
        value: What is new.
        grown: Where it continues.
        before: The earlier value, whole.

    Raises:
        ValueError: They do not belong together.
    """
    if grown is None:
        return value
    if grown is True and isinstance(value, dict) and isinstance(before, dict) and not value.keys() & before.keys():
        return dict(sorted({**before, **value}.items()))  # in the order that a file gives
    if type(grown) is int and isinstance(value, list) and isinstance(before, list) and len(before) == grown:
        return before + value
    dicts = isinstance(grown, dict) and isinstance(value, dict) and isinstance(before, dict)
    if dicts and grown.keys() <= value.keys() & before.keys():
        return {key: with_items(each, grown.get(key), before.get(key)) for key, each in value.items()}
    raise ValueError("A value does not continue this one.")


def _may_begin(tensor: Tensor, earlier: Print) -> bool:
    """Whether the earlier tensor can be the first rows of this one, by their forms."""
    same_rows = tensor.dtype == earlier.dtype and tensor.shape[1:] == earlier.shape[1:]
    return same_rows and tensor.dim() == len(earlier.shape) > 0 and len(tensor) > earlier.rows


def _hashes(tensor: Tensor, rows: int) -> tuple[bytes, Print]:
    """The hash of the first rows, and the whole tensor's print, in one pass."""
    flat = memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
    end = len(flat) // max(len(tensor), 1) * rows if tensor.dim() else 0
    digest = hashlib.sha256(flat[:end])
    first = digest.digest()
    digest.update(flat[end:])
    return first, Print(tuple(tensor.shape), tensor.dtype, digest.digest())


def _equal(one: Plain, other: Plain) -> bool:
    """Equal also in the kinds of numbers: 1, 1.0 and True are three values in a file."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    return repr(one) == repr(other) if isinstance(one, float) else bool(one == other)  # 0.0 and -0.0 are two values
