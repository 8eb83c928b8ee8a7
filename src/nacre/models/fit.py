"""Whether saved tensors fit what they go into. Nothing is broadcast, converted or left over without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nacre.errors import CheckpointError


@dataclass(frozen=True)
class Form:
    """What a tensor must be.

    Attributes:
        shape: Its sizes.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        """The form of a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype)

    @property
    def empty(self) -> Tensor:
        """A stack of this form without rows."""
        return torch.empty(0, *self.shape[1:], dtype=self.dtype)

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


def check_fit(what: str, tensors: Mapping[str, Tensor], forms: Mapping[str, Form]) -> None:
    """Compare saved tensors with what they go into.

    Args:
        what: What an error calls them.
        tensors: By public name.
        forms: What is expected, by the same names.

    Raises:
        CheckpointError: If one is missing, too many, of another form, or not finite; it names the first.
    """
    if (problem := next(_problems(tensors, forms), None)) is not None:
        raise CheckpointError(f"The saved {what} does not fit this model and method: {problem}.")


def check_forms(what: str, found: Mapping[str, Form], needed: Mapping[str, Form | None]) -> None:
    """Compare the forms of tensors that are not read yet with what they go into.

    Args:
        what: What an error calls them.
        found: By public name.
        needed: What is expected, by the same names; None: nothing.

    Raises:
        CheckpointError: If one is another; it names the first.
    """
    for name, form in found.items():
        if form != needed[name]:
            wanted = "has no place in it" if needed[name] is None else f"is {form}, and {needed[name]} is needed"
            raise CheckpointError(f"The saved {what} does not fit this model and method: '{name}' {wanted}.")


def count_of(what: str, values: Mapping[str, Any], key: str) -> int:
    """A number of things that saved values hold; 0 if they hold none.

    Raises:
        CheckpointError: If it is not a number of things.
    """
    count = values.get(key, 0)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise CheckpointError(f"The saved {what} is damaged: '{key}' is {count!r:.80}; a number of things is needed.")
    return count


def _problems(tensors: Mapping[str, Tensor], forms: Mapping[str, Form]) -> Iterator[str]:
    for name, form in forms.items():
        if name not in tensors:
            yield f"'{name}' is missing; {form} is needed"
        elif (found := Form.of(tensors[name])) != form:
            yield f"'{name}' is {found}, and {form} is needed"
        elif form.dtype.is_floating_point and not tensors[name].isfinite().all():
            yield f"'{name}' holds numbers that are not finite"
    for name in tensors:
        if name not in forms:
            yield f"'{name}' has no place in it"
