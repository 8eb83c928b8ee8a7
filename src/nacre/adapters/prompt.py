"""Soft prompts: learned embeddings in front of the input, the host's own weights being frozen.

Row j of the table of prompts is the token V + j, V being the size of the host's vocabulary. Such ids stand in front of
an input like any others, so that training, free answers and label scores read prompts in the same way as words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nacre.adapters.adapter import Adapter, FeatureMap, PlacedAdapter
from nacre.adapters.route import Route
from nacre.adapters.site import allow_saving, forbid_saving, pristine_tensors, put_module
from nacre.errors import CheckpointError, ModelError, RecipeError
from nacre.models.owner import ParameterGroup, stop_training
from nacre.models.reader import reader_of
from nacre.seeds import derive


@final
@dataclass(frozen=True)
class Prompt(Adapter):
    """A soft prompt (Lester et al., 2021), one for all tasks or one a task.

    Attributes:
        tokens: l, how many rows a slot of the table has.
        slots: `shared`: one slot for the whole sequence of tasks; `per_task`: a new one each task, earlier ones frozen.
        concatenate: Whether a task's input also has the prompts of the tasks before it, newest first (Progressive
            Prompts).
        placeholders: Of a shared slot, how many tokens stand in front of an input: the first ones, or those that a
            route chooses; None: all.
    """

    learning_rate: ClassVar[float] = 0.3  # Progressive Prompts, T5-large
    sum_gated: ClassVar[bool] = False
    has_virtual_tokens: ClassVar[bool] = True

    tokens: int = 10
    slots: Literal["shared", "per_task"] = "shared"
    concatenate: bool = False
    placeholders: int | None = None

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise RecipeError(f"tokens: {self.tokens} is not a positive number of prompt tokens.")
        if self.slots == "shared" and self.concatenate:
            raise RecipeError("concatenate: all tasks share one prompt here, so that there are none to be joined.")
        if self.placeholders is not None and (self.slots == "per_task" or not 0 < self.placeholders <= self.tokens):
            raise RecipeError(
                f"placeholders: {self.placeholders} is not a number of a shared prompt's {self.tokens} tokens."
            )

    @property
    def grows(self) -> bool:
        return self.slots == "per_task"

    @property
    def needs_task_at_test(self) -> bool:
        return self.slots == "per_task"

    @property
    def groups(self) -> tuple[str, ...]:
        return ("prompt",)

    def place(self, model: nn.Module) -> PlacedPrompt:
        return PlacedPrompt(model, self)


@final
class PromptTable(nn.Module):
    """An input embedding that also knows virtual tokens.

    Attributes:
        base: The host's own embedding of V tokens.
        weight: Its weight [V, d]: output layers are tied to it, and precisions told by it.
        past: Earlier slots' rows, frozen [t - 1, l, d].
        newest: The newest slot's rows [l, d]; None before the first task.
        chosen: Per row of a batch, which rows of the table its placeholders stand for [B, k]; None: themselves.
        is_bypassed: Whether only the base answers.
    """

    past: Tensor

    def __init__(self, base: nn.Module, tokens: int) -> None:
        super().__init__()
        self.base = base
        weight = base.weight
        assert isinstance(weight, nn.Parameter)
        self.weight = weight
        self.vocabulary, width = weight.shape
        # At least float32, as all adapters: at the usual rates a half-precision prompt loses its small updates.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.register_buffer("past", torch.zeros(0, tokens, width, dtype=dtype, device=weight.device))
        self.newest: nn.Parameter | None = None
        self.chosen: Tensor | None = None
        self.is_bypassed = False

    def table(self) -> Tensor:
        """The rows of all slots, oldest first [t, l, d]."""
        return self.past if self.newest is None else torch.cat([self.past, self.newest.unsqueeze(0)])

    def forward(self, ids: Tensor) -> Tensor:
        """[..., S] -> [..., S, d]."""
        if self.is_bypassed or self.newest is None:
            return self.base(ids)  # type: ignore[no-any-return]
        is_virtual = ids >= self.vocabulary
        words: Tensor = self.base(ids.masked_fill(is_virtual, 0))
        numbers = (ids - self.vocabulary).clamp(min=0)
        if self.chosen is not None:
            numbers = self._chosen(numbers)
        prompts = F.embedding(numbers, self.table().flatten(0, 1))
        return torch.where(is_virtual.unsqueeze(-1), prompts.to(words.dtype), words)

    def _chosen(self, numbers: Tensor) -> Tensor:
        """What the placeholders of a batch [B * copies, S] stand for."""
        assert self.chosen is not None
        if len(numbers) % len(self.chosen):
            raise ModelError(
                f"Prompts were chosen for {len(self.chosen)} rows, and {len(numbers)} are read: each must stand there "
                "once or several times."
            )
        chosen = self.chosen.repeat_interleave(len(numbers) // len(self.chosen), dim=0)
        return chosen.gather(1, numbers.clamp(max=chosen.shape[1] - 1))


@final
class PlacedPrompt(PlacedAdapter):
    """A table of prompts in the stack that reads the input.

    Attributes:
        settings: Of the adapter.
        place: The name of the embedding that the table takes the place of.
        prompts: The table.
    """

    def __init__(self, model: nn.Module, settings: Prompt) -> None:
        reader: Any = reader_of(model)
        embedding = reader.get_input_embeddings()
        names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
        inside = {id(module): name for name, module in reader.named_modules(remove_duplicate=False)}
        if not isinstance(embedding, nn.Module) or id(embedding) not in inside or id(reader) not in names:
            raise ModelError(
                f"{type(model).__name__} does not say which embedding its input goes through, so that nothing can "
                "stand in front of it."
            )
        super().__init__(model)
        self.settings = settings
        # Elsewhere, as in T5's decoder, the same embedding may read words only.
        self.place = ".".join(name for name in (names[id(reader)], inside[id(embedding)]) if name)
        self.prompts = PromptTable(embedding, settings.tokens).train(embedding.training)
        put_module(model, self.place, self.prompts)
        forbid_saving(model)

    def grow(self) -> bool:
        self.tasks += 1
        newest = self.prompts.newest
        if newest is not None and self.settings.slots == "shared":
            newest.requires_grad_(True)
            return False
        if newest is not None:
            self.prompts.past = self.prompts.table().detach()
        self.prompts.newest = nn.Parameter(self.prompts.past.new_zeros(self.prompts.past.shape[1:]))
        return True

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        """Embeddings of random words of the vocabulary, as the host reads them."""
        assert self.prompts.newest is not None
        generator = torch.Generator().manual_seed(derive(seed, self.place))
        words = torch.randint(self.prompts.vocabulary, (self.settings.tokens,), generator=generator)
        self.prompts.newest.copy_(self.prompts.base(words.to(self.prompts.weight.device)))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [] if self.prompts.newest is None else [ParameterGroup("prompt", (self.prompts.newest,))]

    def feature_maps(self) -> list[FeatureMap]:
        """A prompt is no linear map."""
        return []

    def folding_summary(self) -> dict[str, Any]:
        return {}

    def virtual_tokens(self, number: int) -> tuple[int, ...]:
        if self.tasks == 0:
            return ()
        first, size = self.prompts.vocabulary, self.settings.tokens
        if self.settings.slots == "shared":
            return tuple(range(first, first + (self.settings.placeholders or size)))
        oldest = 1 if self.settings.concatenate else number
        slots = range(number, oldest - 1, -1)
        return tuple(first + (slot - 1) * size + row for slot in slots for row in range(size))

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.tasks == 0 else {f"{self.place}.prompts": self.prompts.table().detach()}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.tasks = values.get("slots", 0)
        past, name = self.prompts.past, f"{self.place}.prompts"
        if self.tasks == 0:
            self.prompts.past, self.prompts.newest = past[:0], None
            return
        shape = (self.tasks if self.settings.slots == "per_task" else 1, *past.shape[1:])
        if tensors.keys() != {name} or tensors[name].shape != shape:
            raise CheckpointError(
                f"The saved adapter does not fit this model and method: '{name}' of shape {list(shape)} is needed; "
                f"there are {', '.join(f'{key} {list(tensor.shape)}' for key, tensor in tensors.items()) or 'none'}."
            )
        table = tensors[name].to(past, copy=True)
        self.prompts.past, self.prompts.newest = table[:-1], nn.Parameter(table[-1].clone())
        self.freeze()

    def freeze(self) -> None:
        stop_training(self.parameter_groups())

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        before, self.prompts.is_bypassed = self.prompts.is_bypassed, True
        try:
            yield
        finally:
            self.prompts.is_bypassed = before

    @contextmanager
    def use(self, route: Route) -> Iterator[None]:
        """For each row, which rows of a shared table stand in front of it."""
        if route.weights is not None:
            raise ModelError("Prompts stand in front of an input or do not: there are no weights for them.")
        if route.prompts is not None:
            self._check(route.prompts)
        before, self.prompts.chosen = self.prompts.chosen, route.prompts
        try:
            yield
        finally:
            self.prompts.chosen = before

    def _check(self, chosen: Tensor) -> None:
        if self.settings.slots == "per_task":
            raise ModelError("The task says which prompts stand in front of an input here; a route cannot choose any.")
        if self.tasks == 0:
            raise ModelError("Prompts were chosen, and no slot has been opened yet.")
        count = len(self.virtual_tokens(self.tasks))
        if chosen.ndim != 2 or chosen.shape[1] != count or chosen.dtype != torch.long:
            raise ModelError(
                f"A route chooses {count} prompts for each row, as whole numbers [rows, {count}]; given were "
                f"{list(chosen.shape)} of {chosen.dtype}."
            )

    def pristine(self) -> dict[str, Tensor]:
        return pristine_tensors(self.model, (self.place,))

    def take_out(self) -> None:
        put_module(self.model, self.place, self.prompts.base)
        allow_saving(self.model)
