"""Which slot answers each row of a batch, and the order in which rows of one slot lie together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch
from torch import Tensor

NONE = -1
"""Stands for the slot of a row that no slot answers."""


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """An order of the n rows that have a slot.

    Attributes:
        rows: Their places in the batch, [n]; None: the batch as it stands.
        slots: Of each of them, the place of its slot among the G slots that answer any row, [n].
        ends: Where rows lie segment after segment: one more than the last row of each, [G] of int32.
    """

    rows: Tensor | None
    slots: Tensor
    ends: Tensor

    def take(self, x: Tensor) -> Tensor:
        """Of a batch's rows [B, ...] those that have a slot, [n, ...]."""
        return x if self.rows is None else x.index_select(0, self.rows)

    def add(self, h: Tensor, update: Tensor) -> Tensor:
        """h [B, ...] with the update [n, ...] of the rows that have a slot; other rows keep every bit."""
        return h + update if self.rows is None else h.index_add(0, self.rows, update)


@final
@dataclass(frozen=True, eq=False)
class Segments:
    """The rows of a batch by the slot that answers them: a segment for each slot that answers any.

    Numbers are kept in the computer's memory, so that asking for them never waits for a device. What is derived from
    them is made once.

    Attributes:
        numbers: The slot of each of the B rows; `NONE`: none.
    """

    numbers: tuple[int, ...]
    _parts: dict[tuple[str, int], Segments] = field(default_factory=dict, repr=False)
    _layouts: dict[tuple[bool, torch.device], Layout] = field(default_factory=dict, repr=False)
    _slots: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def counts(self) -> dict[int, int]:
        """Number of rows of each slot that answers any, in ascending order of the slots."""
        return dict(sorted((slot, count) for slot, count in Counter(self.numbers).items() if slot != NONE))

    def is_all(self, slot: int) -> bool:
        """Whether this slot answers every row."""
        return self.counts == {slot: len(self.numbers)}

    def copied(self, copies: int) -> Segments:
        """The same where each row stands in so many places, side by side."""
        if copies == 1:
            return self
        return self._part("copied", copies, tuple(slot for slot in self.numbers for _ in range(copies)))

    def only(self, slot: int) -> Segments:
        """The same with no other slot than this."""
        return self._part("only", slot, tuple(own if own == slot else NONE for own in self.numbers))

    def without(self, slot: int) -> Segments:
        """The same with every slot but this."""
        return self._part("without", slot, tuple(NONE if own == slot else own for own in self.numbers))

    def take_slots(self, stack: Tensor) -> Tensor:
        """Of a stack with a row for every slot those of the G slots that answer any row, [t, ...] -> [G, ...]."""
        if len(self.counts) == 1:
            (slot,) = self.counts
            return stack[slot : slot + 1]
        if stack.device not in self._slots:
            self._slots[stack.device] = torch.tensor([*self.counts]).to(stack.device, non_blocking=True)
        return stack.index_select(0, self._slots[stack.device])

    def layout(self, device: torch.device, *, are_sorted: bool) -> Layout:
        """The rows that have a slot: segment after segment, inside of one as in the batch; or all as in the batch."""
        key = are_sorted, device
        if key not in self._layouts:
            self._layouts[key] = self._laid_out(device, are_sorted)
        return self._layouts[key]

    def _laid_out(self, device: torch.device, are_sorted: bool) -> Layout:
        rows = [row for row, slot in enumerate(self.numbers) if slot != NONE]
        if are_sorted:
            rows.sort(key=self.numbers.__getitem__)
        place = {slot: number for number, slot in enumerate(self.counts)}
        slots = torch.tensor([place[self.numbers[row]] for row in rows], dtype=torch.int64)
        ends = torch.tensor([*self.counts.values()], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        is_batch = rows == list(range(len(self.numbers)))
        chosen = None if is_batch else torch.tensor(rows, dtype=torch.int64).to(device, non_blocking=True)
        return Layout(chosen, slots.to(device, non_blocking=True), ends.to(device, non_blocking=True))

    def _part(self, name: str, number: int, numbers: tuple[int, ...]) -> Segments:
        key = name, number
        if key not in self._parts:
            self._parts[key] = Segments(numbers)
        return self._parts[key]
