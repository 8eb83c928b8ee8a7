"""MIGU's masks: which output features of a linear map are updated in a step, and how their slices are masked.

With h_j the j-th output on a token, the magnitude of feature j is n_j = sum over tokens of |h_j|. The k features with
the largest n_j are updated, the others are not (Eqs. 3 to 6 of arXiv 2406.17245; Eq. 5 prints "top 1 - t" for the top
d_out - t).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

Count = Literal["floor", "quantile"]


BLOCK = 2**17
"""Magnitudes that are held at once on a CPU, few enough to stay in its cache until they are summed."""


def magnitude_sum(outputs: Tensor, counted: Tensor | None = None) -> Tensor:
    """Sum over tokens of |h|, without a graph and in float32 at least.

    Args:
        outputs: h, [..., features].
        counted: 1 where a token counts and 0 where not, [...]; None if all count.

    Returns:
        [features].
    """
    outputs = outputs.detach().flatten(0, -2)
    tokens, features = outputs.shape
    dtype = torch.promote_types(outputs.dtype, torch.float32)
    total = outputs.new_zeros(features, dtype=dtype)
    weights = outputs.new_ones(tokens, dtype=dtype) if counted is None else counted.flatten().to(dtype)
    size = min(tokens, max(1, BLOCK // features)) if outputs.device.type == "cpu" else tokens
    block = outputs.new_empty(size, features, dtype=dtype)
    for start in range(0, tokens, size or 1):
        part = outputs[start : start + size]
        magnitudes = block[: len(part)]
        if part.dtype == dtype:
            torch.abs(part, out=magnitudes)
        else:
            magnitudes.copy_(part).abs_()
        # A product with a vector leaves tokens out and adds up in one reading. In place: autocast lets that alone.
        total.addmv_(magnitudes.t(), weights[start : start + size])
    return total


def kept_count(features: int, threshold: float, rule: Count = "floor") -> int:
    """How many features are updated: k.

    Args:
        features: d_out.
        threshold: T, taken as it is written: 0.29 of 100 is 29, though the nearest binary number to 0.29 lies below it.
        rule: `floor`: d_out - floor(T d_out) (Eq. 3). `quantile`: d_out - ceil(T (d_out - 1)), how many are not below
            the T-quantile (the released code, which also keeps all others that equal it); at most one less.
    """
    share = Fraction(str(threshold))
    if rule == "quantile":
        return features - math.ceil(share * (features - 1))
    return features - math.floor(share * features)


def largest(scores: Tensor, kept: int) -> Tensor:
    """Mask of exactly `kept` features with the largest scores; of equal ones, those of lower index.

    Args:
        scores: [..., features].
        kept: How many.

    Returns:
        True at the kept ones, [..., features].
    """
    return at_first(in_order(scores), kept)


def in_order(scores: Tensor) -> Tensor:
    """Indices of the features, largest score first; of equal ones, the lower index first.

    Args:
        scores: [..., features].

    Returns:
        [..., features].
    """
    return scores.sort(descending=True, stable=True).indices


def at_first(order: Tensor, kept: int) -> Tensor:
    """Mask of the first `kept` of the indices.

    Args:
        order: A permutation of the features, [..., features].
        kept: How many.

    Returns:
        True at the kept ones, [..., features].
    """
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order[..., :kept], True)


def largest_groups(scores: Tensor, groups: Tensor, kept: int) -> Tensor:
    """Mask of the groups with the largest mean scores, as few groups as hold `kept` features.

    Args:
        scores: [features].
        groups: Each feature's group, numbers below the number of features, [features]. Of equal means the lower number
            comes first.
        kept: How many features at least.

    Returns:
        True at all features of the kept groups, [features].
    """
    sizes = torch.zeros_like(groups).index_add(0, groups, torch.ones_like(groups))
    # One segment after the other: adding up in the order of arrival, as index_add does on some devices, would leave the
    # last bit, and so perhaps the mask, to chance.
    means = torch.segment_reduce(scores[groups.argsort(stable=True)], "mean", lengths=sizes)
    means = torch.where(sizes > 0, means, -torch.inf)
    order = means.sort(descending=True, stable=True).indices
    sizes_before = sizes[order].cumsum(0) - sizes[order]
    taken = torch.zeros_like(groups, dtype=torch.bool).index_put((order,), sizes_before < kept)
    return taken[groups]


def random_features(features: int, kept: int, seed: int) -> Tensor:
    """Mask of `kept` features that are drawn from the seed.

    Args:
        features: How many features there are.
        kept: How many are True.
        seed: Of the draw.

    Returns:
        [features], on the CPU.
    """
    chosen = torch.randperm(features, generator=torch.Generator().manual_seed(seed))[:kept]
    return torch.zeros(features, dtype=torch.bool).index_fill(0, chosen, True)


def row_sums(tensor: Tensor, axis: int) -> Tensor:
    """L1 norm of each slice along `axis`, [features]."""
    return tensor.detach().abs().movedim(axis, 0).flatten(1).sum(1) if tensor.dim() > 1 else tensor.detach().abs()


def zero_masked_(tensor: Tensor, mask: Tensor, axis: int) -> None:
    """Multiply the slices along `axis` with 0, in place, where the mask [features] is False."""
    tensor.mul_(_along(mask, tensor, axis))  # on a CPU four times as fast as filling


def restore_masked_(tensor: Tensor, before: Tensor, mask: Tensor, axis: int) -> None:
    """Restore the slices along `axis` from `before`, in place, where the mask [features] is False."""
    torch.where(_along(mask, tensor, axis), tensor, before, out=tensor)


def _along(mask: Tensor, tensor: Tensor, axis: int) -> Tensor:
    shape = [1] * tensor.dim()
    shape[axis] = -1
    return mask.view(shape)
