"""Terms added to the loss, as functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nacre.functional.stacking import stacked


def absolute_sum(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of the absolute values of all entries, a scalar: the L1 norm of AM-LoRA's Eq. 6."""
    return torch.stack([tensor.abs().sum() for tensor in tensors]).sum()


def absolute_mean(tensors: Sequence[Tensor]) -> Tensor:
    """Mean of the absolute values of all entries of all tensors, a scalar."""
    return absolute_sum(tensors) / sum(tensor.numel() for tensor in tensors)


def norm_sum(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of the tensors' L2 norms, not squared, a scalar: the second term of O-LoRA's released loss.

    A norm has no gradient at 0, where every LoRA's B begins; the subgradient there is 0.
    """
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).sum()


def overlaps(
    new: Sequence[Sequence[Tensor]], past: Sequence[Tensor], *, norm: Literal["absolute", "squared"]
) -> Tensor:
    """How far matrices' directions are from being orthogonal to those of the earlier tasks.

    With P = past new^T, [(t-1) r, r], the value and its hand-written gradient are

        absolute: sum_jk |P_jk|, sign(P)^T past    (O-LoRA's released code; subgradient 0 at 0)
        squared:  ||P||_F^2,     2 P^T past        (O-LoRA's equation)

    Both are 0, with a zero gradient, for the first task.

    Args:
        new: Groups of n matrices [r, d] of one shape, whose rows are directions.
        past: For each group the earlier tasks' directions, constant, [n, (t-1) r, d].
        norm: Which of the two.

    Returns:
        One value for each matrix, group after group, [matrices].
    """
    flat = [matrix for group in new for matrix in group]
    values: Tensor = _Overlaps.apply(norm, past, *flat)  # type: ignore[no-untyped-call]
    return values


class _Overlaps(torch.autograd.Function):
    """Two products a group, one each way, and no graph between them: of autograd's tensors only dL/dP is kept."""

    @staticmethod
    def forward(ctx: Any, norm: str, past: Sequence[Tensor], *new: Tensor) -> Tensor:
        values, slopes, rest = [], [], list(new)
        for earlier in past:
            group, rest = rest[: len(earlier)], rest[len(earlier) :]
            products = _times(earlier, stacked(group).mT)  # [n, (t-1) r, r]
            values.append((products.abs() if norm == "absolute" else products.square()).sum((-2, -1)))
            slopes.append(products.sign() if norm == "absolute" else 2 * products)
        ctx.save_for_backward(*slopes)
        ctx.past = past
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor] = []
        shares = torch.split(weights, [len(earlier) for earlier in ctx.past])
        for earlier, slopes, share in zip(ctx.past, ctx.saved_tensors, shares, strict=True):
            gradients += _times((slopes * share.view(-1, 1, 1)).mT, earlier).unbind()
        return None, None, *gradients


def _times(left: Tensor, right: Tensor) -> Tensor:
    """Stacked products; of a single pair the one that autograd would take, so that the bits are the same."""
    return (left[0] @ right[0]).unsqueeze(0) if len(left) == 1 else left @ right


def elastic(parameters: Sequence[Tensor], anchors: Sequence[Tensor], importances: Sequence[Tensor]) -> Tensor:
    """1/2 sum_j F_j (theta_j - theta*_j)^2 over all entries j (EWC, Eq. 3 without its lambda).

    Args:
        parameters: theta.
        anchors: theta*, of the parameters' shapes.
        importances: F, of the parameters' shapes; the term is computed in its precision.

    Returns:
        A scalar.
    """
    entries = zip(parameters, anchors, importances, strict=True)
    terms = [_Pull.apply(*each) for each in entries]  # type: ignore[no-untyped-call]
    return torch.stack(terms).sum() / 2


class _Pull(torch.autograd.Function):
    """sum_j F_j (theta_j - theta*_j)^2 of one tensor, with the gradient 2 F_j (theta_j - theta*_j) by hand.

    Autograd would keep more tensors and pass over memory more often, which counts where a whole model is held.
    """

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
