"""A sheet's docstring taken apart: what it says of each parameter, what it assumes, and the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import getdoc
from typing import Any

import griffe

ASSUMED = "Assumed"
"""Title of the section that lists, as bullet points, what the sources do not state."""


@dataclass(frozen=True)
class Sheet:
    """The docstring of a method or modifier, which has Google's form.

    Attributes:
        whole: The docstring as it stands.
        text: Everything but the sections `Args` and `Assumed`.
        parameters: What it says of each parameter, by name.
        assumed: What the sources do not state and is set here all the same.
    """

    whole: str
    text: str
    parameters: dict[str, str]
    assumed: tuple[str, ...]


def sheet_of(function: Callable[..., Any]) -> Sheet:
    """The sheet of a method or modifier function; empty where it has no docstring."""
    whole = getdoc(function) or ""
    text, parameters, assumed = list[str](), dict[str, str](), list[str]()
    for section in griffe.Docstring(whole).parse("google", warnings=False):
        if isinstance(section, griffe.DocstringSectionParameters):
            parameters |= {argument.name: _one_line(argument.description) for argument in section.value}
        elif isinstance(section, griffe.DocstringSectionAdmonition):
            if section.title == ASSUMED:
                assumed += _bullet_points(section.value.description)
            else:
                text.append(f"{section.title}:\n{_indented(section.value.description)}")
        else:
            text.append(str(section.value))
    return Sheet(whole, "\n\n".join(text), parameters, tuple(assumed))


def _bullet_points(text: str) -> Iterator[str]:
    """The items of a Markdown list."""
    for item in re.split(r"^- ", text, flags=re.MULTILINE):
        if item.strip():
            yield _one_line(item)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _one_line(text: str) -> str:
    return " ".join(text.split())
