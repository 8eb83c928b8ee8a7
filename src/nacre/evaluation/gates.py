"""The choices of a gated adapter: the mean gate of each task's LoRA at each site, on given inputs (AM-LoRA's Fig. 4).

Also the share that a budget of tasks (`keep_gates`) leaves out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nacre.adapters.gated import GatedSite, PlacedGated
from nacre.errors import NacreError
from nacre.features.site_inputs import read_site_inputs
from nacre.models.evaluating import evaluating
from nacre.models.families import Encoded
from nacre.models.roles import Role, layer_of, roles_of
from nacre.parts.part import LearnerView
from nacre.tasks.task import Task

ROWS = 8
"""How many rows of a task are looked at, unless said otherwise: a run does so after every task, for every task."""

AT_ONCE = 4
"""How many of them are read together; sorted by length, so that little of it is padding."""

TOKENS = (
    "every token that a site reads, padding excluded: those of the input and, behind it (decoder-only) or in the "
    "decoder (one place late, behind its start token), those of the gold answer; a decoder's attention to the encoder "
    "takes keys and values from the input's tokens"
)
"""Which tokens the means are over, as a description for the file."""


@dataclass(frozen=True)
class SiteGates:
    """One site's shares of the softmax, each the mean over all tokens of all rows.

    Together they are 1.

    Attributes:
        site: Its module name.
        stack: The stack that it lies in (`models/roles.layer_of`); None outside of every layer.
        layer: Its layer's number there.
        roles: Several for a fused map.
        tokens: How many there were.
        zero: The zero LoRA's share, None if it takes no part.
        gates: (task, share) by slot, the first task's first.
    """

    site: str
    stack: str | None
    layer: int | None
    roles: tuple[Role, ...]
    tokens: int
    zero: float | None
    gates: tuple[tuple[str, float], ...]


def has_gates(learner: LearnerView) -> bool:
    """Whether there is anything to look at: a gated adapter that has learned something."""
    return isinstance(learner.adapter, PlacedGated) and learner.adapter.tasks > 0


@torch.no_grad()
def mean_gates(learner: LearnerView, task: Task, rows: int = ROWS) -> list[SiteGates]:
    """The mean gates at every site on the test rows of a task.

    The gates are those of all tasks, also where `keep_gates` then leaves some of them out of the sum.

    The host reads prompts and gold answers; the tokens that count are `TOKENS`. Nothing of the learner changes.

    Args:
        learner: Whose gates.
        task: Whose rows; it need not be one that was learned.
        rows: How many, at even distances.

    Raises:
        NacreError: If the learner's adapter has no gates or has learned nothing yet.
    """
    adapter = _gated(learner)
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def note(name: str, inputs: Tensor) -> None:
        seen[name].append(_sums(adapter.sites[name].gates(inputs)))

    chosen = sorted(learner.encode(task.spread("test", rows)), key=Encoded.length)
    read_site_inputs(learner.host, chosen, list(adapter.sites), note, batch_size=AT_ONCE)
    names = learner.state.tasks if len(learner.state.tasks) == adapter.tasks else [" + ".join(learner.state.tasks)]
    return [_record(adapter, site, names, sums) for site, sums in seen.items()]


@torch.no_grad()
def dropped_gates(learner: LearnerView, task: Task, rows: int = 32, batch_size: int = 16) -> dict[str, float]:
    """The share that `keep_gates` leaves out of the sum.

    Padding tokens count, because a site cannot tell them apart, neither here nor when it chooses. The choice is
    evaluation's, in which no place is kept for the newest task. Nothing of the learner changes.

    Args:
        learner: Whose gates.
        task: Whose rows.
        rows: How many, at even distances.
        batch_size: How many are read at once, in their order. It matters: sites choose anew for every batch.

    Returns:
        By site, the mean over tokens of the sum of the gates of all tasks but the kept ones; 0 where all are kept. A
        token's output lacks at most its own sum times the largest |y_i| left out.

    Raises:
        NacreError: If the learner's adapter has no gates or has learned nothing yet.
    """
    adapter, chosen = _gated(learner), learner.encode(task.spread("test", rows))

    def left_out(site: GatedSite, x: Tensor) -> Tensor:
        return site.left_out(x).unsqueeze(-1)

    with _noting(learner.host.model, adapter.sites, left_out) as seen:
        for start in range(0, len(chosen), batch_size):
            _read(learner, chosen[start : start + batch_size])
    totals = {site: torch.stack(sums).sum(dim=0).tolist() for site, sums in seen.items()}
    return {site: total / tokens for site, (total, tokens) in totals.items()}


def _gated(learner: LearnerView) -> PlacedGated:
    if not has_gates(learner):
        raise NacreError(
            "There are no gates to look at: that needs a learner of a gated method (am_lora) after a task."
        )
    assert isinstance(learner.adapter, PlacedGated)
    return learner.adapter


@contextmanager
def _noting(
    model: nn.Module, sites: dict[str, GatedSite], shares: Callable[[GatedSite, Tensor], Tensor]
) -> Iterator[dict[str, list[Tensor]]]:
    """While open, every site that is run notes the sum of its inputs' shares [..., n] and their number.

    Both are in one tensor [n + 1] in float64. Nothing is dropped out meanwhile.
    """
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def watch(name: str, site: GatedSite) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name].append(_sums(shares(site, inputs[0]).flatten(0, -2)))

        return site.register_forward_pre_hook(note)

    handles = [watch(name, site) for name, site in sites.items()]
    try:
        with evaluating(model):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def _sums(shares: Tensor) -> Tensor:
    """The sum over tokens of [tokens, n], and behind it their number: [n + 1] in float64."""
    of_tokens = shares.cpu().double()
    return torch.cat([of_tokens.sum(dim=0), of_tokens.new_tensor([len(of_tokens)])])


def _read(learner: LearnerView, rows: Sequence[Encoded]) -> None:
    host = learner.host
    if host.family.is_generative:
        learner.loss_sum(rows)
    else:  # an encoder has no place for an answer, and a task to come none in its head
        prompts = host.on_device(host.family.prompts(rows))
        with host.family.routed(prompts):
            host.model(**prompts)


def _record(adapter: PlacedGated, site: str, names: Sequence[str], sums: Sequence[Tensor]) -> SiteGates:
    *shares, tokens = torch.stack(list(sums)).sum(dim=0).tolist()
    means = [share / tokens for share in shares]
    stack, layer = layer_of(site) or (None, None)
    zero = max(0.0, 1 - sum(means)) if adapter.settings.zero_lora else None  # not below 0 by rounding alone
    gates = tuple(zip(names, means, strict=True))
    return SiteGates(site, stack, layer, roles_of(adapter.model, site), int(tokens), zero, gates)
