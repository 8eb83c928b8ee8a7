"""Soft prompts: learned embeddings in front of the input of a frozen host.

Row j of the table of prompts is the token V + j, with V the size of the host's vocabulary. Such ids stand in front of
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
from nacre.adapters.routed import rows_of
from nacre.adapters.site import allow_saving, forbid_saving, pristine_tensors, put_module
from nacre.errors import ModelError, RecipeError
from nacre.functional.segments import NONE, Segments
from nacre.models.architectures import config_of
from nacre.models.fit import Form, check_fit, count_of
from nacre.models.owner import ParameterGroup, stop_training
from nacre.models.reader import reader_of
from nacre.seeds import derive

LONGEST = 65_536
"""The largest number of tokens of a prompt: as many as texts have at the very most."""


PromptPosition = Literal["before", "after"]


@final
@dataclass(frozen=True)
class Prompt(Adapter):
    """A soft prompt (Lester et al., 2021), one for all tasks or one a task.

    Attributes:
        tokens: l, the number of rows of a slot of the table.
        slots: `shared`: one slot for the whole sequence of tasks; `per_task`: a new one each task, earlier ones frozen.
        concatenate: Whether a task's input also has the prompts of the tasks before it, newest first (Progressive
            Prompts).
        weighted: Whether a route weights the tasks' prompts, row by row of a batch: one prompt sum_i w_bi P_i stands in
            front of an input, and no task has to be known. Without a route it is the newest one.
        bottleneck: Width of the MLP that a new prompt is trained through, P' = P + W_2 relu(W_1 P + b_1) + b_2. After
            its task P' alone is kept. None: the prompt is trained itself.
        placeholders: Number of a shared slot's tokens in front of an input: the first ones, or those that a route
            chooses; None: all.
        position: Whether the prompt stands before an input or after it, behind the end token. Only an encoder-decoder
            host can read one that stands after.
    """

    learning_rate: ClassVar[float] = 0.3  # Progressive Prompts, T5-large
    sum_gated: ClassVar[bool] = False
    trains_maps: ClassVar[bool] = False
    has_virtual_tokens: ClassVar[bool] = True

    tokens: int
    slots: Literal["shared", "per_task"] = "shared"
    concatenate: bool = False
    weighted: bool = False
    bottleneck: int | None = None
    placeholders: int | None = None
    position: PromptPosition = "before"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise RecipeError(f"tokens: {self.tokens} is not a positive number of prompt tokens.")
        if self.tokens > LONGEST:
            raise RecipeError(f"tokens: {self.tokens} is above {LONGEST:,}, the longest prompt that is taken.")
        if self.slots == "shared" and self.concatenate:
            raise RecipeError("concatenate: all tasks share one prompt here, so that there are none to be joined.")
        if self.weighted and (self.slots == "shared" or self.concatenate):
            raise RecipeError("weighted: a sum of the tasks' prompts needs slots=per_task, without concatenate.")
        if self.bottleneck is not None and (self.slots == "shared" or self.bottleneck < 1):
            raise RecipeError(
                f"bottleneck: {self.bottleneck} is no width of an MLP for each task's prompt; it needs slots=per_task."
            )
        if self.placeholders is not None and (self.slots == "per_task" or not 0 < self.placeholders <= self.tokens):
            raise RecipeError(
                f"placeholders: {self.placeholders} is not a number of a shared prompt's {self.tokens} tokens."
            )

    @property
    def weighable(self) -> bool:
        return self.weighted

    @property
    def grows(self) -> bool:
        return self.slots == "per_task"

    @property
    def needs_task_at_test(self) -> bool:
        return self.slots == "per_task" and not self.weighted

    @property
    def virtual_tokens_behind(self) -> bool:
        return self.position == "after"

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
        weight: Its weight [V, d], which output layers are tied to and hosts read their precision from.
        past: Earlier slots' rows, frozen [t - 1, l, d].
        newest: The newest slot's rows [l, d]; None before the first task.
        residual: The MLP that they are trained through; None: they are trained themselves.
        chosen: The rows of the table that the placeholders of each row of a batch stand for [B, k]; None: themselves.
        weights: Weight of each slot for each row of a batch [B, t], of a weighted table: placeholder j stands for the
            weighted sum of the slots' rows j. None: for the newest slot's row j.
        slots: In place of weights, the one slot whose row j it stands for, for each row of a batch [B].
        is_weighted: Whether slots are weighted.
        is_bypassed: Whether only the base answers.
    """

    past: Tensor

    def __init__(self, base: nn.Module, tokens: int, *, is_weighted: bool = False) -> None:
        """Begin without a slot.

        Args:
            base: The host's own embedding.
            tokens: l, the number of rows of a slot.
            is_weighted: Whether slots are to be weighted.
        """
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
        self.residual: nn.Sequential | None = None
        self.chosen: Tensor | None = None
        self.weights: Tensor | None = None
        self.slots: Tensor | None = None
        self.is_weighted = is_weighted
        self.is_bypassed = False

    def table(self) -> Tensor:
        """The rows of all slots, oldest first, [t, l, d]."""
        newest = self.rows()
        return self.past if newest is None else torch.cat([self.past, newest.unsqueeze(0)])

    def rows(self) -> Tensor | None:
        """The newest slot's rows as the host reads them, [l, d]; None before the first task."""
        if self.newest is None or self.residual is None:
            return self.newest
        with torch.autocast(self.newest.device.type, enabled=False):
            return self.newest + self.residual(self.newest)  # type: ignore[no-any-return]

    @torch.no_grad()
    def keep_rows(self) -> None:
        """Keep the newest slot's rows as the host reads them, without the MLP."""
        if self.residual is not None and self.newest is not None:
            self.newest.add_(self.residual(self.newest))
            self.residual = None

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of words and prompts: ids [..., S] -> [..., S, d]."""
        if self.is_bypassed or self.newest is None:
            return self.base(ids)  # type: ignore[no-any-return]
        is_virtual = ids >= self.vocabulary
        words: Tensor = self.base(ids.masked_fill(is_virtual, 0))
        numbers = (ids - self.vocabulary).clamp(min=0)
        if self.is_weighted:
            prompts = self._weighted(numbers)
        else:
            if self.chosen is not None:
                numbers = self._chosen(numbers)
            prompts = F.embedding(numbers, self.table().flatten(0, 1))
        return torch.where(is_virtual.unsqueeze(-1), prompts.to(words.dtype), words)

    def _chosen(self, numbers: Tensor) -> Tensor:
        """The rows of the table that the placeholders of a batch [B * copies, S] stand for."""
        assert self.chosen is not None
        chosen = _for_copies(self.chosen, len(numbers))
        return chosen.gather(1, numbers.clamp(max=chosen.shape[1] - 1))

    def _weighted(self, numbers: Tensor) -> Tensor:
        """The prompt of a row's slot, or `sum_i w_bi P_i`: a batch's [B * copies, S] -> [B * copies, S, d]."""
        newest = self.rows()
        assert newest is not None
        if self.slots is not None:
            first = _for_copies(self.slots, len(numbers)).unsqueeze(1) * len(newest)
            return F.embedding(first + numbers.clamp(max=len(newest) - 1), self.table().flatten(0, 1))
        if self.weights is None:
            return F.embedding(numbers.clamp(max=len(newest) - 1), newest)
        weights = _for_copies(self.weights, len(numbers)).to(newest)
        table = self.table()
        with torch.autocast(table.device.type, enabled=False):  # one prompt alone is then that prompt, to the bit
            prompts = (weights @ table.flatten(1)).view(len(numbers), *table.shape[1:])  # [B * copies, l, d]
        places = numbers.clamp(max=table.shape[1] - 1).unsqueeze(-1).expand(-1, -1, table.shape[2])
        return prompts.gather(1, places)


def _for_copies(of_rows: Tensor, read: int) -> Tensor:
    """A route's numbers for each row [B, ...], for each of the places in which it is read [B * copies, ...]."""
    if read % len(of_rows):
        raise ModelError(
            f"Prompts were chosen for {len(of_rows)} rows, and {read} are read: each must stand there once or several "
            "times."
        )
    return of_rows.repeat_interleave(read // len(of_rows), dim=0)


@final
class PlacedPrompt(PlacedAdapter):
    """A table of prompts in the stack that reads the input.

    Attributes:
        settings: The adapter's settings.
        place: Name of the embedding that the table replaces.
        prompts: The table.
    """

    def __init__(self, model: nn.Module, settings: Prompt) -> None:
        """Put the table into the host.

        Args:
            model: The host's body.
            settings: The adapter's settings.

        Raises:
            ModelError: The host does not say which embedding its input goes through, or a prompt cannot stand where it
                should.
        """
        if settings.position == "after" and not config_of(model).is_encoder_decoder:
            raise ModelError(
                "position=after: only an encoder-decoder model reads a prompt behind an input, and "
                f"{type(model).__name__} is none: take position=before."
            )
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
        self.prompts = PromptTable(embedding, settings.tokens, is_weighted=settings.weighted)
        self.prompts.train(embedding.training)
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
        past = self.prompts.past
        self.prompts.newest = nn.Parameter(past.new_zeros(past.shape[1:]))
        if (width := self.settings.bottleneck) is not None:
            like = {"dtype": past.dtype, "device": past.device}  # filled by `fresh`, without torch's own random numbers
            inner = nn.utils.skip_init(nn.Linear, past.shape[-1], width, **like)  # type: ignore[no-untyped-call]
            outer = nn.utils.skip_init(nn.Linear, width, past.shape[-1], **like)  # type: ignore[no-untyped-call]
            self.prompts.residual = nn.Sequential(inner, nn.ReLU(), outer)
        return True

    @torch.no_grad()
    def fresh(self, seed: int) -> None:
        """Embeddings of random words of the vocabulary, as the host reads them."""
        assert self.prompts.newest is not None
        generator = torch.Generator().manual_seed(derive(seed, self.place))
        words = torch.randint(self.prompts.vocabulary, (self.settings.tokens,), generator=generator)
        self.prompts.newest.copy_(self.prompts.base(words.to(self.prompts.weight.device)))
        if self.prompts.residual is not None:  # as torch begins a linear map, but of the seed
            for layer in (layer for layer in self.prompts.residual if isinstance(layer, nn.Linear)):
                bound = layer.in_features**-0.5
                for parameter in (layer.weight, layer.bias):
                    parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)

    def parameter_groups(self) -> list[ParameterGroup]:
        if self.prompts.newest is None:
            return []
        residual = () if self.prompts.residual is None else tuple(self.prompts.residual.parameters())
        return [ParameterGroup("prompt", (self.prompts.newest, *residual))]

    def feature_maps(self) -> list[FeatureMap]:
        """None: a prompt is not a linear map."""
        return []

    def folding_summary(self) -> dict[str, Any]:
        return {}

    def virtual_tokens(self, number: int) -> tuple[int, ...]:
        if self.tasks == 0:
            return ()
        first, size = self.prompts.vocabulary, self.settings.tokens
        if self.settings.slots == "shared" or self.settings.weighted:
            return tuple(range(first, first + (self.settings.placeholders or size)))
        oldest = 1 if self.settings.concatenate else number
        slots = range(number, oldest - 1, -1)
        return tuple(first + (slot - 1) * size + row for slot in slots for row in range(size))

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.tasks == 0 else {f"{self.place}.prompts": self.prompts.table().detach()}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        tasks = count_of("adapter", values, "slots")
        past, name = self.prompts.past, f"{self.place}.prompts"
        slots = tasks if self.settings.slots == "per_task" else min(tasks, 1)
        check_fit("adapter", tensors, {name: Form((slots, *past.shape[1:]), past.dtype)} if tasks else {})
        self.tasks = tasks
        self.prompts.residual = None
        if self.tasks == 0:
            self.prompts.past, self.prompts.newest = past[:0], None
            return
        table = tensors[name].to(past, copy=True)
        self.prompts.past, self.prompts.newest = table[:-1], nn.Parameter(table[-1].clone())
        self.freeze()

    def freeze(self) -> None:
        self.prompts.keep_rows()
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
        """While open, the route's rows of a shared table, a task's prompt, or their sum stand before each row."""
        if route.names_slots and not self.settings.weighted:
            raise ModelError("Prompts stand in front of an input or do not: there are no weights for them.")
        rows = rows_of(route, self.tasks)
        if route.prompts is not None:
            self._check(route.prompts)
        prompts = self.prompts
        before = prompts.chosen, prompts.weights, prompts.slots
        weights = rows if isinstance(rows, Tensor) else None
        prompts.chosen, prompts.weights, prompts.slots = route.prompts, weights, self._slots(rows)
        try:
            yield
        finally:
            prompts.chosen, prompts.weights, prompts.slots = before

    def _slots(self, rows: Segments | Tensor | None) -> Tensor | None:
        """The slot of each row, on the table's device; None where the newest answers all, or weights say more."""
        if not isinstance(rows, Segments) or rows.is_all(self.tasks - 1):
            return None
        if NONE in rows.numbers:
            raise ModelError("A prompt stands in front of every input here: a route cannot choose none.")
        return torch.tensor(rows.numbers).to(self.prompts.weight.device, non_blocking=True)

    def _check(self, chosen: Tensor) -> None:
        if self.settings.weighted:
            raise ModelError("A route weights the tasks' prompts here; it cannot choose single rows of them.")
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
