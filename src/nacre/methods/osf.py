"""OSF: fine-tuning at full rank among the small singular values of the weights."""

from typing import Literal

from nacre.adapters.spectral import Spectral
from nacre.method import Method, method
from nacre.models.roles import ROLES, Role
from nacre.parts.protected_spectrum import ProtectedSpectrum
from nacre.per_task import PerTask


@method
def osf(
    *,
    share: PerTask = 0.5,
    project: Literal["parameters", "gradients"] = "parameters",
    roles: tuple[Role, ...] = ROLES,
    modules: tuple[str, ...] = (),
) -> Method:
    """OSF: each weight's small singular triplets are fine-tuned at full rank, outside the span of the large ones.

    About half of the weights of attention and feed-forward are trained, and nothing else. Before each task the weights
    as they are then are decomposed anew; old data and the task at test are not needed. What is stored stays the same,
    about twice the weights.

    Equations:
        W = U_h S_h V_h + U_l S_l V_l, the k largest singular values and the others, of the weight after the last task
        h = (U_h S_h V_h + U_l S_l V_l) x; U_l, S_l and V_l are trained
        grad U_l <- (I - U_h U_h^T) grad U_l, grad V_l <- grad V_l (I - V_h^T V_h)
        after the step U_l <- (I - U_h U_h^T) U_l, V_l <- V_l (I - V_h^T V_h)

    Args:
        share: k over the number of singular values, rounded down; a list gives one for each task, as it should grow
            with what is to be kept: 0.3, 0.5, 0.7 in PEFT's example.
        project: 'parameters' as above; 'gradients' leaves out the last line, as PEFT does: Adam's steps then leave the
            directions that they should keep to.
        roles: Which linear maps are split.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - The paper's share of each layer, from how little the layer turns its inputs, is left out, as in PEFT: it is
          defined for maps of one size only, and its normalization is not given. `share` is the same for all maps.
        - Biases, norms and embeddings stay as they are.
        - The learning rate is the paper's for a T5, 5e-5.

    Sources:
        OSF (arXiv 2504.07097); PEFT's tuner of this name, peft/tuners/osf.
    """
    return Method(
        title="OSF (full rank among small singular values)",
        sources=("arXiv 2504.07097",),
        adapter=Spectral(share=share, roles=roles, modules=modules),
        gradient_rules=(ProtectedSpectrum(project),),
    )
