"""OSF's rule: what is trained of a weight stays outside the span of its large singular vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nacre.adapters.adapter import Adapter
from nacre.adapters.spectral import PlacedSpectral, Spectral
from nacre.functional.spectral_split import without_columns, without_rows
from nacre.parts.part import GradientRule, LearnerView


@dataclass(frozen=True)
class ProtectedSpectrum(GradientRule):
    """Gradients of U_l and V_l lose what they have of U_h and V_h, and so do U_l and V_l after each step.

    Attributes:
        project: 'parameters': both; 'gradients': gradients alone, as PEFT does. Adam scales entry by entry, so that its
            step leaves the directions that are left open to it.
    """

    project: Literal["parameters", "gradients"] = "parameters"

    def objection(self, adapter: Adapter) -> str | None:
        return None if isinstance(adapter, Spectral) else "it protects large singular vectors, which osf's adapter has"

    @torch.no_grad()
    def apply(self, learner: LearnerView) -> None:
        for parameter, basis, is_left in _protected(learner):
            if parameter.grad is not None:
                parameter.grad.copy_(_outside(parameter.grad, basis, is_left))

    @torch.no_grad()
    def after_step(self, learner: LearnerView) -> None:
        if self.project == "gradients":
            return
        for parameter, basis, is_left in _protected(learner):
            parameter.copy_(_outside(parameter, basis, is_left))


def _protected(learner: LearnerView) -> Iterator[tuple[nn.Parameter, Tensor, bool]]:
    """Each U_l with U_h, and each V_l with V_h; and whether they are the left ones."""
    assert isinstance(learner.adapter, PlacedSpectral)
    for site in learner.adapter.sites.values():
        assert site.protected is not None
        parameters = site.parameters_by_group()
        yield parameters["left"], site.protected[0], True
        yield parameters["right"], site.protected[1], False


def _outside(matrix: Tensor, basis: Tensor, is_left: bool) -> Tensor:
    return without_columns(matrix, basis) if is_left else without_rows(matrix, basis)
