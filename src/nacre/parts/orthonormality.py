"""The pull towards orthonormal U and V that makes an update U diag(sigma) V a singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nacre.adapters.adapter import Adapter
from nacre.functional.orthonormality import orthonormality_error
from nacre.parts.part import LearnerView, Penalty
from nacre.per_task import PerTask, check_not_negative


@dataclass(frozen=True)
class Orthonormality(Penalty):
    """||U^T U - I||_F and ||V V^T - I||_F of the newest task.

    Attributes:
        strength: Weight of the penalty.
        form: 'released': their mean over all matrices (AdaLoRA in peft, `AdaLoraModel.forward`, weight 0.5);
            'paper': the sum of their squares (AdaLoRA, arXiv 2303.10512, Eq. 4).
    """

    strength: PerTask = 0.5
    form: Literal["released", "paper"] = "released"

    def __post_init__(self) -> None:
        check_not_negative(self.strength, "The weight of the orthonormality penalty")

    def objection(self, adapter: Adapter) -> str | None:
        if "sigma" in adapter.groups:
            return None
        return "orthonormal factors leave no size to an update without a sigma; lb_cl's adapter has one"

    def value(self, learner: LearnerView) -> Tensor:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for group in learner.adapter.parameter_groups():
            for parameter in group.parameters:
                if group.name in ("down", "up"):
                    rows = parameter.T if group.name == "up" else parameter
                    by_shape.setdefault(rows.shape, []).append(rows)
        errors = torch.cat([orthonormality_error(torch.stack(rows)) for rows in by_shape.values()])
        return errors.mean() if self.form == "released" else errors.square().sum()
