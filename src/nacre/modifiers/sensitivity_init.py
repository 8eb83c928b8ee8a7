"""`+sensitivity_init`: a new task begins with the average of earlier ones, weighted by what matters for it."""

from dataclasses import replace
from typing import Literal

from nacre.adapters.slotted import SlottedAdapter
from nacre.errors import RecipeError
from nacre.functional.sensitivity import Match
from nacre.method import Method, modifier
from nacre.parts.sensitivity_start import SensitivityStart


@modifier
def sensitivity_init(
    method: Method,
    *,
    seed_samples: int = 8,
    estimate: Literal["batch", "sample"] = "batch",
    sigma: Literal["kept", "average", "zero", "ones"] | None = None,
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
        sigma='kept': h = W x + s sum_{k<=t} (U_k diag(sigma_k) V_k - U_k0 diag(sigma_k0) V_k0) x, 0: at the start

    Args:
        method: The method to modify.
        seed_samples: Rows of the new task's training split on which sensitivities are measured.
        estimate: 'batch': |theta * gradient of the rows' common loss|; 'sample': row by row, then summed.
        sigma: 'kept': the average, whose product is taken out of the frozen part, so that the function does not change
            at the start; 'average': as printed, on top of the updates that the model already holds; 'zero': the
            directions only; 'ones' (with an SVD adapter only). null: 'kept' where updates are summed, 'average' where
            gates or a routing weight them.
        match: 'index': triplets of one index are averaged; 'sigma_sorted': those of one rank by |sigma|.
        align: 'align' flips u and v together so that they point the same way as the first task's.
        orthonormalize: 'qr' makes U and V orthonormal after averaging (SVD adapters only).
        top_layers: How many layers nearest to the output take part; null: all.

    Assumed:
        - S is the first-order effect on the mean loss of 8 random rows, without dropout.
        - The form for a plain LoRA; the paper has SVD adapters only.
        - sigma='kept' where updates are summed; lb_cl says why.

    Note:
        am_lora's new selector begins as usual, and has no part in the measurement.

    Sources:
        LB-CL (NeurIPS 2024), section 3.1.
    """
    is_summed = method.traits["foldable"]
    chosen = sigma or ("kept" if is_summed else "average")
    started = method.with_start(
        SensitivityStart(
            seed_samples=seed_samples,
            estimate=estimate,
            sigma="average" if chosen == "kept" else chosen,
            match=match,
            align=align,
            orthonormalize=orthonormalize,
            top_layers=top_layers,
        )
    )
    if chosen != "kept":
        return started
    if not is_summed or not isinstance(method.adapter, SlottedAdapter):
        raise RecipeError(
            f"sigma='kept' takes a start out of the sum of all updates, and {method.display_name} weights each of them "
            "instead; 'average' and 'zero' work here."
        )
    return replace(started, adapter=replace(method.adapter, from_start=True))
