"""A sheet's text, taken apart: what it says of each parameter, what it assumes, and the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import getdoc
from typing import Any

from nacre.registry import parameters_of


@dataclass(frozen=True)
class Sheet:
    """A method's or modifier's docstring.

    whole: as it stands. text: without what the other two hold. parameters: what it says of each, by name.
    assumed: what the sources do not state and is set here all the same.
    """

    whole: str
    text: str
    parameters: dict[str, str]
    assumed: tuple[str, ...]


def sheet_of(function: Callable[..., Any]) -> Sheet:
    whole = getdoc(function) or ""
    kept, assumed, parameters = list[str](), list[str](), dict[str, str]()
    for paragraph in re.split(r"\n[ ]*\n", whole):
        rest = []
        # Within a paragraph, what begins with one of these words stands for itself.
        for block in re.split(r"\n(?=Note:|Sources:)|(?:\n|(?<=\.) )(?=Assumed\b[^:]*:)", paragraph):
            before, said = _explained(block, parameters_of(function))
            if block.startswith("Assumed"):
                assumed.append(_one_line(re.sub(r"^Assumed\W*", "", block)))
            elif said and not block.startswith(("Equations:", "Sources:", "Note:")):
                parameters |= said
                rest += [before] if before else []
            else:
                rest.append(block)
        kept += ["\n".join(rest)] if rest else []
    return Sheet(whole, "\n\n".join(kept), parameters, tuple(assumed))


def _explained(block: str, names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """What stands before the first parameter, and what is said of each: ``rank: its dimensions. alpha, dropout: of that
    LoRA.`` Of several together, one may have words of its own, as in ``alpha (null: rank), dropout: of that LoRA.``"""
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    if not name:
        return block, {}
    item = rf"(?:{name})(?:\s\([^()]*\))?"
    heads = list(re.finditer(rf"(?:\A|(?<=[.;)\]])\s+)({item}(?:,\s+{item})*):\s", block))
    if not heads:
        return block, {}
    said = dict[str, str]()
    ends = [head.start() for head in heads[1:]] + [len(block)]
    for head, end in zip(heads, ends, strict=True):
        common = _one_line(block[head.end() : end]).rstrip(";.")
        for each in re.finditer(rf"({name})(?:\s\(([^()]*)\))?(?=,|$)", head[1]):
            said[each[1]] = f"{_one_line(each[2])}; {common}" if each[2] else common
    return block[: heads[0].start()].rstrip(), said


def _one_line(text: str) -> str:
    return " ".join(text.split())
