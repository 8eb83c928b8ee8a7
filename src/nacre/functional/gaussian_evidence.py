"""What a Gaussian for each class, with one shared covariance, says of a row, and how far it is to be believed.

    W = (sum of the classes' scatters) / (N - P)            S = W + c diag(W)  or  W + c tr(W) / d I
    e_p(z) = -1/2 (z - m_p)^T S^-1 (z - m_p)
    p(p | z) = softmax_p(e_p(z) / T), T by the likelihood of rows that no sum holds

Frozen features are not normal, and a posterior by the plain e is far too sure of itself: hence T.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nacre.functional.class_distance import squared_distances
from nacre.functional.class_statistics import scatter

Along = Literal["diagonal", "identity"]

LEAST_VARIANCE = 1e-6
"""Of a dimension, as a share of the mean variance: one that never varies must not decide everything."""

TEMPERATURES = torch.arange(-8, 25, dtype=torch.float64).div(4).exp2()
"""T from 2^-2 to 2^6, four to the octave [K]."""


def ridged(covariance: Tensor, strength: float, along: Along) -> Tensor:
    """S [d, d]: W with something added to its diagonal; of zeros, which know no direction, the identity.

    Args:
        covariance: W [d, d].
        strength: c.
        along: 'diagonal': each variance grows by its own share, so that the scale of a dimension does not matter;
            'identity': all by the same.
    """
    own = covariance.diagonal()
    mean = own.mean()
    if not bool(mean > 0):
        return torch.eye(len(covariance)).to(covariance)
    added = strength * (own if along == "diagonal" else mean.expand_as(own))
    lacking = (LEAST_VARIANCE * mean - own - added).clamp(min=0)
    return covariance + torch.diag(added + lacking)


def whitener(covariance: Tensor, strength: float, along: Along) -> Tensor:
    """F [d, d] with S^-1 = F F^T: (z - m) F has unit variance.

    Args:
        covariance: W [d, d].
        strength: c, of `ridged`.
        along: Of `ridged`.
    """
    factor = torch.linalg.cholesky(ridged(covariance, strength, along))
    identity = torch.eye(len(covariance)).to(covariance)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.T


def evidence(states: Tensor, whitened_means: Tensor, factor: Tensor) -> Tensor:
    """e of each row and class.

    Args:
        states: z [B, d].
        whitened_means: m F [P, d].
        factor: F [d, d].

    Returns:
        [B, P].
    """
    return -squared_distances(states @ factor, whitened_means) / 2


def held_out_evidence(
    states: Tensor,
    classes: Tensor,
    folds: Tensor,
    others: Tensor,
    scatter_of_others: Tensor,
    rows_of_others: int,
    *,
    strength: float,
    along: Along,
) -> Tensor:
    """e of each row by sums that do not hold the rows of its fold.

    Args:
        states: z of a task's rows [n, d].
        classes: Of each row [n], numbered from 0 without a gap.
        folds: Of each row [n].
        others: The means of other tasks' classes [Q, d].
        scatter_of_others: The sum of their scatters [d, d].
        rows_of_others: How many rows they have.
        strength: c, of `ridged`.
        along: Of `ridged`.

    Returns:
        [n, C + Q], the task's own classes first; -inf for a class that has no row in another fold.
    """
    count = int(classes.max()) + 1
    found = states.new_full((len(states), count + len(others)), -torch.inf)
    for fold in sorted(set(folds.tolist())):
        out = folds == fold
        means, whole, rows, known = [], scatter_of_others, rows_of_others, []
        for number in range(count):
            own = states[~out & (classes == number)]
            if len(own):
                means.append(own.mean(0))
                whole = whole + scatter(own, means[-1])
                rows += len(own)
                known.append(number)
        centers = torch.cat([torch.stack(means), others]) if means else others
        if not len(centers):
            continue
        factor = whitener(whole / max(rows - len(centers), 1), strength, along)
        columns = torch.tensor([*known, *range(count, found.shape[1])], device=states.device)
        found[out.nonzero(), columns] = evidence(states[out], centers @ factor, factor)
    return found


def surprise(found: Tensor, truth: Tensor) -> Tensor:
    """The mean of -log p of the true class at each of `TEMPERATURES` [K]; 0 if it is known of no row.

    Args:
        found: e [n, P]; -inf where a class cannot be.
        truth: The number of each row's class [n].
    """
    own = found.gather(1, truth.unsqueeze(1))
    seen = own.squeeze(1).isfinite()  # of a label's only row nothing is known
    found, own = found[seen], own[seen].squeeze(1)
    surprises = [((found / each).logsumexp(1) - own / each).sum() for each in TEMPERATURES.tolist()]
    return torch.stack(surprises) / max(len(own), 1)
