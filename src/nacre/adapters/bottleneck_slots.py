"""A bottleneck adapter for each task: the newest one is trained, the earlier ones are frozen and stacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from nacre.adapters.slots_on_disk import SlotsOfSite
from nacre.functional.bottleneck import NONLINEARITIES, Nonlinearity, mixed_bottlenecks, slot_bottlenecks
from nacre.functional.segments import Segments
from nacre.models.fit import Form


@final
class BottleneckSlots(nn.Module):
    """The adapters `U_i f(D_i h + b_i) + c_i` of all tasks at one site, without the `h` that they are added to.

    Before the first slot is opened it holds empty stacks and no newest adapter.

    Attributes:
        down: The newest task's map to the bottleneck, weight [m, d] and bias [m].
        up: The newest task's map back, weight [d, m] and bias [d].
        past_down: The earlier tasks' `D_i` [t-1, m, d], frozen.
        past_down_bias: Their `b_i` [t-1, m].
        past_up: Their `U_i`, transposed [t-1, m, d].
        past_up_bias: Their `c_i` [t-1, d].
        is_open: Whether there is a newest slot.
        on_disk: The earlier tasks' adapters, where they stay in files: their stacks here are empty then, and only
            `added_to` can compute with them. None: the stacks hold them.
    """

    down: nn.Linear
    up: nn.Linear
    past_down: Tensor
    past_down_bias: Tensor
    past_up: Tensor
    past_up_bias: Tensor

    def __init__(self, hidden: int, width: int, nonlinearity: Nonlinearity, *, like: Tensor) -> None:
        """Make empty stacks.

        Args:
            hidden: m, the number of hidden units.
            width: d, the size of what the adapter reads and adds to.
            nonlinearity: f.
            like: A tensor on the site's device and in the adapter's type.
        """
        super().__init__()
        self.hidden, self.width, self.nonlinearity = hidden, width, nonlinearity
        self.is_open = False
        self.on_disk: SlotsOfSite | None = None
        for name, shape in self._past_shapes(0).items():
            self.register_buffer(name, like.new_zeros(shape))

    @property
    def dtype(self) -> torch.dtype:
        """The type that the adapters are kept and computed in."""
        return self.past_down.dtype

    @property
    def earlier(self) -> int:
        """Number of slots before the newest one."""
        return len(self.past_down) if self.on_disk is None else self.on_disk.count

    def __len__(self) -> int:
        """Number of slots."""
        return self.earlier + self.is_open

    def open(self) -> None:
        """Put a new adapter of zeros in the newest slot's place."""
        zeros = self.past_down.new_zeros
        self.down = _linear(zeros(self.hidden, self.width), zeros(self.hidden))
        self.up = _linear(zeros(self.width, self.hidden), zeros(self.width))
        self.is_open = True

    def push_to_past(self) -> None:
        """Put the newest slot onto the frozen stacks."""
        for name, newest in self._newest_as_past().items():
            setattr(self, name, torch.cat([getattr(self, name), newest.detach().unsqueeze(0)]))

    def close(self) -> None:
        """Forget every slot."""
        if self.is_open:
            del self.down, self.up
        self.is_open, self.on_disk = False, None
        for name in self._past_shapes(0):
            setattr(self, name, getattr(self, name)[:0])

    def codes(self, h: Tensor) -> Tensor:
        """The newest task's hidden units, `f(D h + b)`: h [..., d] -> [..., m]."""
        return NONLINEARITIES[self.nonlinearity](self.down(h))

    def newest(self, h: Tensor) -> Tensor:
        """`U f(D h + b) + c` of the newest task: h [..., d] -> [..., d]."""
        delta: Tensor = self.up(self.codes(h))
        return delta

    def mixed(self, h: Tensor, weights: Tensor) -> Tensor:
        """`sum_i w_bi (U_i f(D_i h_b + b_i) + c_i)`: h [B, ..., d], weights [B, t], newest last -> [B, ..., d].

        The newest adapter is called as a module, because hooks may wait for its call.
        """
        own = weights[:, -1].to(h).view(-1, *[1] * (h.ndim - 1))
        update = own * self.newest(h)
        if len(self.past_down) == 0:
            return update
        past = self.past_down, self.past_down_bias, self.past_up, self.past_up_bias
        return update + mixed_bottlenecks(h, *past, weights[:, :-1], self.nonlinearity)

    def added_to(self, h: Tensor, read: Tensor, segments: Segments) -> Tensor:
        """h with `U_i f(D_i h_b + b_i) + c_i`, i the slot of row b; rows without one keep every bit.

        Args:
            h: [B, ..., d].
            read: h in the adapters' type.
            segments: The slot of each row, of which some has one.
        """
        newest = self.earlier
        names = ("past_down", "past_down_bias", "past_up", "past_up_bias")
        pieces: list[list[Tensor]] = [[] for _ in names]
        earlier = segments.without(newest) if newest in segments.counts else segments
        if earlier.counts:
            pieces = [[self._past_of(name, earlier)] for name in names]
        if newest in segments.counts:
            own = self._newest_as_past()
            for piece, name in zip(pieces, names, strict=True):
                piece.append(own[name].contiguous().unsqueeze(0))
        down, down_bias, up, up_bias = (torch.cat(piece) if len(piece) > 1 else piece[0] for piece in pieces)
        return slot_bottlenecks(h, read, down, down_bias, up, up_bias, segments, self.nonlinearity)

    def _past_of(self, name: str, segments: Segments) -> Tensor:
        stack: Tensor = getattr(self, name)
        return segments.take_slots(stack) if self.on_disk is None else self.on_disk.take(name, segments)

    @torch.no_grad()
    def copy_from(self, slot: int) -> None:
        """Let the newest slot begin as an earlier one, from 0."""
        for name, newest in self._newest_as_past().items():
            newest.copy_(self._past_of(name, Segments((slot,)))[0])

    def keep_only(self, slot: int) -> None:
        """Forget every adapter but one, from 0, which becomes the newest."""
        if slot < self.earlier:
            self.copy_from(slot)
        self.on_disk = None
        for name in self._past_shapes(0):
            setattr(self, name, getattr(self, name)[:0])

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        """The newest slot's tensors under the names of their parameter groups."""
        found = {
            "down": self.down.weight,
            "down_bias": self.down.bias,
            "up": self.up.weight,
            "up_bias": self.up.bias,
        }
        assert all(isinstance(parameter, nn.Parameter) for parameter in found.values())
        return found  # type: ignore[return-value]

    def public_tensors(self) -> dict[str, Tensor]:
        """The saved tensors by name, detached; what stays on disk is read for this once."""
        newest = {name: parameter.detach() for name, parameter in self._newest().items()}
        read = self.on_disk
        return newest | {name: read.whole(name) if read else getattr(self, name) for name in self._past_shapes(0)}

    def forms(self, slots: int) -> dict[str, Form]:
        """What `public_tensors` gives with so many slots."""
        hidden, width = self.hidden, self.width
        newest = {
            "down.weight": (hidden, width),
            "down.bias": (hidden,),
            "up.weight": (width, hidden),
            "up.bias": (width,),
        }
        return {name: Form(shape, self.dtype) for name, shape in (newest | self._past_shapes(slots - 1)).items()}

    @torch.no_grad()
    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `public_tensors` gave."""
        self.open()
        for name, parameter in self._newest().items():
            parameter.copy_(tensors[name])
        for name in self._past_shapes(0):
            setattr(self, name, tensors[name].to(self.past_down.device, self.dtype))

    def _newest(self) -> dict[str, nn.Parameter]:
        names = ("down.weight", "down.bias", "up.weight", "up.bias")
        return dict(zip(names, self.parameters_by_group().values(), strict=True))

    def _newest_as_past(self) -> dict[str, Tensor]:
        """The newest slot's tensors in the form of the stacks, as views."""
        down, down_bias, up, up_bias = self.parameters_by_group().values()
        return {"past_down": down, "past_down_bias": down_bias, "past_up": up.T, "past_up_bias": up_bias}

    def _past_shapes(self, slots: int) -> dict[str, tuple[int, ...]]:
        hidden, width = self.hidden, self.width
        return {
            "past_down": (slots, hidden, width),
            "past_down_bias": (slots, hidden),
            "past_up": (slots, hidden, width),
            "past_up_bias": (slots, width),
        }


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear map around given tensors, without drawing random numbers for some that are thrown away."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear
