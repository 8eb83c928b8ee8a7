"""LB-CL: learn more (from earlier tasks' triplets), but bother them less (orthogonal training)."""

from typing import Literal

from nacre.adapters.svd import Svd
from nacre.errors import RecipeError
from nacre.functional.projection import Space
from nacre.functional.sensitivity import Match
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.orthogonal_gradient import OrthogonalGradient
from nacre.parts.orthonormality import Orthonormality
from nacre.parts.sensitivity_start import SensitivityStart
from nacre.parts.start import Fresh
from nacre.per_task import PerTask


@method
def lb_cl(
    *,
    variant: Literal["lb_cl", "l_cl", "b_cl", "nlnb_cl"] = "lb_cl",
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.1,
    seed_samples: int = 8,
    estimate: Literal["batch", "sample"] = "batch",
    sigma: Literal["kept", "average", "zero", "ones"] = "kept",
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
    """Learn more but bother less: an SVD update per task that starts from earlier ones, trained orthogonally to them.

    The updates of all tasks are summed, and earlier ones are frozen. A new one begins as the average of earlier
    ones, weighted by how much they matter for a few of the new task's rows, and is trained in directions that they
    do not use. What it begins with is taken out of the frozen part, so that a task begins at the model as it is.
    There is no task identity at test and no stored data.

    Equations:
        h = W x + s sum_{k=1..t} (U_k diag(sigma_k) V_k - U_k0 diag(sigma_k0) V_k0) x
            0: at the start of task k, frozen; with sigma='average', as printed, the second product is not there
        Start: S(theta) = |theta dL/dtheta|
            S_i^k = S(sigma_i^k) + mean_j S(U_ji^k) + mean_j S(V_ij^k)
            alpha_i^k = S_i^k / sum_k S_i^k
            triplet i of task t = sum_{k<t} alpha_i^k (u_i^k, sigma_i^k, v_i^k)
        Training: grad U <- (I - Q_U Q_U^T) grad U
            grad V <- grad V (I - Q_V Q_V^T), Q: orthonormal basis of all earlier tasks' columns (rows)
            loss = task loss + orthonormality * mean of ||U^T U - I||_F and ||V V^T - I||_F

    Args:
        variant: The paper's ablation: 'lb_cl'; 'l_cl': the start only; 'b_cl': orthogonal training only; 'nlnb_cl':
            neither.
        rank: Triplets r of a task.
        alpha: The scale s is alpha / rank; null: s = 1.
        dropout: On the new update's input.
        seed_samples: Rows of the new task's training split on which sensitivities are measured.
        estimate: 'batch': |theta * gradient of the rows' common loss|; 'sample': row by row, then summed.
        sigma: 'kept': the average, taken out of the frozen part, so that the function does not change at the start;
            'average': the slides' formula to the letter, which adds earlier updates once more; 'zero': the directions
            only, the slides' "without Sigma"; 'ones'.
        match: 'index': triplets of one index are averaged; 'sigma_sorted': those of one rank by |sigma|.
        align: 'align' flips u and v together so that they point the same way as the first task's.
        orthonormalize: 'qr' makes U and V orthonormal after averaging (SVD adapters only).
        top_layers: How many layers nearest to the output take part; null: all.
        space: 'union': orthogonal to the span of all earlier tasks; 'sum': minus every earlier task's own
            projection, the slide's formula to the letter, which reverses what lies in the spans of two tasks;
            'vectors': minus the projection on every earlier vector.
        on: 'gradient': before the optimizer's step, which AdamW turns back into the span in part; 'update': the
            parameter's change since the task's start, after each step, exact for every optimizer; 'both'.
        sigma_gradient: 'none': an SVD adapter's sigma is trained freely; 'flat': outside the span of earlier sigmas.
        energy: With 'union', only as many directions of each earlier task's factor are closed, the largest first
            and beside those closed already, as it takes to hold this share of its squared norm; 1: all. Less leaves
            later tasks more free dimensions; of each earlier factor up to the rest is open to change.
        orthonormality: Weight of that term; a list gives one for each task.
        orthonormality_form: 'released' (peft's AdaLoRA, as above) or 'paper' (AdaLoRA's sum of squares).
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - Learning rate 1e-3, batch, epochs, dropout 0.1, query and value, as in O-LoRA's pipeline.
        - s = 1; first task as in AdaLoRA: U, V normal(0, 0.02), sigma 0.
        - S is the first-order effect on the mean loss of 8 random rows, without dropout.
        - The start keeps the function. At task 2 there is one earlier task, alpha is 1, and the start to the letter is
          the copy of all layers that ruins task 1 in the slides' own motivation (docs/fidelity.md, LB4).
        - proj is on the union of the old spans, for U and for V by itself, on the gradient; sigma is left free.
        - The term for orthonormal U and V and its weight 0.5, which are peft's AdaLoRA's; it acts in all variants.

    Note:
        Each task closes up to rank directions of each factor, so that after width / rank tasks none are left. How many
        are left is reported when a task begins; with energy below 1 they last longer, and what is not held may change.

        Only what is learned is orthogonal to earlier tasks; the start lies in their span. With sigma='average' task 2
        begins from W + 2 U_1 diag(sigma_1) V_1, and the sum grows with the number of tasks: a run says so. AdamW turns
        a projected gradient back into the old span in part; on='update' is exact. The state holds which share of each
        task's change lay there.

        With sigma='kept' a start keeps the function up to the rounding of its two products. Dropout acts on the
        trained one only, and so moves a training step's function about the old one from the start.

        With sigma='zero' the first step's gradients of U and V outside the old span are zero but for rounding, which
        AdamW scales up; the step stays far below the learning rate.

        The slides state the equations, rank 8, 8 rows, with Sigma. No code was released.

    Sources:
        LB-CL (Qiao and Mahdavi, NeurIPS 2024), sections 3.1, 3.2 and the ablation of section 4; AdaLoRA (arXiv
        2303.10512); energy: Gradient Projection Memory (arXiv 2103.09762); docs/fidelity.md.
    """
    learns_more, bothers_less = variant in ("lb_cl", "l_cl"), variant in ("lb_cl", "b_cl")
    start = SensitivityStart(
        seed_samples=seed_samples,
        estimate=estimate,
        sigma="average" if sigma == "kept" else sigma,
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
        adapter=Svd(
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            roles=roles,
            modules=modules,
            from_start=learns_more and sigma == "kept",
        ),
        start=start if learns_more else Fresh(),
        penalties=(Orthonormality(orthonormality, orthonormality_form),),
        gradient_rules=(rule,) if bothers_less else (),
    )
