"""A slot of low-rank factors for each task: the newest one is trained, the earlier ones are frozen and stacked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from nacre.adapters.slots_on_disk import ALL_AT_ONCE, SlotsOfSite
from nacre.errors import ModelError
from nacre.functional.consolidation import consolidated
from nacre.functional.segments import Segments
from nacre.functional.sensitivity import Triplets
from nacre.models.fit import Form


@final
class SlotStack(nn.Module):
    """The factors of all tasks at one site: `B_i A_i`, or `B_i diag(sigma_i) A_i`.

    Before the first slot is opened it holds empty stacks and no factors. With `from_start`, what `write` puts into a
    slot is also taken out, by factors that stay as they are: an update is `B_i A_i - B_i0 A_i0` then, from the second
    slot on. With `has_branch` each slot lies on top of one low-rank update, the branch, as it was then: an update is
    `B_i A_i + Co_i` from the second slot on, and `consolidate` takes the newest slot into the branch.

    Attributes:
        down: The newest task's `A_t`, a map with weight [r, d_in].
        up: The newest task's `B_t`, a map with weight [d_out, r].
        sigma: The newest task's `sigma_t` [r], between them, if the stack has one.
        past_down: The earlier tasks' `A_i` [t-1, r, d_in], frozen.
        past_up: The earlier tasks' `B_i`, transposed [t-1, r, d_out], frozen.
        past_sigma: The earlier tasks' `sigma_i` [t-1, r], frozen, if the stack has them.
        origin_down: `A_i0` of the second to the newest task [t-1, r, d_in], frozen, if updates count from their start;
            zeros where nothing was written.
        origin_up: Their `B_i0`, transposed and times sigma [t-1, r, d_out], frozen.
        branch_down: A of the branch after each task [t, r, d_in], frozen, if there is one; of the newest task zeros,
            until it was taken in.
        branch_up: Its B, transposed [t, r, d_out], frozen.
        is_open: Whether there is a newest slot.
        is_consolidated: Whether the branch holds the newest task.
        fixes_down: Whether `A` is not trained: it stays as its start leaves it.
        on_disk: The earlier tasks' factors, where they stay in files: their stacks here are empty then, and only
            `pairs_of` can compute with them. None: the stacks hold them.
    """

    down: nn.Linear
    up: nn.Linear
    sigma: nn.Parameter
    past_down: Tensor
    past_up: Tensor
    past_sigma: Tensor
    origin_down: Tensor
    origin_up: Tensor
    branch_down: Tensor
    branch_up: Tensor

    def __init__(
        self,
        rank: int,
        d_in: int,
        d_out: int,
        *,
        like: Tensor,
        has_sigma: bool = False,
        from_start: bool = False,
        has_branch: bool = False,
        fixes_down: bool = False,
    ) -> None:
        """Make empty stacks.

        Args:
            rank: Rank `r` of every slot.
            d_in: Size of the site's input.
            d_out: Size of the site's output.
            like: A tensor on the site's device and in the adapter's type.
            has_sigma: Whether a third stack lies between `A` and `B`.
            from_start: Whether updates count from their start.
            has_branch: Whether each slot lies on top of a branch that takes it in.
            fixes_down: Whether `A` is not trained.
        """
        super().__init__()
        self.rank, self.d_in, self.d_out = rank, d_in, d_out
        self.has_sigma, self.from_start, self.fixes_down = has_sigma, from_start, fixes_down
        self.has_branch = has_branch
        self.is_open = self.is_consolidated = False
        self.on_disk: SlotsOfSite | None = None
        self.register_buffer("past_down", like.new_zeros(0, rank, d_in))
        self.register_buffer("past_up", like.new_zeros(0, rank, d_out))
        if has_sigma:
            self.register_buffer("past_sigma", like.new_zeros(0, rank))
        if from_start:
            self.register_buffer("origin_down", like.new_zeros(0, rank, d_in))
            self.register_buffer("origin_up", like.new_zeros(0, rank, d_out))
        if has_branch:
            self.register_buffer("branch_down", like.new_zeros(0, rank, d_in))
            self.register_buffer("branch_up", like.new_zeros(0, rank, d_out))

    @property
    def dtype(self) -> torch.dtype:
        """The type that the factors are kept and computed in."""
        return self.past_down.dtype

    @property
    def earlier(self) -> int:
        """Number of slots before the newest one."""
        return len(self.past_down) if self.on_disk is None else self.on_disk.count

    def __len__(self) -> int:
        """Number of slots."""
        return self.earlier + self.is_open

    def open(self) -> None:
        """Put new factors of zeros in the newest slot's place."""
        zeros = self.past_down.new_zeros
        self.down = _linear(zeros(self.rank, self.d_in)).requires_grad_(not self.fixes_down)
        self.up = _linear(zeros(self.d_out, self.rank))
        if self.has_sigma:
            self.sigma = nn.Parameter(zeros(self.rank))
        if self.from_start and len(self.past_down):
            self.origin_down = torch.cat([self.origin_down, zeros(1, self.rank, self.d_in)])
            self.origin_up = torch.cat([self.origin_up, zeros(1, self.rank, self.d_out)])
        if self.has_branch:
            self.branch_down = torch.cat([self.branch_down, zeros(1, self.rank, self.d_in)])
            self.branch_up = torch.cat([self.branch_up, zeros(1, self.rank, self.d_out)])
        self.is_open, self.is_consolidated = True, False

    def push_to_past(self) -> None:
        """Put the newest slot onto the frozen stacks."""
        self.past_down = torch.cat([self.past_down, self.down.weight.detach().unsqueeze(0)])
        self.past_up = torch.cat([self.past_up, self.up.weight.detach().T.unsqueeze(0)])
        if self.has_sigma:
            self.past_sigma = torch.cat([self.past_sigma, self.sigma.detach().unsqueeze(0)])

    def close(self) -> None:
        """Forget every slot."""
        if self.is_open:
            del self.down, self.up
            if self.has_sigma:
                del self.sigma
        self.is_open, self.is_consolidated, self.on_disk = False, False, None
        self._set_past({group: stack[:0] for group, stack in self.past_by_group().items()})
        if self.from_start:
            self.origin_down, self.origin_up = self.origin_down[:0], self.origin_up[:0]
        if self.has_branch:
            self.branch_down, self.branch_up = self.branch_down[:0], self.branch_up[:0]

    def newest(self, x: Tensor) -> Tensor:
        """`B_t A_t x`, without the scale: x [..., d_in] -> [..., d_out]."""
        codes = self.down(x)
        delta: Tensor = self.up(self.sigma * codes if self.has_sigma else codes)
        return delta

    def newest_up(self) -> Tensor:
        """`B_t`, or `B_t diag(sigma_t)`, [d_out, r]: `newest` is `newest_up A_t x`."""
        up = self.parameters_by_group()["up"]
        return up * self.sigma if self.has_sigma else up

    def past_pairs(self) -> tuple[Tensor, Tensor]:
        """The earlier tasks' `A_i` [t-1, r, d_in] and `B_i` [t-1, r, d_out] (transposed, times sigma).

        Raises:
            ModelError: They stay on disk.
        """
        if self.on_disk is not None:
            raise ModelError(ALL_AT_ONCE)
        return self.past_down, self.past_sigma.unsqueeze(-1) * self.past_up if self.has_sigma else self.past_up

    def all_pairs(self) -> tuple[Tensor, Tensor]:
        """`past_pairs` with the newest task's, which gradients reach, behind them: [t, r, d_in], [t, r, d_out]."""
        return self._with_newest(*self.past_pairs())

    def pairs_of(self, segments: Segments) -> tuple[Tensor, Tensor]:
        """The factors of the G slots that answer any row, with what stands beside them in their updates.

        A slot's have the same bits, and lie in the same order, whether it is the newest or an earlier one.

        Returns:
            `A_i` [G, r, d_in] and `B_i` [G, r, d_out] (transposed, times sigma), with `r` twice the rank where slots
            have companions; gradients reach the newest task's.
        """
        newest = self.earlier
        earlier = segments.without(newest) if newest in segments.counts else segments
        downs, ups = [], []
        if earlier.counts:
            up = self._past_of("past_up", earlier)
            downs.append(self._past_of("past_down", earlier))
            ups.append(self._past_of("past_sigma", earlier).unsqueeze(-1) * up if self.has_sigma else up)
        if newest in segments.counts:
            downs.append(self.down.weight.unsqueeze(0))
            ups.append(self.newest_up().T.contiguous().unsqueeze(0))
        down, up = _joined(downs), _joined(ups)
        if not self.has_companions or newest == 0:
            return down, up
        companions = [self.companion_of(slot) for slot in segments.counts]
        return (
            torch.cat([down, torch.stack([companion for companion, _ in companions])], dim=1),
            torch.cat([up, torch.stack([companion for _, companion in companions])], dim=1),
        )

    def _past_of(self, name: str, segments: Segments) -> Tensor:
        stack: Tensor = getattr(self, name)
        return segments.take_slots(stack) if self.on_disk is None else self.on_disk.take(name, segments)

    @property
    def has_companions(self) -> bool:
        """Whether a frozen pair stands beside each slot's own factors in its update."""
        return self.from_start or self.has_branch

    def companion_of(self, slot: int) -> tuple[Tensor, Tensor]:
        """The pair beside a slot's own: `A_i0` [r, d_in], `-B_i0` [r, d_out], or the branch; zeros for the first."""
        if slot == 0:
            zeros = self.past_down.new_zeros
            return zeros(self.rank, self.d_in), zeros(self.rank, self.d_out)
        if self.has_branch:
            return self.branch_down[slot - 1], self.branch_up[slot - 1]
        return self.origin_down[slot - 1], -self.origin_up[slot - 1]

    def companion_pairs(self) -> tuple[Tensor, Tensor]:
        """The pairs beside those of the second to the newest task: [t-1, r, d_in], [t-1, r, d_out]."""
        if self.has_branch:
            return self.branch_down[:-1], self.branch_up[:-1]
        return self.origin_down, -self.origin_up

    def frozen_summands(self) -> tuple[Tensor, Tensor]:
        """The pairs whose products are the frozen part below the newest slot, where no route chooses.

        They are `past_pairs`, then what was taken out of the updates; or the branch that the newest slot lies on.
        """
        if self.has_branch:
            downs, ups = self.companion_pairs()
            return downs[-1:], ups[-1:]
        if not self.from_start:
            return self.past_pairs()
        down, up = (torch.cat(pair) for pair in zip(self.past_pairs(), self.companion_pairs(), strict=True))
        return down, up

    def all_summands(self) -> tuple[Tensor, Tensor]:
        """The pairs whose products are the sum of all updates: `frozen_summands`, then the newest task's own.

        Of a branch that holds the newest task: the branch alone.
        """
        if self.is_consolidated:
            return self.branch_down[-1:], self.branch_up[-1:]
        return self._with_newest(*self.frozen_summands())

    def _with_newest(self, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        newest_down, newest_up = self.down.weight.unsqueeze(0), self.newest_up().T.unsqueeze(0)
        return torch.cat([down, newest_down]), torch.cat([up, newest_up])

    def parameters_by_group(self) -> dict[str, nn.Parameter]:
        """The newest slot's trained factors under the names of their parameter groups."""
        down, up = self.down.weight, self.up.weight
        assert isinstance(down, nn.Parameter)
        assert isinstance(up, nn.Parameter)
        trained = {"up": up} if self.fixes_down else {"down": down, "up": up}
        return {**trained, **({"sigma": self.sigma} if self.has_sigma else {})}

    def past_by_group(self) -> dict[str, Tensor]:
        """The frozen stacks under the names of the groups that they were trained in."""
        sigma = {"sigma": self.past_sigma} if self.has_sigma else {}
        return {"down": self.past_down, "up": self.past_up, **sigma}

    @contextmanager
    def past_as_leaves(self) -> Iterator[dict[str, Tensor]]:
        """While open, the stacks are leaves that gradients reach: group -> stack. Then they are the old objects."""
        before = self.past_by_group()
        leaves = {group: stack.detach().requires_grad_() for group, stack in before.items()}
        self._set_past(leaves)
        try:
            yield leaves
        finally:
            self._set_past(before)

    def _set_past(self, stacks: Mapping[str, Tensor]) -> None:
        for group, stack in stacks.items():
            setattr(self, f"past_{group}", stack)

    @torch.no_grad()
    def write(self, new: Triplets) -> None:
        """Put triplets into the newest slot; where updates count from their start, this is the start.

        Args:
            new: `down` [r, d_in], `up` [r, d_out] (transposed) and, if the stack has one, `sigma` [r].
        """
        self.down.weight.copy_(new.down)
        self.up.weight.copy_(new.up.T)
        if new.sigma is not None:
            self.sigma.copy_(new.sigma)
        if self.from_start and len(self.past_down):
            self.origin_down[-1], self.origin_up[-1] = self.down.weight, self.newest_up().T

    @torch.no_grad()
    def consolidate(self) -> None:
        """Let the branch take the newest slot in."""
        before = None if len(self) == 1 else (self.branch_down[-2], self.branch_up[-2])
        down, up = consolidated(before, (self.down.weight, self.newest_up().T), len(self))
        self.branch_down[-1], self.branch_up[-1] = down, up
        self.is_consolidated = True

    def public_tensors(self) -> dict[str, Tensor]:
        """The saved tensors by name, detached; what stays on disk is read for this once."""
        past = {f"past_{group}": stack for group, stack in self.past_by_group().items()}
        if self.on_disk is not None:
            past = {name: self.on_disk.whole(name) for name in past}
        tensors = {"down.weight": self.down.weight.detach(), "up.weight": self.up.weight.detach(), **past}
        if self.from_start:
            tensors |= {"origin_down": self.origin_down, "origin_up": self.origin_up}
        if self.has_branch:
            tensors |= {"branch_down": self.branch_down, "branch_up": self.branch_up}
        return tensors | ({"sigma": self.sigma.detach()} if self.has_sigma else {})

    def tensors_without(self, slot: int) -> dict[str, Tensor]:
        """`public_tensors` as if this slot, of several, had never been opened."""
        newest = {"down": self.down.weight.detach(), "up": self.up.weight.detach().T}
        newest |= {"sigma": self.sigma.detach()} if self.has_sigma else {}
        tensors = {}
        for group, last in newest.items():
            stack = torch.cat([self.past_by_group()[group], last.unsqueeze(0)])
            rest = torch.cat([stack[:slot], stack[slot + 1 :]])
            tensors[f"past_{group}"], tensors[group] = rest[:-1], rest[-1]
        return {
            **{name: tensor for name, tensor in tensors.items() if name not in ("down", "up")},
            "down.weight": tensors["down"],
            "up.weight": tensors["up"].T.contiguous(),
        }

    def forms(self, slots: int) -> dict[str, Form]:
        """What `public_tensors` gives with so many slots."""
        shapes: dict[str, tuple[int, ...]] = {
            "down.weight": (self.rank, self.d_in),
            "up.weight": (self.d_out, self.rank),
            "past_down": (slots - 1, self.rank, self.d_in),
            "past_up": (slots - 1, self.rank, self.d_out),
        }
        if self.has_sigma:
            shapes |= {"sigma": (self.rank,), "past_sigma": (slots - 1, self.rank)}
        if self.from_start:
            shapes |= {
                "origin_down": (slots - 1, self.rank, self.d_in),
                "origin_up": (slots - 1, self.rank, self.d_out),
            }
        if self.has_branch:
            shapes |= {"branch_down": (slots, self.rank, self.d_in), "branch_up": (slots, self.rank, self.d_out)}
        return {name: Form(shape, self.dtype) for name, shape in shapes.items()}

    @torch.no_grad()
    def load_public(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `public_tensors` gave."""
        self.open()
        stacks = self.past_by_group()
        self._set_past(
            {group: tensors[f"past_{group}"].to(stack.device, stack.dtype) for group, stack in stacks.items()}
        )
        self.down.weight.copy_(tensors["down.weight"])
        self.up.weight.copy_(tensors["up.weight"])
        if self.has_sigma:
            self.sigma.copy_(tensors["sigma"])
        if self.from_start:
            self.origin_down = tensors["origin_down"].to(stacks["down"].device, self.dtype)
            self.origin_up = tensors["origin_up"].to(stacks["down"].device, self.dtype)
        if self.has_branch:
            self.branch_down = tensors["branch_down"].to(stacks["down"].device, self.dtype)
            self.branch_up = tensors["branch_up"].to(stacks["down"].device, self.dtype)
            self.is_consolidated = True


def _joined(stacks: list[Tensor]) -> Tensor:
    """The stacks as one; one alone is not copied."""
    return stacks[0] if len(stacks) == 1 else torch.cat(stacks)


def _linear(weight: Tensor) -> nn.Linear:
    """A bias-free linear map around a given weight, without drawing random numbers for one that is thrown away."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight)
    return linear
