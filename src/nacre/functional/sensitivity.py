"""LB-CL's stage 1: how much earlier tasks' triplets matter for new examples, and the new triplets made of them.

Triplet i of task k is (column u_i of U, sigma_i, row v_i of V). Both U^T and V are stacks of rows here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Match = Literal["index", "sigma_sorted"]


class Triplets(NamedTuple):
    """Triplets of one task or of stacked tasks.

    Attributes:
        down: V, [..., r, d_in].
        up: U transposed, [..., r, d_out].
        sigma: [..., r]; None for a plain LoRA, whose triplet is the pair of A's row i and B's column i.
    """

    down: Tensor
    up: Tensor
    sigma: Tensor | None = None


def sensitivity(parameter: Tensor, gradient: Tensor) -> Tensor:
    """S(theta) = |theta dL/dtheta|, entry by entry.

    To first order, this is how much the loss changes when the entry is set to 0.
    """
    return (parameter * gradient).abs()


def triplet_sensitivity(values: Triplets, gradients: Triplets) -> Tensor:
    """S_i^k = S(sigma_i) + (1/d_out) sum_j S(U_ji) + (1/d_in) sum_j S(V_ij).

    Args:
        values: Of t-1 tasks, [t-1, r, ...].
        gradients: Of the same shapes.

    Returns:
        [t-1, r].
    """
    total = sensitivity(values.up, gradients.up).mean(-1) + sensitivity(values.down, gradients.down).mean(-1)
    if values.sigma is not None and gradients.sigma is not None:
        total = total + sensitivity(values.sigma, gradients.sigma)
    return total


def folded_gradients(values: Triplets, slope: Tensor, *, scale: float) -> Triplets:
    """The triplets' gradients from the gradient of the one matrix that they are folded into.

        W' = W + s sum_k U_k diag(sigma_k) V_k,  slope = dL/dW'
        dU = s slope V^T diag(sigma),  dsigma_a = s u_a^T slope v_a,  dV = s diag(sigma) U^T slope

    So the loss needs no pass through the triplets themselves, and what is kept for it does not grow with t. Without
    sigma (a plain LoRA) it is 1 here and has no gradient.

    Args:
        values: Of t-1 tasks, [t-1, r, ...].
        slope: dL/dW', [d_out, d_in].
        scale: s.

    Returns:
        Gradients of the values' shapes.
    """
    through_down = scale * (values.down @ slope.T)  # [t-1, r, d_out]: rows s slope v_a
    through_up = scale * (values.up @ slope)  # [t-1, r, d_in]: rows s u_a^T slope
    if values.sigma is None:
        return Triplets(down=through_up, up=through_down)
    sigma = values.sigma.unsqueeze(-1)
    return Triplets(down=sigma * through_up, up=sigma * through_down, sigma=(values.up * through_down).sum(-1))


def shares(sensitivities: Tensor) -> Tensor:
    """alpha_i^k = S_i^k / sum_k S_i^k; equal shares where no task's triplet i matters at all.

    Args:
        sensitivities: S_i^k, [t-1, r].

    Returns:
        [t-1, r].
    """
    total = sensitivities.sum(0)
    return torch.where(total > 0, sensitivities / total, 1 / len(sensitivities))


def averaged_triplets(
    past: Triplets, sensitivities: Tensor, *, match: Match = "index", align: bool = False
) -> Triplets:
    """The new triplets: (sum_k alpha_i^k u_i^k, sum_k alpha_i^k sigma_i^k, sum_k alpha_i^k v_i^k).

    Args:
        past: Earlier tasks' triplets, [t-1, r, ...].
        sensitivities: S_i^k, [t-1, r].
        match: Which triplets of the tasks belong together. `index`: those of one index (the formula; but the order of
            triplets means nothing). `sigma_sorted`: those of one rank by |sigma|, by |u| |v| where there is no sigma.
        align: Whether u and v are flipped together where u_i^k . u_i^1 < 0. That leaves the triplet as it is, and
            vectors do not cancel for their arbitrary signs.

    Returns:
        [r, ...].
    """
    if match == "sigma_sorted":
        size = past.up.norm(dim=-1) * past.down.norm(dim=-1) if past.sigma is None else past.sigma.abs()
        order = size.argsort(dim=-1, descending=True, stable=True)  # [t-1, r]
        rows = torch.arange(len(order), device=order.device).unsqueeze(-1)
        sensitivities = sensitivities[rows, order]
        past = Triplets(*(None if tensor is None else tensor[rows, order] for tensor in past))  # type: ignore[arg-type]
    if align:
        overlap = (past.up * past.up[:1]).sum(-1, keepdim=True)  # [t-1, r, 1]
        sign = torch.where(overlap < 0, -1.0, 1.0).to(past.up.dtype)
        past = past._replace(up=sign * past.up, down=sign * past.down)
    alpha = shares(sensitivities)
    return Triplets(
        down=(alpha.unsqueeze(-1) * past.down).sum(0),
        up=(alpha.unsqueeze(-1) * past.up).sum(0),
        sigma=None if past.sigma is None else (alpha * past.sigma).sum(0),
    )


def orthonormal_rows(rows: Tensor) -> Tensor:
    """Orthonormal rows by Gram-Schmidt in order (QR); each keeps its sign.

    Args:
        rows: [r, d] with r <= d.

    Returns:
        [r, d].
    """
    q, r = torch.linalg.qr(rows.T)  # [d, r], [r, r]
    signed: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    return signed.T
