"""LB-CL: learn more (from earlier tasks' triplets), but bother them less (orthogonal training)."""

from typing import Literal

from nacre.adapters.svd import Svd
from nacre.errors import RecipeError
from nacre.functional.projection import Space
from nacre.functional.sensitivity import Match
from nacre.method import Method, recorded
from nacre.models.roles import Role
from nacre.parts.orthogonal_gradient import OrthogonalGradient
from nacre.parts.orthonormality import Orthonormality
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.parts.start import Fresh
from nacre.per_task import PerTask


@recorded
def lb_cl(
    *,
    variant: Literal["lb_cl", "l_cl", "b_cl", "nlnb_cl"] = "lb_cl",
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.1,
    seed_samples: int = 8,
    estimate: Literal["batch", "sample"] = "batch",
    sigma: Literal["average", "zero", "ones"] = "average",
    match: Match = "index",
    align: Literal["none", "align"] = "none",
    orthonormalize: Literal["none", "qr"] = "none",
    top_layers: int | None = None,
    space: Space = "union",
    on: Literal["gradient", "update", "both"] = "gradient",
    sigma_gradient: Literal["none", "flat"] = "none",
    energy: float = 1.0,
    orthonormality: PerTask = 0.5,
    orthonormality_form: Literal["released", "paper"] = "released",
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """An update in SVD form for each task, all of them summed, earlier ones frozen. A new one begins as the average of
    earlier ones, weighted by how much they matter for a few of the new task's rows, and is trained in directions that
    they do not use. No task identity at test, no stored data.

    Equations: h = W x + s sum_{k=1..t} U_k diag(sigma_k) V_k x.
    Start: S(theta) = |theta dL/dtheta|, S_i^k = S(sigma_i^k) + mean_j S(U_ji^k) + mean_j S(V_ij^k),
    alpha_i^k = S_i^k / sum_k S_i^k, triplet i of task t = sum_{k<t} alpha_i^k (u_i^k, sigma_i^k, v_i^k).
    Training: grad U <- (I - Q_U Q_U^T) grad U, grad V <- grad V (I - Q_V Q_V^T), Q: orthonormal basis of all earlier
    tasks' columns (rows); loss = task loss + orthonormality * mean of ||U^T U - I||_F and ||V V^T - I||_F.

    variant: the paper's ablation: lb_cl; l_cl: the start only; b_cl: orthogonal training only; nlnb_cl: neither.
    rank: triplets r of a task. alpha: the scale s is alpha / rank; null: s = 1. dropout: on the new update's input.
    seed_samples, estimate (batch: |theta * gradient of the rows' common loss|; sample: summed row by row),
    sigma (average: with Sigma; zero: without, so that the function does not change at the start; ones),
    match (index; sigma_sorted: triplets of one rank by |sigma|), align (flip u and v together to the first task's
    side), orthonormalize (qr: after averaging), top_layers (nearest to the output; null: all): of the start, see
    the sheet of the modifier sensitivity_init.
    space (union; sum: the slide's formula to the letter; vectors), on (gradient, update, both), sigma_gradient (none:
    free; flat: outside the span of earlier sigmas), energy (share of each earlier factor's squared norm that the closed
    directions hold; 1: all of it): of orthogonal training, see the sheet of orthogonal_gradient.
    orthonormality: weight of that term; a list gives one for each task. orthonormality_form: released (peft's AdaLoRA,
    as above), paper (AdaLoRA's sum of squares).
    roles: which linear maps carry it; modules: their names' endings instead.

    Note: each task closes up to rank directions of each factor, so that after width / rank tasks none are left. How
    many are is reported when a task begins; with energy below 1 they last longer, and what is not held may change.
    Note: only what is learnt is orthogonal to earlier tasks; the start lies in their span. With sigma='average' task 2
    begins from W + 2 U_1 diag(sigma_1) V_1. AdamW turns a projected gradient back into the old span in part;
    on='update' is exact. The state holds which share of each task's change lay there.

    The slides state: the equations, rank 8, 8 rows, with Sigma. No code was released.
    Assumed: learning rate 1e-3, batch, epochs, dropout 0.1, query and value, as in O-LoRA's pipeline.
    Assumed: s = 1; first task as in AdaLoRA: U, V normal(0, 0.02), sigma 0.
    Assumed: S is the first-order effect on the mean loss of 8 random rows, without dropout.
    Assumed: proj is on the union of the old spans, for U and for V by itself, on the gradient; sigma is left free.
    Assumed: the term for orthonormal U and V and its weight 0.5, which are peft's AdaLoRA's; it acts in all variants.

    Sources: LB-CL (Qiao and Mahdavi, NeurIPS 2024), sections 3.1, 3.2 and the ablation of section 4; AdaLoRA (arXiv
    2303.10512); energy: Gradient Projection Memory (arXiv 2103.09762); docs/fidelity.md.
    """
    learns_more, bothers_less = variant in ("lb_cl", "l_cl"), variant in ("lb_cl", "b_cl")
    start = SensitivityStart(
        seed_samples=seed_samples,
        estimate=estimate,
        sigma=sigma,
        match=match,
        align=align,
        orthonormalize=orthonormalize,
        top_layers=top_layers,
    )
    rule = OrthogonalGradient(space=space, on=on, sigma=sigma_gradient, energy=energy)
    for part, is_used, what in ((start, learns_more, "start"), (rule, bothers_less, "orthogonal training")):
        if not is_used and part != type(part)():
            raise RecipeError(f"variant='{variant}' is LB-CL without its {what}, whose settings would have no effect.")
    return Method(
        title={
            "lb_cl": "LB-CL (learn more, but bother less)",
            "l_cl": "L-CL (LB-CL's start only)",
            "b_cl": "B-CL (LB-CL's orthogonal training only)",
            "nlnb_cl": "NLNB-CL (incremental SVD adapters)",
        }[variant],
        sources=("Qiao and Mahdavi, NeurIPS 2024",),
        adapter=Svd(rank=rank, alpha=alpha, dropout=dropout, roles=roles, modules=modules),
        start=start if learns_more else Fresh(),
        penalties=(Orthonormality(orthonormality, orthonormality_form),),
        gradient_rules=(rule,) if bothers_less else (),
    )
