"""Slots of earlier tasks that stay in the files that they were saved in, but for those that answered last."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import safe_open
from torch import Tensor

from nacre.errors import CheckpointError, RecipeError
from nacre.functional.segments import Segments
from nacre.models.fit import Form

ALL_AT_ONCE = "All slots answer together here, and they stay on disk: load the learner without slots_in_memory."


def is_stack(name: str) -> bool:
    """Whether the tensor of this public name has a row for each earlier slot."""
    return name.rpartition(".")[2].startswith("past_")


@final
@dataclass(frozen=True)
class SlotPiece:
    """Rows of a stack that lie in one file.

    Attributes:
        file: The safetensors file.
        name: The tensor's name in it.
        after: How many rows of the stack lie in the files before.
    """

    file: Path
    name: str
    after: int


@final
class SlotsOnDisk:
    """Stacks with a row for each earlier slot, of which a few slots at a time are in memory: those used last.

    Files are mapped into memory and stay open, so that their bytes are those that were verified, whatever happens to
    their names. A batch has all its slots in memory while it is read, even where they are more than the budget.

    Attributes:
        budget: How many slots stay in memory between batches.
        read: How many slots have been read from files.
    """

    def __init__(self, budget: int) -> None:
        """Begin without stacks.

        Args:
            budget: How many slots stay in memory between batches.

        Raises:
            RecipeError: It is negative.
        """
        if budget < 0:
            raise RecipeError(f"slots_in_memory: {budget} is not a number of slots.")
        self.budget = budget
        self.read = 0
        self._files: dict[Path, Any] = {}
        self._stacks: dict[str, list[tuple[SlotPiece, int]]] = {}  # each piece with its number of rows
        self._forms: dict[str, Form] = {}
        self._needed: Counter[int] = Counter()  # how many batches under way need a slot
        self._kept: OrderedDict[int, dict[str, Tensor]] = OrderedDict()  # by slot, the one used last behind

    def add(self, name: str, pieces: Sequence[SlotPiece]) -> None:
        """Take a stack in.

        Args:
            name: Its public name.
            pieces: Where its rows lie, the earliest first.

        Raises:
            ValueError: The pieces do not belong together.
        """
        rows, found, shapes = 0, [], []
        for piece in pieces:
            held = self._slice(piece)
            shapes.append((held.get_dtype(), held.get_shape()[1:]))
            if piece.after != rows or shapes[-1] != shapes[0]:
                raise ValueError(f"'{name}': rows do not continue the rows before them.")
            found.append((piece, held.get_shape()[0]))
            rows += found[-1][1]
        self._stacks[name] = found
        self._forms[name] = Form((rows, *shapes[0][1]), self._slice(pieces[0])[:0].dtype)

    @property
    def forms(self) -> Mapping[str, Form]:
        """What the stacks are, whole, by name."""
        return self._forms

    @property
    def in_memory(self) -> list[int]:
        """The slots that are in memory, the one used last behind."""
        return [*self._kept]

    @contextmanager
    def brought(self, slots: Collection[int], device: torch.device) -> Iterator[None]:
        """While open, these slots are in memory, and of others as many as the budget leaves.

        Args:
            slots: Numbers of earlier slots, from 0.
            device: Where they are to be.

        Raises:
            CheckpointError: A slot holds numbers that are not finite.
        """
        self._needed.update(slots)
        try:
            for slot in slots:
                if slot not in self._kept:
                    self._let_go(self.budget - 1)
                    self._kept[slot] = {name: self._row(name, slot).to(device) for name in self._stacks}
                    self.read += 1
                self._kept.move_to_end(slot)
            yield
        finally:
            self._needed.subtract(slots)
            self._let_go(self.budget)

    def _let_go(self, budget: int) -> None:
        """Forget slots that nobody needs, until there are as many as the budget says: those used last go last."""
        for slot in [slot for slot in self._kept if self._needed[slot] <= 0]:
            if len(self._kept) <= budget:
                return
            del self._kept[slot]

    def take(self, name: str, segments: Segments) -> Tensor:
        """A stack's rows of the G slots that answer any row, all of them `brought`, [G, ...]."""
        rows = [self._kept[slot][name] for slot in segments.counts]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def whole(self, name: str) -> Tensor:
        """A stack with the rows of all slots, read for this once."""
        return torch.cat([self._slice(piece)[:] for piece, _ in self._stacks[name]])

    def _row(self, name: str, slot: int) -> Tensor:
        piece = next(piece for piece, rows in self._stacks[name] if slot < piece.after + rows)
        at = slot - piece.after
        row: Tensor = self._slice(piece)[at : at + 1].clone()
        if row.is_floating_point() and not row.isfinite().all():
            raise CheckpointError(f"{piece.file}: '{piece.name}' holds numbers that are not finite in slot {slot}.")
        return row

    def _slice(self, piece: SlotPiece) -> Any:
        if piece.file not in self._files:
            self._files[piece.file] = safe_open(piece.file, "pt")
        return self._files[piece.file].get_slice(piece.name)


@final
@dataclass(frozen=True, eq=False)
class SlotsOfSite:
    """One site's part of `SlotsOnDisk`.

    Attributes:
        slots: Those of all sites.
        site: The site's name, with which its stacks' names begin.
        count: Number of earlier slots.
    """

    slots: SlotsOnDisk
    site: str
    count: int

    def take(self, name: str, segments: Segments) -> Tensor:
        """A stack's rows of the G slots that answer any row, all of them brought, [G, ...]."""
        return self.slots.take(f"{self.site}.{name}", segments)

    def whole(self, name: str) -> Tensor:
        """A stack with the rows of all earlier slots."""
        return self.slots.whole(f"{self.site}.{name}")
