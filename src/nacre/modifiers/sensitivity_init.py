"""`+sensitivity_init`: a new task begins with the average of earlier ones, weighted by what matters for it."""

from typing import Literal

from nacre.functional.sensitivity import Match
from nacre.method import Method, modifier
from nacre.parts.sensitivity_start import SensitivityStart


@modifier
def sensitivity_init(
    method: Method,
    *,
    seed_samples: int = 8,
    estimate: Literal["batch", "sample"] = "batch",
    sigma: Literal["average", "zero", "ones"] = "average",
    match: Match = "index",
    align: Literal["none", "align"] = "none",
    orthonormalize: Literal["none", "qr"] = "none",
    top_layers: int | None = None,
) -> Method:
    """A new task begins as the average of earlier ones, weighted by how much they matter for it.

    This is LB-CL's first stage for any method with a low-rank slot for each task.

    Equations:
        S(theta) = |theta dL/dtheta|
        S_i^k = S(sigma_i^k) + mean_j S(U_ji^k) + mean_j S(V_ij^k)
        alpha_i^k = S_i^k / sum_k S_i^k
        new triplet i = sum_k alpha_i^k (u_i^k, sigma_i^k, v_i^k)
        A LoRA's triplet i is (column i of B, row i of A), and S_i^k has no first term.

    Args:
        method: The method to modify.
        seed_samples: Rows of the new task's training split on which sensitivities are measured.
        estimate: 'batch': |theta * gradient of the rows' common loss|; 'sample': row by row, then summed.
        sigma: 'average'; 'zero': the function does not change at the start; 'ones' (with an SVD adapter only).
        match: 'index': triplets of one index are averaged; 'sigma_sorted': those of one rank by |sigma|.
        align: 'align' flips u and v together so that they point the same way as the first task's.
        orthonormalize: 'qr' makes U and V orthonormal after averaging (SVD adapters only).
        top_layers: How many layers nearest to the output take part; null: all.

    Assumed:
        - S is the first-order effect on the mean loss of 8 random rows, without dropout.
        - The form for a plain LoRA; the paper has SVD adapters only.

    Note:
        am_lora's new selector begins as usual, and has no part in the measurement.

    Sources:
        LB-CL (NeurIPS 2024), section 3.1.
    """
    return method.with_start(
        SensitivityStart(
            seed_samples=seed_samples,
            estimate=estimate,
            sigma=sigma,
            match=match,
            align=align,
            orthonormalize=orthonormalize,
            top_layers=top_layers,
        )
    )
