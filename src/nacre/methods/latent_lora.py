"""Latent-LoRA: a small matrix for each task between singular vectors of the weight, blended by a Gaussian mixture."""

from typing import Literal

from nacre.adapters.latent import Latent
from nacre.method import Method, method
from nacre.models.pooled_states import PooledStates, Text
from nacre.models.roles import Role
from nacre.parts.latent_orthogonality import LatentOrthogonality
from nacre.parts.mixture_routing import MixtureRouting
from nacre.per_task import PerTask


@method
def latent_lora(
    *,
    rank: int = 32,
    alpha: float | None = 16.0,
    orthogonality: PerTask = 0.02,
    components: int = 5,
    iterations: int = 30,
    around: Literal["components", "task"] = "components",
    epsilon: float = 0.01,
    scale: Literal["relative", "absolute"] = "absolute",
    text: Text = "prompt",
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """Latent-LoRA: small matrices between the singular vectors of each weight, blended by how probable each task is.

    A task's matrices are trained alone. After a task, its training rows are read once more, as word embeddings: no
    layer is run for it. At test every input is answered by a blend of all tasks' matrices. No row is kept.

    Equations:
        W ~ U S V^T, the r largest singular triplets of the site's own weight, frozen
        h = W x + s U S R(x) V^T x, R(x) = sum_i w_i(x) R_i [r, r], s = alpha / rank
        phi(x) = mean over the input's tokens of the word embeddings
        log p(phi|t) = logsumexp_k [log pi_tk - (phi - mu_tk)^T C^-1 (phi - mu_tk) / 2]
        w = softmax_t log p(phi|t); while task t is learned, R(x) = R_t
        pi_tk, mu_tk = shares and means of k-means on task t's rows; C = (scatter around them) / (all rows) + eps I
        loss = task loss + lambda sum_{i<t} mean over sites of <D_t, D_i>^2 / (||D_t||^2 ||D_i||^2), D_i = U S R_i V^T

    Args:
        rank: r, the number of singular triplets.
        alpha: The updates' scale s is alpha / rank; null for 1.
        orthogonality: lambda, 0.05 in the paper for SuperNI; a list gives one for each task.
        components: K, the number of Gaussians for each task.
        iterations: Of k-means, at most.
        around: The scatter is around the 'components' means, or around the 'task' mean.
        epsilon: eps.
        scale: eps is 'absolute', as published, or 'relative' to the mean of C's diagonal. Embeddings differ in scale by
            orders of magnitude: where it is above the variance, an absolute eps is the covariance.
        text: What is read for phi: the whole 'prompt', or the 'bare' text, see nearest_mean.
        roles: Which linear maps carry the matrices.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - The penalty's form is not known and ours: the updates' squared cosine, <D_t, D_i> = tr(R_t^T S^2 R_i).
        - R begins at zero, which has a gradient, as U, S and V are not zero.
        - The update is scaled by alpha / rank, and has no dropout.
        - k-means begins far apart (k-means++), seeded by the task's name. A cluster that loses all of its rows takes
          the row that is farthest from its own mean.
        - The learning rate without a setting is the published 3e-4, which goes with 30 epochs. Few epochs need more.
        - Nothing abstains: an input far from all tasks is given to the nearest one.
        - An encoder-only host's head: all labels compete, in training as frozen rows.

    Sources:
        Latent-LoRA (arXiv 2607.23837), Eqs. 5, 11-15, as quoted by others; no code is released.
    """
    routing = MixtureRouting(
        PooledStates("words", text=text),
        components=components,
        iterations=iterations,
        around=around,
        epsilon=epsilon,
        scale=scale,
    )
    return Method(
        title="Latent-LoRA (matrices between singular vectors, blended by Gaussian mixtures)",
        sources=("arXiv 2607.23837",),
        adapter=Latent(rank=rank, alpha=alpha, roles=roles, modules=modules),
        penalties=(LatentOrthogonality(orthogonality),),
        routing=routing,
    )
