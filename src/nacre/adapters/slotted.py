"""The common base of adapters with low-rank slots (LoRA, SVD, gated), and what parts may know of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, final

from torch import Tensor, nn

from nacre.adapters.adapter import Adapter, FeatureMap, PlacedAdapter
from nacre.adapters.site import Site
from nacre.adapters.sites import PlacedSites
from nacre.adapters.slots import SlotStack
from nacre.errors import RecipeError
from nacre.functional.sensitivity import Triplets
from nacre.models.roles import above_blocks, find_linears

WIDEST = 65_536
"""The largest rank: wider than the linear maps of language models, so that more says nothing more."""


@dataclass(frozen=True)
class SlottedAdapter(Adapter, ABC):
    """Settings of low-rank slots at linear maps, with s = alpha / rank, or 1 where alpha is None.

    With `from_start` a start that fills a slot keeps the function: the slot's update is `s (B_i A_i - B_i0 A_i0)`,
    with `B_i0 A_i0` its factors' product when they were written. The first slot, and one that begins as usual, have
    nothing to take out. What is taken out is frozen, and so sees the input without dropout.

    Attributes:
        rank: Rank of a slot.
        alpha: The update is scaled by alpha / rank; None: by 1.
        dropout: On the input of the slot being trained; the folded past sees the input as it is.
        slots: `shared`: one for the whole sequence of tasks; `per_task`: a new one each task, earlier ones frozen.
        roles: Roles of the linear maps that carry it (`models/roles`).
        modules: Endings of the maps' names, instead of roles.
        cross_attention: Whether the maps of a decoder's attention to the encoder carry it, too.
        from_start: Whether a slot's update counts from its start.
        above: The number of blocks at the input, of the stack that reads it, whose maps carry nothing.
    """

    rank: int = 8
    alpha: float | None = 32.0
    dropout: float = 0.1
    slots: Literal["shared", "per_task"] = "per_task"
    roles: tuple[str, ...] = ("query", "value")
    modules: tuple[str, ...] = ()
    cross_attention: bool = True
    from_start: bool = False
    above: int = 0

    @final
    def check_slots(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            RecipeError: `rank`, `dropout`, `alpha` or `above` is out of range, or there is no later start to count
                from.
        """
        if self.rank < 1:
            raise RecipeError(f"rank: {self.rank} is not a positive number of dimensions.")
        if self.rank > WIDEST:
            raise RecipeError(f"rank: {self.rank} is above {WIDEST:,}, and no update has more dimensions than its map.")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout: {self.dropout} is not in [0, 1).")
        if self.alpha is not None and self.alpha <= 0:
            raise RecipeError(f"alpha: {self.alpha} is not positive; the update is scaled by alpha / rank.")
        if self.above < 0:
            raise RecipeError(f"above: {self.above} is not a number of blocks.")
        if self.from_start and self.slots == "shared":
            raise RecipeError("from_start: all tasks share one slot here, which begins once, at an update of zero.")

    @property
    def weighable(self) -> bool:
        return self.sum_gated and self.slots == "per_task"

    @property
    def grows(self) -> bool:
        return self.slots == "per_task"

    @property
    def can_stay_on_disk(self) -> bool:
        return self.weighable and self.slots == "per_task" and not self.from_start and not self.has_branch

    @property
    def has_branch(self) -> bool:
        """Whether each slot lies on top of one low-rank branch, which takes it in once it has been learned."""
        return False

    @property
    def slot_rank(self) -> int:
        """Rows of a slot's `A`: its rank."""
        return self.rank

    @property
    @final
    def scale(self) -> float:
        """The scale `s` of every slot's update."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @final
    def linears(self, model: nn.Module) -> dict[str, nn.Module]:
        """The host's linear maps that carry the adapter, by name.

        Raises:
            ModelError: There are none.
        """
        linears = find_linears(model, self.roles, self.modules, cross_attention=self.cross_attention)
        return above_blocks(model, linears, self.above) if self.above else linears

    @abstractmethod
    def site(self, base: nn.Module) -> SlottedSite:
        """A site around a linear map."""

    @abstractmethod
    def start(self, slots: SlotStack, seed: int) -> None:
        """Fill the newest slot's factors with their usual random values."""


class SlottedSite(Site, ABC):
    """A site with a low-rank slot for each task.

    Attributes:
        slots: The factors of all tasks.
        is_shared: Whether these have one slot together.
    """

    def __init__(self, base: nn.Module, settings: SlottedAdapter) -> None:
        """Begin without a slot.

        Args:
            base: The host's linear map.
            settings: The adapter's settings.
        """
        super().__init__(base)
        has_sigma = "sigma" in settings.groups
        like = self.new_tensor(0)
        self.slots = SlotStack(
            settings.slot_rank,
            self.d_in,
            self.d_out,
            like=like,
            has_sigma=has_sigma,
            from_start=settings.from_start,
            has_branch=settings.has_branch,
            fixes_down="down" not in settings.groups,
        )
        self.dropout = settings.dropout
        self.is_shared = settings.slots == "shared"

    @property
    @abstractmethod
    def scale(self) -> float:
        """The scale `s` of every slot's update."""

    @property
    @abstractmethod
    def past_weight(self) -> Tensor | None:
        """The one weight [d_out, d_in] that earlier tasks are computed with; None if they are computed beside it."""

    @abstractmethod
    def past_open(self) -> AbstractContextManager[dict[str, Tensor]]:
        """While open, earlier tasks are computed through their stacks, which are leaves: group -> stack."""

    @property
    @final
    def is_open(self) -> bool:
        return self.slots.is_open

    @final
    def number_after(self, tasks: int) -> int:
        """How many slots there are after so many tasks, at least one."""
        return 1 if self.is_shared else tasks

    @final
    def past_by_group(self) -> dict[str, Tensor]:
        """The earlier tasks' frozen stacks under the names of the groups they were trained in."""
        return self.slots.past_by_group()

    def write(self, new: Triplets) -> None:
        """Put triplets [r, ...] into the newest slot, as its start."""
        self.slots.write(new)

    @final
    def own_type(self, x: Tensor) -> Tensor:
        """x in the adapter's type: a half-precision host passes half-precision activations."""
        return x.to(self.slots.dtype)

    @final
    def dropped(self, x: Tensor) -> Tensor:
        """x in the adapter's type, with dropout in training."""
        return nn.functional.dropout(self.own_type(x), self.dropout, self.training)

    @final
    def factor_maps(self, place: str, roles: tuple[str, ...], *, input_of: nn.Module | None) -> list[FeatureMap]:
        """A by its own output [r]; B by the whole site's output, W x and earlier tasks included (MIGU, Eqs. 7 to 9).

        Args:
            place: The site's name in the host.
            roles: Roles of its linear map.
            input_of: The module whose input A reads, where A is not called itself.
        """
        parameters = self.slots.parameters_by_group()
        whole = FeatureMap(place, place, roles, self, ((parameters.pop("up"), 0),))
        if not parameters:
            return [whole]
        by_code = tuple((each, 0) for each in parameters.values())  # sigma_i belongs to the output i of A
        return [FeatureMap(f"{place}.down", place, roles, self.slots.down, by_code, input_of=input_of), whole]


class MixingSite(SlottedSite, ABC):
    """A site whose update weights its factors by the input, so that no one weight amounts to it."""

    @property
    @final
    def past_weight(self) -> None:
        """None: no weight can hold the earlier tasks."""
        return None

    @final
    def past_open(self) -> AbstractContextManager[dict[str, Tensor]]:
        return self.slots.past_as_leaves()

    @final
    def effective_weight(self) -> None:
        """None: the mixture depends on the input."""
        return


S = TypeVar("S", bound=SlottedSite)


class PlacedSlots(PlacedSites[S], ABC, Generic[S]):
    """All sites of an adapter with low-rank slots in one host."""

    @final
    @contextmanager
    def past_open(self) -> Iterator[dict[str, dict[str, Tensor]]]:
        """While open, the host computes through the earlier tasks' own tensors instead of folded weights.

        They are leaves that gradients reach: site -> group -> stack. Afterwards everything is as before, to the object.
        """
        with ExitStack() as stack:
            yield {name: stack.enter_context(site.past_open()) for name, site in self.sites.items()}


def why_no_past(adapter: Adapter) -> str | None:
    """The objection of a part that reads earlier tasks' low-rank factors; None if the adapter has a slot a task."""
    if not isinstance(adapter, SlottedAdapter):
        return "it works on earlier tasks' low-rank factors, and here are none; inc_lora, am_lora and lb_cl have them"
    if adapter.slots == "shared":
        return (
            "it works on earlier tasks' frozen factors, and here all tasks share one slot; inc_lora, am_lora and lb_cl "
            "have one for each task"
        )
    if "down" not in adapter.groups:
        return "it acts on both factors of a LoRA, and here the inputs' directions are given and not trained"
    return None


def why_no_product(adapter: Adapter) -> str | None:
    """The objection of a part that reads the newest slot's update as the product B A; None if the adapter has one."""
    if not isinstance(adapter, SlottedAdapter):
        return "it acts on the update B A of a LoRA, and here is none; seq_lora, inc_lora, am_lora and lb_cl have one"
    if adapter.slot_rank != adapter.rank or "gate" in adapter.groups:
        return "it acts on the update B A of a LoRA, and here something that depends on the row stands between B and A"
    if adapter.from_start:
        return (
            "it acts on a LoRA's update B A, and here updates count from their start, so that B A is not what they add"
        )
    return None


def low_rank_in(adapter: PlacedAdapter) -> PlacedSlots[Any]:
    """The placed adapter, whose kind `why_no_past` has checked."""
    assert isinstance(adapter, PlacedSlots)
    return adapter
