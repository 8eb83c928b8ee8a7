"""How much each layer's low-rank slots matter for a task: sensitivity and Fisher information (LB-CL's layer analysis).

    S(theta) = |theta dL/dtheta|        S_i = S(sigma_i) + mean_j S(U_ji) + mean_j S(V_ij) of triplet i
    F(theta) = mean over rows b of (dL_b/dtheta)^2

L is the loss of all rows together, L_b that of row b, both as a mean over target tokens. A LoRA's triplet i is (column
i of B, row i of A), without sigma. Source: LB-CL (NeurIPS 2024), section 3.1 and its analysis of layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from nacre.adapters.slotted import PlacedSlots, SlottedSite
from nacre.errors import NacreError
from nacre.functional.sensitivity import Triplets, triplet_sensitivity
from nacre.learning.learner import Learner
from nacre.models.evaluating import evaluating
from nacre.models.roles import layer_of, roles_of
from nacre.tasks.task import Task


@dataclass(frozen=True)
class SiteSensitivity:
    """One site's slots on one task.

    Attributes:
        task: Whose rows.
        site: Its module name.
        stack: The stack that it lies in (`models/roles.layer_of`); None outside of every layer.
        layer: Its layer's number there.
        roles: Several for a fused map.
        sensitivity: The mean over triplets of S_i, for each slot, the first task's first.
        fisher: The mean over the slot's entries of F, for each slot.
    """

    task: str
    site: str
    stack: str | None
    layer: int | None
    roles: tuple[str, ...]
    sensitivity: tuple[float, ...]
    fisher: tuple[float, ...]


def slot_sensitivities(learner: Learner, tasks: Sequence[Task], rows: int = 8) -> list[SiteSensitivity]:
    """Measure all slots on training rows of each task, without dropout. Nothing of the learner changes.

    Args:
        learner: Whose slots.
        tasks: Which it has learned.
        rows: How many of each task's training rows, at even distances: LB-CL's start takes eight.

    Raises:
        NacreError: If its adapter has no slots whose both factors are trained.
    """
    adapter = learner.adapter
    if not isinstance(adapter, PlacedSlots) or "down" not in learner.method.adapter.groups:
        raise NacreError(
            f"{learner.method.display_name} has no low-rank slots whose both factors are trained, whose sensitivity "
            "could be measured; seq_lora, inc_lora, am_lora and lb_cl have them."
        )
    found = []
    for task in tasks:
        encoded = learner.encode(task.spread("train", rows))
        tokens = sum(row.num_target_tokens for row in encoded)
        with _leaves(adapter) as leaves, evaluating(learner.host.model):
            every = [leaf for by_group in leaves.values() for leaf in by_group.values()]
            sums, squares = ([torch.zeros_like(leaf) for leaf in every] for _ in range(2))
            for row in encoded:
                gradients = torch.autograd.grad(learner.loss_sum([row]), every, allow_unused=True)
                for total, square, gradient in zip(sums, squares, gradients, strict=True):
                    if gradient is not None:
                        total += gradient / tokens
                        square += (gradient / row.num_target_tokens).square() / len(encoded)
            taken = iter(zip(sums, squares, strict=True))
            for name, by_group in leaves.items():
                slopes = {group: next(taken) for group in by_group}
                found.append(_of_site(adapter, task.name, name, by_group, slopes))
    return found


@contextmanager
def _leaves(adapter: PlacedSlots[SlottedSite]) -> Iterator[dict[str, dict[str, Tensor]]]:
    """While open, the host computes through every slot's own tensors, which gradients reach.

    By site; the frozen slots' stacks under their groups' names, the newest slot's tensors behind `newest`.
    """
    newest = {name: site.slots.parameters_by_group() for name, site in adapter.sites.items()}
    parameters = [parameter for own in newest.values() for parameter in own.values()]
    trained = [parameter.requires_grad for parameter in parameters]
    with adapter.past_open() as opened:
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield {
                name: opened[name] | {f"newest {group}": parameter for group, parameter in newest[name].items()}
                for name in adapter.sites
            }
        finally:
            for parameter, before in zip(parameters, trained, strict=True):
                parameter.requires_grad_(before)


def _of_site(
    adapter: PlacedSlots[SlottedSite],
    task: str,
    name: str,
    by_group: Mapping[str, Tensor],
    slopes: Mapping[str, tuple[Tensor, Tensor]],
) -> SiteSensitivity:
    """From every tensor's gradient and mean squared gradient."""
    values, gradients, squares = (
        _stacked({group: pick(group).detach() for group in by_group})
        for pick in (by_group.__getitem__, lambda group: slopes[group][0], lambda group: slopes[group][1])
    )
    sensitivity = triplet_sensitivity(values, gradients).mean(-1)
    entries = [square.flatten(1) for square in squares if square is not None]
    stack, layer = layer_of(name) or (None, None)
    return SiteSensitivity(
        task=task,
        site=name,
        stack=stack,
        layer=layer,
        roles=roles_of(adapter.model, name),
        sensitivity=tuple(sensitivity.double().tolist()),
        fisher=tuple(torch.cat(entries, dim=1).double().mean(1).tolist()),
    )


def _stacked(by_group: Mapping[str, Tensor]) -> Triplets:
    """All slots' triplets [t, r, ...], the newest's last: its B [d_out, r] lies the other way round than the stacks."""
    newest = {
        "down": by_group["newest down"].unsqueeze(0),
        "up": by_group["newest up"].T.unsqueeze(0),
        **({"sigma": by_group["newest sigma"].unsqueeze(0)} if "newest sigma" in by_group else {}),
    }
    return Triplets(**{group: torch.cat([by_group[group], own]) for group, own in newest.items()})
