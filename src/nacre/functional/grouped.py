"""Linear maps of a batch's rows, each row with the matrix of its own slot.

    y_b = W_i x_b + c_i,   i the slot of row b

The cost is that of the rows, not of the number of slots, and nothing is computed for rows without a slot. There are
three bodies. They differ in cost, and in the order in which sums are rounded:

    loop      rows sorted by slot, one product for each; of one slot alone the plain linear map, bit for bit
    grouped   rows sorted by slot, all of them in one call (`torch.nn.functional.grouped_mm`)
    gathered  each row's matrix is copied to it, and all rows are one batched product; nothing is sorted

Where rows are answered by mixtures of slots, none of them helps: see `functional/gating`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.functional.segments import Layout, Segments

Body = Literal["loop", "grouped", "gathered"]

ALIGNMENT = 16
"""`grouped_mm` wants every stride of its operands to be a multiple of so many bytes."""
GROUPED_ON_CUDA = (8, 0)
"""The compute capability from which on `grouped_mm` is documented for bfloat16, its only type there."""


@final
@dataclass(frozen=True, eq=False)
class Grouped:
    """The linear maps of one batch's rows by one body: `take` rows, map them, `add` them to the batch.

    Attributes:
        segments: Which slot answers each row.
        body: How products are computed.
        layout: The order of the rows that the body computes.
    """

    segments: Segments
    body: Body
    layout: Layout

    @classmethod
    def by(cls, body: Body, segments: Segments, device: torch.device) -> Grouped:
        """With a body of one's own choice.

        Args:
            body: How products are computed.
            segments: Which slot answers each row; some row has one.
            device: Where the rows are.
        """
        return cls(segments, body, segments.layout(device, are_sorted=body != "gathered"))

    @classmethod
    def of(cls, x: Tensor, segments: Segments, sizes: tuple[int, int]) -> Grouped:
        """With the body that suits the rows, their type and their device.

        Args:
            x: The batch, [B, ..., d].
            segments: Which slot answers each row; some row has one.
            sizes: The rank (or hidden units) of the maps that the rows go through, and the size of what comes out.
        """
        return cls.by(body_for(x, segments, sizes), segments, x.device)

    def take(self, x: Tensor) -> Tensor:
        """The rows that have a slot, in the body's order: [B, ..., k] -> [n, ..., k]."""
        return self.layout.take(x)

    def add(self, h: Tensor, update: Tensor) -> Tensor:
        """h [B, ..., k] with the update [n, ..., k]; rows without a slot keep every bit."""
        return self.layout.add(h, update)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`W_i x + c_i`.

        Args:
            x: Rows as `take` gave them, [n, ..., k].
            weight: W_i of the G slots that answer any row, in their order, [G, m, k], or a view of [G, k, m].
            bias: c_i, [G, m].

        Returns:
            [n, ..., m].
        """
        if self.body == "loop":
            pieces = torch.split(x, [*self.segments.counts.values()])
            biases = [None] * len(weight) if bias is None else bias
            mapped = [F.linear(*operands) for operands in zip(pieces, weight, biases, strict=True)]
            return mapped[0] if len(mapped) == 1 else torch.cat(mapped)
        flat = x.flatten(1, -2) if x.ndim > 2 else x.unsqueeze(1)  # [n, tokens, k]
        y = self._grouped(flat, weight) if self.body == "grouped" else self._gathered(flat, weight)
        if bias is not None:
            y = y + bias.index_select(0, self.layout.slots).unsqueeze(1).to(y.dtype)
        return y.view(*x.shape[:-1], weight.shape[1])

    def _grouped(self, x: Tensor, weight: Tensor) -> Tensor:
        dtype = computed_in(x)
        ends = self.layout.ends * x.shape[1]
        flat = F.grouped_mm(x.flatten(0, 1).to(dtype), weight.mT.to(dtype), offs=ends)
        return flat.view(*x.shape[:-1], -1)

    def _gathered(self, x: Tensor, weight: Tensor) -> Tensor:
        slots = self.layout.slots
        if weight.is_contiguous():
            return torch.bmm(x, weight.index_select(0, slots).mT)
        return torch.bmm(x, weight.mT.index_select(0, slots))  # what is copied lies as it is stored


def body_for(x: Tensor, segments: Segments, sizes: tuple[int, int]) -> Body:
    """The body that suits rows, by what was measured on CPUs: see `benchmarks/mixed_rows.py`.

    Args:
        x: The batch, [B, ..., d].
        segments: Which slot answers each row.
        sizes: The rank (or hidden units) of the maps that the rows go through, and the size of what comes out.
    """
    slots, rows = len(segments.counts), sum(segments.counts.values())
    if slots == 1 or x.dtype == torch.float64:
        return "loop"
    rank, tokens = sizes[0], x[0].numel() // x.shape[-1]
    # Of numbers as wide as the map: those that are copied for the rows, and those that are read anyway.
    copied, read = rows * rank, slots * rank + rows * tokens
    if slots > 2 and copied <= 2 * read:
        return "gathered"
    return "grouped" if can_group(x, sizes) else "loop"


def can_group(x: Tensor, sizes: tuple[int, int]) -> bool:
    """Whether `grouped_mm` computes rows of this type and these sizes on their device.

    Args:
        x: The batch, [B, ..., d].
        sizes: The rank (or hidden units) of the maps that the rows go through, and the size of what comes out.
    """
    dtype = computed_in(x)
    if not hasattr(F, "grouped_mm") or any(size * dtype.itemsize % ALIGNMENT for size in (x.shape[-1], *sizes)):
        return False
    if x.device.type == "cuda":
        return dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= GROUPED_ON_CUDA
    return x.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16, torch.float16)


def computed_in(x: Tensor) -> torch.dtype:
    """The type that products are computed in: under autocast its own."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


def slot_updates(
    h: Tensor, x: Tensor, down: Tensor, up: Tensor, segments: Segments, *, scale: float, body: Body | None = None
) -> Tensor:
    """`h_b + s B_i A_i x_b`, i the slot of row b; h_b where it has none.

    Args:
        h: [B, ..., d_out].
        x: [B, ..., d_in].
        down: A_i of the G slots that answer any row, [G, r, d_in].
        up: B_i of these, transposed [G, r, d_out].
        segments: Which slot answers each row.
        scale: s.
        body: How products are computed; None: as suits them.

    Returns:
        [B, ..., d_out].
    """
    if not segments.counts:
        return h
    sizes = up.shape[1], up.shape[2]
    grouped = Grouped.of(x, segments, sizes) if body is None else Grouped.by(body, segments, x.device)
    update = scale * grouped.linear(grouped.linear(grouped.take(x), down), up.mT)
    return grouped.add(h, update.to(h.dtype))
