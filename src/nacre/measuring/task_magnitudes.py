"""How large each output feature of a host is on each task, and how far the tasks' largest ones are the same (MIGU).

With n_j the mean over tokens of |h_j| for output feature j of a linear map, a task's large features are the k with the
largest n_j, as many as MIGU updates: k = d_out - floor(T d_out). The overlap of two tasks is the share of the k that
both have; for features that have nothing to do with each other it is k / d_out.
Source: MIGU (arXiv 2406.17245), figures of magnitudes and of the overlap ratio, which leave k open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nacre.adapters.adapter import FeatureMap
from nacre.adapters.site import Site
from nacre.errors import NacreError
from nacre.features.magnitudes import Magnitudes
from nacre.features.site_inputs import read_site_inputs
from nacre.functional.masking import kept_count, largest
from nacre.learning.learner import Learner
from nacre.models.roles import layer_of, roles_of
from nacre.tasks.task import Task

AT_ONCE = 8
"""Rows that are read together."""


@dataclass(frozen=True)
class SiteOverlap:
    """The overlap of the tasks' large features at one linear map.

    Attributes:
        site: Its module name.
        stack: The stack that it lies in (`models/roles.layer_of`); None outside of every layer.
        layer: Its layer's number there.
        roles: Several for a fused map.
        chance: The overlap of features that have nothing to do with each other.
        overlaps: For each two tasks, a fraction: 1 on the diagonal.
    """

    site: str
    stack: str | None
    layer: int | None
    roles: tuple[str, ...]
    chance: float
    overlaps: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class TaskMagnitudes:
    """What was measured.

    Attributes:
        tasks: Whose rows were read.
        rows: How many of each task, at most.
        threshold: T.
        sites: Every linear map of attention and feed-forward, in the host's order.
        shown: The map whose magnitudes are given in full.
        magnitudes: n_j there, for each task.
    """

    tasks: tuple[str, ...]
    rows: int
    threshold: float
    sites: tuple[SiteOverlap, ...]
    shown: str
    magnitudes: tuple[tuple[float, ...], ...]


@torch.no_grad()
def task_magnitudes(
    learner: Learner, tasks: Sequence[Task], *, rows: int = 100, threshold: float = 0.7, shown: str | None = None
) -> TaskMagnitudes:
    """Read test rows of the tasks as training does, without dropout, and measure what every linear map puts out.

    The outputs are the learner's: adapters take part. Nothing of it changes.

    Args:
        learner: Whose outputs.
        tasks: Which it has learned, two or more.
        rows: How many of each task's test rows, at even distances.
        threshold: T, the share of features that MIGU leaves out.
        shown: The map whose magnitudes are kept in full; None: the first feed-forward map of the last layer.

    Raises:
        NacreError: If there are fewer than two tasks, or no such map.
        ModelError: If it is not known which tokens a map of this architecture reads.
    """
    if len(tasks) < 2:
        raise NacreError("An overlap of large features needs two tasks that this learner has learned.")
    model = learner.host.body
    maps = output_maps(model)
    shown = _shown(maps, shown)
    bypassed = [module for module in model.modules() if isinstance(module, Site)]
    measured = Magnitudes(model, maps, counts=lambda: not any(site.is_bypassed for site in bypassed))
    try:
        means = []
        for task in tasks:
            encoded = learner.encode(task.spread("test", rows))
            read_site_inputs(learner.host, encoded, [], lambda name, inputs: None, AT_ONCE)
            means.append([each.cpu().double() for each in measured.take_means()])
    finally:
        measured.close()
    by_site = [torch.stack(list(own)) for own in zip(*means, strict=True)]
    sites = [_overlap(each, own, threshold) for each, own in zip(maps, by_site, strict=True)]
    in_full = next(own for each, own in zip(maps, by_site, strict=True) if each.place == shown)
    return TaskMagnitudes(
        tasks=tuple(task.name for task in tasks),
        rows=rows,
        threshold=threshold,
        sites=tuple(sites),
        shown=shown,
        magnitudes=tuple(tuple(row) for row in in_full.tolist()),
    )


def output_maps(model: nn.Module) -> list[FeatureMap]:
    """Every linear map of attention and feed-forward, as the host uses it: with the adapter on it.

    Args:
        model: A host's body, with or without adapters in it.
    """
    sites = {name for name, module in model.named_modules() if isinstance(module, Site)}
    maps = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        inner = name.removesuffix(".base")
        place = inner if inner in sites else name
        if not (roles := roles_of(model, place)):
            continue
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        parameters = ((weight, 1 if isinstance(module, Conv1D) else 0),)
        maps.append(FeatureMap(place, place, roles, model.get_submodule(place), parameters))
    return maps


def _shown(maps: Sequence[FeatureMap], asked: str | None) -> str:
    places = [each.place for each in maps]
    if asked is not None:
        if asked not in places:
            raise NacreError(
                f"The model has no linear map of attention or feed-forward named '{asked}'; "
                f"the last of them is {places[-1] if places else 'not known'}."
            )
        return asked
    inward = [each.place for each in maps if "ffn_in" in each.roles or "ffn_gate" in each.roles]
    if not (inward or places):
        raise NacreError("Which linear maps of this model are attention and feed-forward is not known.")
    return (inward or places)[-1]


def _overlap(feature_map: FeatureMap, magnitudes: Tensor, threshold: float) -> SiteOverlap:
    """Of magnitudes [tasks, features]."""
    features = magnitudes.shape[-1]
    kept = kept_count(features, threshold)
    large = largest(magnitudes, kept).double()
    stack, layer = layer_of(feature_map.place) or (None, None)
    shared = (large @ large.T / kept).tolist()
    return SiteOverlap(
        feature_map.place, stack, layer, feature_map.roles, kept / features, tuple(tuple(row) for row in shared)
    )
