"""Classes are abstract or final: what is implemented is overridden nowhere, and no class is a variation of another."""

from __future__ import annotations

import inspect
from abc import ABC
from typing import Protocol

from helpers.modules import classes

ALLOWED = {
    "nacre.records.comparison._Frozen",
}
"""Classes that others still derive from and that do not say that they are abstract; to become empty."""


def is_abstract(kind: type) -> bool:
    """It says so, or cannot be made."""
    return inspect.isabstract(kind) or ABC in kind.__bases__ or Protocol in kind.__bases__


def test_no_concrete_class_is_derived_from() -> None:
    offenders = {
        f"{base.__module__}.{base.__qualname__}"
        for kind in classes()
        for base in kind.__bases__
        if base.__module__.startswith("nacre.")
        and not is_abstract(base)
        and not issubclass(base, Exception)  # errors are caught by their kinds
    }
    assert offenders == ALLOWED


def test_final_classes_say_so_in_the_adapters() -> None:
    """Where a class is not abstract, mypy holds nobody back unless it is marked."""
    for kind in classes():
        is_public = kind.__module__.startswith("nacre.adapters.") and not kind.__name__.startswith("_")
        if is_public and not is_abstract(kind):
            assert getattr(kind, "__final__", False), kind
