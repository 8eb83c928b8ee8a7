"""A method is a value made of parts. Nothing of it trains; ``nacre.learning`` does that, the same way for all."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec

from nacre.adapters.adapter import Adapter
from nacre.errors import NacreError, SlotTaken
from nacre.parts.curriculum import Curriculum, Sequential
from nacre.parts.gradient_rule import GradientRule
from nacre.parts.memory import Memory
from nacre.parts.part import Part
from nacre.parts.penalty import Penalty
from nacre.parts.start import Fresh, Start

P = ParamSpec("P")


@dataclass(frozen=True)
class Method:
    """adapter: what is trainable, and how the tasks' parameters combine. start: how a new task's parameters begin.
    penalties: added to the loss. gradient_rules: between backward and step, in this order. memory: kept examples.
    curriculum: in which portions the stream is learnt.

    name and parameters say how to build it again; ``@recorded`` fills them in.
    """

    title: str
    sources: tuple[str, ...]
    adapter: Adapter
    start: Start = field(default_factory=Fresh)
    penalties: tuple[Penalty, ...] = ()
    gradient_rules: tuple[GradientRule, ...] = ()
    memory: Memory | None = None
    curriculum: Curriculum = field(default_factory=Sequential)
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, number in Counter(part.key for part in self.parts).items():
            if number > 1:
                raise SlotTaken(
                    f"{self.name or self.title} holds {number} parts with the key '{key}'; state is kept by key."
                )

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts with hooks, in the order in which they begin and end."""
        memory = () if self.memory is None else (self.memory,)
        return (self.start, *memory, *self.penalties, *self.gradient_rules)

    @property
    def traits(self) -> dict[str, bool]:
        """What the parts imply, for tables and sheets."""
        return {
            "rehearsal-free": self.memory is None,
            "task identity at test": self.curriculum.needs_task_at_test,
            "foldable": self.adapter.sum_gated,
            "grows with tasks": self.adapter.grows,
        }

    def with_memory(self, memory: Memory) -> Method:
        """The method with a memory; raises ``SlotTaken`` if it has one."""
        if self.memory is not None:
            raise SlotTaken(
                f"{self.name or self.title} already has a memory ({self.memory}); a method holds one. "
                f"Drop {memory}, or change the one it has."
            )
        return replace(self, memory=memory)

    def with_start(self, start: Start) -> Method:
        """The method with another start; raises ``SlotTaken`` if it has one that is not the default."""
        if self.start != Fresh():
            raise SlotTaken(
                f"{self.name or self.title} already has a start ({self.start}); a method holds one. "
                f"Drop {start}, or change the one it has."
            )
        return replace(self, start=start)


def recorded(build: Callable[P, Method]) -> Callable[P, Method]:
    """Decorator of a method function: the value it returns knows the function's name and all arguments.

    The function's keyword-only signature is the vocabulary of ``--set``; its docstring is the method's sheet.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def named(*args: P.args, **kwargs: P.kwargs) -> Method:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise NacreError(f"{build.__name__}: {error}; it takes {', '.join(signature.parameters)}.") from None
        bound.apply_defaults()
        return replace(build(*args, **kwargs), name=build.__name__, parameters=dict(bound.arguments))

    return named
