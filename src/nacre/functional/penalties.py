"""Terms added to the loss, as functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor


def absolute_sum(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of the absolute values of all entries: the L1 norm of AM-LoRA's Eq. 6. Returns []."""
    return torch.stack([tensor.abs().sum() for tensor in tensors]).sum()


def absolute_mean(tensors: Sequence[Tensor]) -> Tensor:
    """Mean of the absolute values of all entries of all tensors. Returns []."""
    return absolute_sum(tensors) / sum(tensor.numel() for tensor in tensors)


def norm_sum(tensors: Sequence[Tensor]) -> Tensor:
    """Sum over the tensors of their L2 norm, not squared: the second term of O-LoRA's released loss. Returns [].

    A norm has no gradient at 0, where every LoRA's B begins; the subgradient there is 0.
    """
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).sum()


def overlap(new: Tensor, past: Tensor, *, norm: Literal["absolute", "squared"]) -> Tensor:
    """How far a task's directions are from being orthogonal to those of the earlier tasks. Returns [].

    new [r, d], its directions as rows; past [t-1, r, d], constant. With P_i = past_i new^T [r, r]:
    absolute: sum_i sum_jk |P_i| (O-LoRA's released code; subgradient 0 at 0);
    squared: sum_i ||P_i||_F^2 (O-LoRA's equation). Both are 0, with a zero gradient, for the first task.
    """
    products = past.flatten(0, 1) @ new.T  # [(t-1) r, r]
    return (products.abs() if norm == "absolute" else products.square()).sum()


def summed_overlap(
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    norm: Literal["absolute", "squared"],
    reduce: Literal["sum", "mean"],
) -> Tensor:
    """The overlaps of several matrices, (new, past) each, summed (O-LoRA) or their mean. Returns []."""
    overlaps = torch.stack([overlap(new, past, norm=norm) for new, past in pairs])
    return overlaps.sum() if reduce == "sum" else overlaps.mean()


def elastic(parameters: Sequence[Tensor], anchors: Sequence[Tensor], importances: Sequence[Tensor]) -> Tensor:
    """1/2 sum_j F_j (theta_j - theta*_j)^2 over all entries j (EWC, Eq. 3 without its lambda). Returns [].

    parameters, anchors (theta*), importances (F): tensors of equal shapes, place by place; computed in F's precision.
    """
    entries = zip(parameters, anchors, importances, strict=True)
    terms = [_Pull.apply(*each) for each in entries]  # type: ignore[no-untyped-call]
    return torch.stack(terms).sum() / 2


class _Pull(torch.autograd.Function):
    """sum_j F_j (theta_j - theta*_j)^2 of one tensor, with the gradient 2 F_j (theta_j - theta*_j) by hand: autograd
    would keep more tensors and pass over memory more often, which counts where a whole model is held."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, anchor: Tensor, importance: Tensor) -> Tensor:
        away = (parameter - anchor).to(importance.dtype)
        pull = importance * away
        ctx.save_for_backward(pull)
        ctx.precision = parameter.dtype
        return away.mul_(pull).sum()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (pull,) = ctx.saved_tensors
        return (2 * slope * pull).to(ctx.precision), None, None
