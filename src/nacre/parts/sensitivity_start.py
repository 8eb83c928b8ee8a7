"""LB-CL's stage 1: a new task begins with an average of the earlier ones, weighted by their sensitivities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.adapters.slotted import low_rank_in, why_no_past
from nacre.errors import RecipeError, TrainingError
from nacre.events import Warned
from nacre.functional.sensitivity import Match, Triplets, averaged_triplets, orthonormal_rows
from nacre.models.evaluating import evaluating
from nacre.models.roles import in_top_layers
from nacre.parts.measured_sensitivity import is_dense, through_folded, through_triplets
from nacre.parts.part import LearnerView, Start
from nacre.parts.start import Fresh
from nacre.seeds import derive
from nacre.tasks.task import Task
from nacre.tasks.template import Example

ADDS_ONCE_MORE = (
    "This start adds earlier updates once more: with sigma='average' a new task begins at the model plus an average of "
    "the updates that the model already holds. sigma='kept' begins with the same triplets at the model as it is."
)


@dataclass(frozen=True)
class SensitivityStart(Start):
    """A new triplet is the average of the earlier tasks' triplets, weighted by their sensitivities.

        S_i^k = S(sigma_i^k) + mean_j S(U_ji^k) + mean_j S(V_ij^k),  S(theta) = |theta dL/dtheta|
        alpha_i^k = S_i^k / sum_k S_i^k,  new triplet i = sum_k alpha_i^k (u_i^k, sigma_i^k, v_i^k)

    L: the task loss of a few rows of the new task, on the model as the last task left it, without dropout.
    Without earlier tasks the start is the adapter's usual one. A LoRA's triplet i is (column i of B, row i of A).

    Where updates are summed, the average comes on top of the updates that it is an average of, which the model already
    holds. With an adapter that counts updates from their start (`SlottedAdapter.from_start`) it does not: what is
    written into the new slot is taken out of the frozen part.

    Attributes:
        seed_samples: Number of rows to measure, drawn from the new task's training split.
        estimate: 'batch': the gradient of their common loss; 'sample': S row by row, then summed, so that rows do not
            cancel each other.
        sigma: 'average' as above; 'zero': the new task knows the directions and begins at the old function (without
            sigma, B is zero); 'ones'.
        match: Which triplets are averaged; see `functional.sensitivity.averaged_triplets`.
        align: Whether their signs are aligned first; see there.
        orthonormalize: 'qr' makes U's columns and V's rows orthonormal afterwards.
        top_layers: Number of layers from the output down that take part (of the decoder, where there is one); None:
            all. The others begin as usual.
    """

    seed_samples: int = 8
    estimate: Literal["batch", "sample"] = "batch"
    sigma: Literal["average", "zero", "ones"] = "average"
    match: Match = "index"
    align: Literal["none", "align"] = "none"
    orthonormalize: Literal["none", "qr"] = "none"
    top_layers: int | None = None

    def __post_init__(self) -> None:
        if self.seed_samples < 1:
            raise RecipeError(f"seed_samples: {self.seed_samples} is not a positive number of rows.")
        if self.top_layers is not None and self.top_layers < 1:
            raise RecipeError(f"top_layers: {self.top_layers} is not a positive number of layers; null takes all.")

    def objection(self, adapter: Adapter) -> str | None:
        if (missing := why_no_past(adapter)) is not None:
            return missing
        if "sigma" in adapter.groups:
            return None
        if self.sigma == "ones":
            return "sigma='ones' needs an adapter with a sigma, as lb_cl's; 'average' or 'zero' work here"
        if self.orthonormalize == "qr":
            return "orthonormalize='qr' would undo the size of an update without a sigma, which lb_cl's adapter has"
        return None

    def fill(self, learner: LearnerView, tasks: Sequence[Task]) -> None:
        adapter = low_rank_in(learner.adapter)
        if learner.task_number == 1:
            if self._adds_once_more(learner):
                learner.on_event(Warned(ADDS_ONCE_MORE))
            Fresh().fill(learner, tasks)
            return
        names = (
            list(adapter.sites)
            if self.top_layers is None
            else in_top_layers(adapter.model, adapter.sites, self.top_layers)
        )
        sensitivities = self.sensitivities(learner, tasks, names)  # while the new slot is still all zeros
        Fresh().fill(learner, tasks)
        for name in names:
            site = adapter.sites[name]
            past = Triplets(**site.past_by_group())
            new = averaged_triplets(past, sensitivities[name], match=self.match, align=self.align == "align")
            site.write(self._adjusted(name, new))

    def sensitivities(self, learner: LearnerView, tasks: Sequence[Task], names: Collection[str]) -> dict[str, Tensor]:
        """S of all earlier tasks' triplets at these sites, by the site's name, [t-1, r]."""
        rows = learner.encode(self.seed_rows(learner, tasks))
        tokens = sum(row.num_target_tokens for row in rows)
        adapter = low_rank_in(learner.adapter)
        measure = through_folded if all(is_dense(adapter.sites[name]) for name in names) else through_triplets
        with measure(adapter, names) as found, evaluating(learner.host.model):
            for portion in [rows] if self.estimate == "batch" else [[row] for row in rows]:
                torch.autograd.backward(learner.loss_sum(portion) / tokens, inputs=found.leaves)
                found.add()
        return found.sensitivities

    def seed_rows(self, learner: LearnerView, tasks: Sequence[Task]) -> list[Example]:
        """The rows that the sensitivities are measured on: all, if the task has no more."""
        examples = [example for task in tasks for example in task.examples("train")]
        generator = torch.Generator().manual_seed(derive(learner.state.seed, "seed samples", learner.task_number))
        chosen = torch.randperm(len(examples), generator=generator)[: self.seed_samples]
        return [examples[index] for index in chosen.tolist()]

    def _adds_once_more(self, learner: LearnerView) -> bool:
        """Whether averages come on top of the sum that they were taken from; gates and routes weight them instead."""
        is_whole = not any(site.slots.from_start for site in low_rank_in(learner.adapter).sites.values())
        return self.sigma == "average" and is_whole and learner.method.traits["foldable"]

    def _adjusted(self, name: str, new: Triplets) -> Triplets:
        """The average, orthonormalized and rescaled as the settings say."""
        if self.orthonormalize == "qr":
            rank, width = new.down.shape[0], min(new.down.shape[-1], new.up.shape[-1])
            if rank > width:
                raise TrainingError(
                    f"orthonormalize='qr': {name} has {width} dimensions, too few for {rank} orthonormal directions. "
                    "Take a smaller rank."
                )
            new = new._replace(down=orthonormal_rows(new.down), up=orthonormal_rows(new.up))
        if self.sigma == "average":
            return new
        if new.sigma is None:
            return new._replace(up=torch.zeros_like(new.up))
        return new._replace(sigma=torch.full_like(new.sigma, 1.0 if self.sigma == "ones" else 0.0))
