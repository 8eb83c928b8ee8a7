"""A method is a value made of parts. It does not train itself; `nacre.learning` trains every method the same way."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, get_type_hints

from nacre.adapters.adapter import Adapter
from nacre.adapters.full import Full
from nacre.documents import shown, shown_text
from nacre.errors import DataError, ModelError, NacreError, RecipeError, SlotTaken
from nacre.parts.curriculum import Curriculum, Joint, Sequential
from nacre.parts.part import BatchTerm, GradientRule, Memory, Part, Penalty, Readout, Routing, Start
from nacre.parts.start import Fresh
from nacre.settings import checked

if TYPE_CHECKING:
    from nacre.models.host import Host
    from nacre.tasks.task import Task

P = ParamSpec("P")

KINDS: dict[str, str] = {"answer": "a task with answers", "text": "unlabeled text"}
"""What messages call the kinds of tasks."""


@dataclass(frozen=True)
class Method:
    """A continual learning method: an adapter, and a part in each slot that it fills.

    Attributes:
        title: Its name in prose.
        sources: Where it is published.
        adapter: What is trainable, and how the tasks' parameters combine.
        start: How a new task's parameters begin.
        penalties: Terms added to the loss.
        gradient_rules: What changes gradients between the backward pass and the step, in this order.
        memory: What is kept of past tasks' examples.
        batch_terms: Terms added to each micro-batch's loss.
        routing: Which learned parameters answer a row.
        readout: What answers instead of the host's logits.
        curriculum: The stages in which the stream is learned.
        name: Name by which it can be built again, filled in by `@method` and `@modifier`; empty if it was put together
            by hand.
        parameters: Parameters with which it can be built again, filled in likewise.

    Raises:
        SlotTaken: Two parts would share a key.
        RecipeError: A part cannot work with the adapter.
    """

    title: str
    sources: tuple[str, ...]
    adapter: Adapter
    start: Start = field(default_factory=Fresh)
    penalties: tuple[Penalty, ...] = ()
    gradient_rules: tuple[GradientRule, ...] = ()
    memory: Memory | None = None
    batch_terms: tuple[BatchTerm, ...] = ()
    routing: Routing | None = None
    readout: Readout | None = None
    curriculum: Curriculum = field(default_factory=Sequential)
    name: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, number in Counter(part.key for part in self.parts).items():
            if number > 1:
                raise SlotTaken(
                    f"{self.display_name} would hold {number} parts with the key '{key}'; a method holds one of each."
                )
        for part in self.parts:
            for group in part.needed_groups:
                if group not in self.groups:
                    raise RecipeError(
                        f"{shown_text(part.key)} cannot be a part of {self.display_name}: a part that acts on the "
                        f"parameter group {shown(group)} needs one; here are: {', '.join(self.groups) or 'none'}."
                    )
            if not self.trains and part not in (self.readout, Fresh()):
                raise RecipeError(
                    f"{shown_text(part.key)} cannot be a part of {self.display_name}: nothing is trained there that it "
                    "could act on."
                )
            if (objection := part.objection(self.adapter)) is not None:
                raise RecipeError(f"{shown_text(part.key)} cannot be a part of {self.display_name}: {objection}.")

    def __repr__(self) -> str:
        held = ", ".join([type(self.adapter).__name__, *(part.key for part in self.parts)])
        return f"Method({self.display_name}: {held})"

    @property
    def display_name(self) -> str:
        """Its name in messages: `name`, or `title` if it has none."""
        return self.name or self.title

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts with hooks, in the order in which they begin and end."""
        alone = (self.memory, self.routing, self.readout)
        return (
            self.start,
            *(part for part in alone if part is not None),
            *self.penalties,
            *self.batch_terms,
            *self.gradient_rules,
        )

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of all trained parameter groups but an encoder-only host's `head`."""
        return (*self.adapter.groups, *(self.routing.groups if self.routing is not None else ()))

    @property
    def trains(self) -> bool:
        """Whether anything is trained: a method whose readout answers in a frozen host takes no optimizer step."""
        return self.readout is None or bool(self.groups)

    @property
    def chooses_labels(self) -> bool:
        """Whether it answers with labels alone, so that it answers no task without them and writes nothing."""
        return any(part.chooses_labels for part in self.parts)

    @property
    def traits(self) -> dict[str, bool]:
        """What the parts imply, for tables and sheets.

        "continual": one model is taught task after task; the others are bounds to compare with.
        "rehearsal-free": no row of a task is kept, be it as a vector, and none is learned again with another task's;
        training on all tasks at once is not.
        "task boundaries in training": the method must know when a new task begins, though not which one it is.
        "fine-tuning", "pre-training": it learns tasks with answers, and unlabeled texts.
        """
        copies = self.curriculum.needs_task_at_test  # a model for each task
        return {
            "continual": self.curriculum.continues,
            "rehearsal-free": (
                self.memory is None
                and not any(part.keeps_data for part in self.parts)
                and not isinstance(self.curriculum, Joint)
            ),
            "task boundaries in training": (
                copies or self.adapter.grows or any(part.needs_boundaries for part in self.parts)
            ),
            "task identity at test": (
                self.curriculum.needs_task_at_test
                or self.adapter.needs_task_at_test
                or (self.routing is not None and self.routing.needs_task_at_test)
                or (self.readout is not None and self.readout.needs_task_at_test)
            ),
            "fine-tuning": all("answer" in part.learns for part in self.parts),
            "pre-training": all("text" in part.learns for part in self.parts),
            "foldable": self.adapter.sum_gated and self.routing is None,
            "grows with tasks": copies or self.adapter.grows or any(part.grows for part in self.parts),
        }

    def check_host(self, host: Host) -> None:
        """Check that the host can write, if a part needs that.

        Raises:
            ModelError: It cannot.
        """
        if host.is_sharded and "host" in self.adapter.groups:
            if not isinstance(self.adapter, Full):
                host.check_whole(f"{self.display_name}, which trains the host's own weights and more,")
            for part in self.parts:
                if not part.shardable:
                    host.check_whole(f"{part.key} of {self.display_name}, which trains the host's own weights,")
        for part in self.parts:
            if part.writes and not host.family.is_generative:
                raise ModelError(
                    f"'{host.name}' is {host.family.name} and cannot write, which {part.key} of {self.display_name} "
                    "needs: take an encoder-decoder or a decoder-only model."
                )

    def check_computed_again(self) -> None:
        """Check that layers may be computed again in the backward pass (`optim.gradient_checkpointing`).

        Raises:
            RecipeError: A part changes how they compute, and only until the backward pass.
        """
        for part in self.parts:
            if part.changes_passes:
                raise RecipeError(
                    f"optim.gradient_checkpointing: {part.key} of {self.display_name} changes how layers compute while "
                    "they read a batch, and in the backward pass they would compute otherwise: raise "
                    "optim.accumulation instead."
                )

    def check(self, task: Task) -> None:
        """Check that every part works with this kind of task.

        Raises:
            DataError: If one does not.
        """
        for part in self.parts:
            if task.kind not in part.learns:
                raise DataError(
                    f"Task '{task.name}' is {KINDS[task.kind]}, and {self.display_name} learns none: {part.key} needs "
                    f"{' or '.join(KINDS[kind] for kind in sorted(part.learns))}."
                )
            if part.chooses_labels and not task.labels:
                raise DataError(
                    f"Task '{task.name}' has no labels, and {self.display_name} answers with labels alone: give the "
                    "task labels, or take a method that writes."
                )

    def with_memory(self, memory: Memory) -> Method:
        """The method with a memory; raises `SlotTaken` if it has one."""
        if self.memory is not None:
            raise SlotTaken(
                f"{self.display_name} already has a memory ({self.memory}); a method holds one. "
                f"Drop {memory}, or change the one it has."
            )
        return replace(self, memory=memory)

    def with_start(self, start: Start) -> Method:
        """The method with another start; raises `SlotTaken` if it has one that is not the default."""
        if self.start != Fresh():
            raise SlotTaken(
                f"{self.display_name} already has a start ({self.start}); a method holds one. "
                f"Drop {start}, or change the one it has."
            )
        return replace(self, start=start)

    def with_penalty(self, penalty: Penalty) -> Method:
        """The method with one more term in its loss; raises `SlotTaken` if it has one of this key."""
        return replace(self, penalties=(*self.penalties, penalty))

    def with_batch_term(self, term: BatchTerm) -> Method:
        """The method with one more term in each micro-batch's loss; raises `SlotTaken` if it has one of this key."""
        return replace(self, batch_terms=(*self.batch_terms, term))

    def with_routing(self, routing: Routing) -> Method:
        """The method with a routing; raises `SlotTaken` if it has one."""
        if self.routing is not None:
            raise SlotTaken(
                f"{self.display_name} already has a routing ({self.routing}); a method holds one. "
                f"Drop {routing}, or change the one it has."
            )
        return replace(self, routing=routing)

    def with_readout(self, readout: Readout) -> Method:
        """The method with a readout; raises `SlotTaken` if it has one."""
        if self.readout is not None:
            raise SlotTaken(
                f"{self.display_name} already has a readout ({self.readout}); a method holds one. "
                f"Drop {readout}, or change the one it has."
            )
        return replace(self, readout=readout)

    def with_gradient_rule(self, rule: GradientRule) -> Method:
        """The method with one more gradient rule, which acts last; raises `SlotTaken` if it has one of this key."""
        return replace(self, gradient_rules=(*self.gradient_rules, rule))


def method(build: Callable[P, Method]) -> Callable[P, Method]:
    """Decorator of a method function: the value that it returns knows the function's name and all arguments.

    Args:
        build: Its keyword-only signature is the vocabulary of `--set`; its docstring is the method's sheet.
    """

    @functools.wraps(build)
    def named(*args: P.args, **kwargs: P.kwargs) -> Method:
        parameters = _arguments(build, args, kwargs)
        return replace(build(**parameters), name=build.__name__, parameters=parameters)  # type: ignore[call-arg]

    return named


def modifier(build: Callable[Concatenate[Method, P], Method]) -> Callable[Concatenate[Method, P], Method]:
    """Decorator of a modifier: a function from a method, its first argument, to a method with one part more.

    `migu(seq_lora(), threshold=0.5)` has the name `seq_lora+migu`, and its parameters are those of `seq_lora` and
    `{"migu": {"threshold": 0.5}}`: on the command line `--set migu.threshold=0.5`.

    Args:
        build: Its docstring is the modifier's sheet.
    """

    @functools.wraps(build)
    def named(method: Method, /, *args: P.args, **kwargs: P.kwargs) -> Method:
        own = _arguments(build, (method, *args), kwargs)
        del own[next(iter(own))]  # the method itself
        built = build(method, **own)  # type: ignore[call-arg]
        return replace(
            built,
            title=f"{method.title} + {build.__name__}",
            name=f"{method.name}+{build.__name__}" if method.name else "",
            parameters={**method.parameters, build.__name__: own},
        )

    return named


def _arguments(build: Callable[..., Method], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name, defaults included, each of the type that its parameter has."""
    signature = inspect.signature(build)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise NacreError(f"{build.__name__}: {error}; it takes {', '.join(signature.parameters)}.") from None
    bound.apply_defaults()
    hints = get_type_hints(build)
    return {
        key: value if isinstance(value, Method) else checked(f"{build.__name__}: {key}", value, hints[key])
        for key, value in bound.arguments.items()
    }
