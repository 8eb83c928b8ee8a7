"""MIGU: in every step, only the features with the largest outputs are updated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter, FeatureMap
from nacre.adapters.placed_full import PlacedFull
from nacre.adapters.slotted import SlottedAdapter
from nacre.errors import RecipeError
from nacre.features.clusters import effective_rows, feature_clusters
from nacre.features.kept_rows import KeptRows
from nacre.features.magnitudes import CountedTokens, Magnitudes, summed_over_processes
from nacre.features.masked_step import Masked, MaskedStep, check_threshold, with_roles
from nacre.functional.masking import Count, kept_count, largest, largest_groups, random_features, row_sums
from nacre.models.roles import ROLES, Role
from nacre.parts.part import GradientRule, LearnerView, Step
from nacre.per_task import PerTask, all_values, value_of
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example

PROFILE_ROWS = 64


@dataclass(frozen=True)
class FeatureGroups:
    """What the rule remembers: the clusters of the newest task.

    Attributes:
        groups: By a map's name, the cluster of each of its features, [features].
    """

    groups: dict[str, Tensor]


@dataclass(frozen=True)
class MagnitudeMask(GradientRule):
    """Leave the features with the smallest outputs of every linear map out of each step.

    State: `FeatureGroups`.

    Attributes:
        threshold: Share of a map's features to leave out.
        mask: What is masked; see `MaskedStep`.
        first_task: Whether the rule acts on the first task, too.
        components: Roles of the maps it acts on; see `with_roles`.
        tokens: Which tokens count; see `Magnitudes`.
        count: How the number of kept features is rounded; see `kept_count`.
        clusters: Number of groups of features of each map, formed when a task begins; groups are kept or left out as a
            whole. 0: every feature stands for itself.
        cluster_by: What features of a group have in common: their weights, or their magnitudes on up to 64 of the
            task's rows.
        by: What decides: 'magnitude', or for comparison 'random', the L1 norm of a feature's effective 'weight', or
            that of its 'gradient'.
    """

    State: ClassVar[type[FeatureGroups]] = FeatureGroups

    threshold: PerTask = 0.7
    mask: Masked = "gradient"
    first_task: bool = False
    components: tuple[Role, ...] = ROLES
    tokens: CountedTokens = "non_padding"
    count: Count = "floor"
    clusters: int = 0
    cluster_by: Literal["weight", "magnitude"] = "weight"
    by: Literal["magnitude", "random", "weight", "gradient"] = "magnitude"

    def __post_init__(self) -> None:
        for value in all_values(self.threshold):
            check_threshold(value)
        if self.clusters < 0:
            raise RecipeError(f"clusters: {self.clusters} is negative; 0 means that every feature stands for itself.")
        if self.clusters and self.by == "random":
            raise RecipeError("clusters are kept by their mean score, and by=random has none: set clusters=0.")

    def objection(self, adapter: Adapter) -> str | None:
        if adapter.groups and not adapter.trains_maps:
            return "it masks features of the linear maps that are trained, and here no linear map is"
        wants_weights = self.by == "weight" or (self.clusters > 0 and self.cluster_by == "weight")
        if wants_weights and isinstance(adapter, SlottedAdapter) and not adapter.sum_gated:
            return (
                "it looks at the rows of each linear map's weight, and here the update depends on the input; take "
                "by=magnitude and cluster_by=magnitude"
            )
        return None

    @property
    def shardable(self) -> bool:
        """True where neither weights nor gradients decide, whose rows lie in several processes."""
        return self.by in ("magnitude", "random") and self.clusters == 0

    @property
    def needs_boundaries(self) -> bool:
        """True where the rule spares the first task, or takes a new threshold or new clusters for each."""
        return not self.first_task or self.clusters > 0 or isinstance(self.threshold, tuple)

    def begin(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        threshold = value_of(self.threshold, learner.task_number, "threshold")
        if threshold == 0 or (learner.task_number == 1 and not self.first_task):
            return
        maps = with_roles(learner.adapter.feature_maps(), self.components)
        groups = self._clusters(learner, tasks, maps) if self.clusters else None
        magnitudes = None
        if self.by == "magnitude":
            model = learner.adapter.model
            # Other parts may run the model, too; while it is trained, all its calls belong to the step.
            magnitudes = Magnitudes(model, maps, self.tokens, counts=lambda: model.training and torch.is_grad_enabled())
        kept = [kept_count(found.features, threshold, self.count) for found in maps]
        masking = ActiveMask(MaskedStep(maps, self.mask), kept, groups, magnitudes)
        learner.resources[self.key] = masking
        learner.on_close(masking.close)
        if self._can_choose_early(learner):
            masking.rows = KeptRows(
                maps,
                kept,
                # Only in the step's last backward pass: all magnitudes are in then, and its gradients will be masked.
                ready=lambda: learner.step.all_forward and learner.step is not masking.taken,
                scores=lambda: self._scores(learner, masking),
            )

    def apply(self, learner: LearnerView) -> None:
        if (masking := self._masking(learner)) is None:
            return
        if masking.rows is not None and (masks := masking.rows.take()) is not None:
            masking.step.before(masks, masking.rows.only_kept)
            masking.rows.clear()
        else:
            masking.step.before(self._masks(learner, masking))
        masking.taken = learner.step

    def after_step(self, learner: LearnerView) -> None:
        if (masking := self._masking(learner)) is not None:
            masking.step.after()

    def _masking(self, learner: LearnerView) -> ActiveMask | None:
        masking: ActiveMask | None = learner.resources.get(self.key)
        return masking

    def _can_choose_early(self, learner: LearnerView) -> bool:
        """Whether the masks can be chosen during the backward pass, so that no masked gradient is computed.

        It pays where whole weights are trained. It is possible where one process has all magnitudes, every feature
        stands for itself (only the device knows how many features a cluster holds), and no earlier rule reads the
        gradients that would be missing.
        """
        rules = learner.method.gradient_rules
        first = not any(rule.reads_gradients for rule in rules[: rules.index(self)])
        alone = not torch.distributed.is_available() or not torch.distributed.is_initialized()
        full = isinstance(learner.adapter, PlacedFull)
        return full and first and alone and self.by == "magnitude" and self.clusters == 0

    def _masks(self, learner: LearnerView, masking: ActiveMask) -> list[Tensor]:
        maps = masking.step.maps
        if self.by == "random":
            where = (learner.state.seed, self.key, learner.task_number, learner.step.number)
            return [
                random_features(found.features, kept, derive(*where, found.name)).to(found.parameters[0][0].device)
                for found, kept in zip(maps, masking.kept, strict=True)
            ]
        scores = self._scores(learner, masking)
        if masking.groups is None:
            return [largest(score, kept) for score, kept in zip(scores, masking.kept, strict=True)]
        whole = zip(scores, masking.groups, masking.kept, strict=True)
        return [largest_groups(score, groups, kept) for score, groups, kept in whole]

    def _scores(self, learner: LearnerView, masking: ActiveMask) -> list[Tensor]:
        if self.by == "weight":
            return [row_sums(effective_rows(found), 0) for found in masking.step.maps]
        if self.by == "gradient":
            return [_gradient_sums(found) for found in masking.step.maps]
        assert masking.magnitudes is not None
        sums = masking.magnitudes.take()
        if not learner.step.takes_part:
            sums = [torch.zeros_like(total) for total in sums]
        return summed_over_processes(sums)

    def _clusters(self, learner: LearnerView, tasks: Sequence[Task], maps: Sequence[FeatureMap]) -> list[Tensor]:
        if self.cluster_by == "weight":
            points = [effective_rows(found) for found in maps]
        else:
            examples = [example for task in tasks for example in task.examples("train")]
            seed = derive(learner.state.seed, self.key, learner.task_number, "rows")
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
            sample = [examples[place] for place in order[:PROFILE_ROWS]]
            points = magnitude_profiles(learner, maps, sample, self.tokens)
        where = (learner.state.seed, self.key, learner.task_number, "clusters")
        groups = {
            found.name: feature_clusters(rows, self.clusters, derive(*where, found.name))
            for found, rows in zip(maps, points, strict=True)
        }
        learner.remember(self, FeatureGroups(groups))
        return list(groups.values())


@dataclass
class ActiveMask:
    """What lives while a task is learned.

    Attributes:
        step: Masks the gradients or the update.
        kept: Number of features to keep, for each map.
        groups: Each feature's cluster, [features] for each map; None without clusters.
        magnitudes: The features' measured outputs; None where something else decides.
        rows: Chooses masks during the backward pass; None where that is not possible.
        taken: The newest step whose gradients have been masked.
    """

    step: MaskedStep
    kept: list[int]
    groups: list[Tensor] | None
    magnitudes: Magnitudes | None
    rows: KeptRows | None = None
    taken: Step | None = None

    def close(self) -> None:
        """Remove all hooks."""
        if self.rows is not None:
            self.rows.close()
        if self.magnitudes is not None:
            self.magnitudes.close()


@torch.no_grad()
def magnitude_profiles(
    learner: LearnerView, maps: Sequence[FeatureMap], examples: Sequence[Example], tokens: CountedTokens
) -> list[Tensor]:
    """Each feature's mean magnitude on the tokens of each example.

    Args:
        learner: Whose host computes.
        maps: The linear maps that are measured.
        examples: Rows of the task.
        tokens: Which tokens count.

    Returns:
        [features, examples] for each map.
    """
    magnitudes = Magnitudes(learner.adapter.model, maps, tokens, counts=lambda: True)
    try:
        columns = []
        for row in learner.encode(examples):
            learner.loss_sum([row])
            columns.append(magnitudes.take_means())
    finally:
        magnitudes.close()
    return [torch.stack(profile, dim=1) for profile in zip(*columns, strict=True)]


def _gradient_sums(found: FeatureMap) -> Tensor:
    sums = [row_sums(parameter.grad, axis) for parameter, axis in found.parameters if parameter.grad is not None]
    return torch.stack(sums).sum(0) if sums else torch.zeros(found.features, device=found.parameters[0][0].device)
