"""`+migu`: in every step, only the output features with the largest magnitudes are updated."""

from typing import Literal

from nacre.errors import RecipeError
from nacre.features.magnitudes import CountedTokens
from nacre.features.masked_step import Masked
from nacre.functional.masking import Count
from nacre.method import Method, modifier
from nacre.models.roles import ROLES, Role
from nacre.parts.magnitude_mask import MagnitudeMask
from nacre.per_task import PerTask


@modifier
def migu(
    method: Method,
    *,
    threshold: PerTask = 0.7,
    mask: Masked = "gradient",
    first_task: bool = False,
    components: tuple[Role, ...] = ROLES,
    tokens: CountedTokens = "non_padding",
    count: Count = "floor",
    clusters: int = 0,
    cluster_by: Literal["weight", "magnitude"] = "weight",
    by: Literal["magnitude", "random", "weight", "gradient"] = "magnitude",
) -> Method:
    """In every step, only the output features with the largest magnitudes are updated.

    The idea: different tasks make different outputs large.

    Equations:
        For each linear map h = W x and each step:
        n_j = sum over the step's tokens of |h_j|
        k = d_out - floor(T d_out)
        M_j = 1 for the k largest n_j, else 0
        W_new = W - eta M (*) grad W, with M_j on row j of W and of the bias
        LoRA: A by the magnitudes of A x, B by those of the whole adapted map's output W x + s B A x

    Args:
        method: The method to modify.
        threshold: T, the share of each map's features that is left out; a list gives one for each task.
        mask: 'gradient' multiplies the gradient with M before clipping and AdamW, whose momentum and weight decay still
            move masked rows (released code); 'update' also keeps masked rows where they are (Eq. 6).
        first_task: Whether the first task is masked, too.
        components: Roles of the linear maps that are masked; the others are trained without a mask. A map that
            several roles share (GPT-2's query, key and value) is masked as one. Embeddings, norms and the head are
            never masked.
        tokens: Whose outputs count: 'non_padding' or 'all' (released code).
        count: How many features are kept: 'floor' as above, 'quantile' d_out - ceil(T (d_out - 1)) (released code).
        clusters: 0, or into how many groups each map's features are put by k-means when a task begins; whole groups are
            kept, by their mean n_j, until k features are reached.
        cluster_by: What makes features similar: their rows of W ('weight'), or their mean 'magnitude' on each of up
            to 64 of the task's rows.
        by: What decides, for comparison: 'magnitude', k features at 'random', the largest L1 norms of the rows of the
            'weight' (W + s B A for B), or of the 'gradient'.

    Assumed:
        - Eq. 5's "top 1 - t" means the d_out - t largest. Of equal magnitudes the lower row is kept.
        - The bias belongs to its row (the released code masks weights only).
        - Padding does not count, so that the mask does not depend on which rows share a batch.
        - Where each task has its own LoRA, the newest one is masked, B by the output with all earlier ones.
        - clusters: k-means for both kinds, groups scored by their mean; the paper names neither.
        - by: all three are taken anew in every step; the paper names no definition.

    Published settings:
        T = 0.7 for full fine-tuning, LoRA and IncLoRA, 0.4 with replay, 0.05 with O-LoRA; AdamW with weight decay 0.01;
        learning rate 1e-4 (full), 1e-3 (LoRA), constant; batch 64; LoRA rank 8, alpha 32, dropout 0.05.

    Sources:
        MIGU (arXiv 2406.17245), section 3, appendices A and E; its released code (mask, tokens, count).
    """
    if not (method.curriculum.continues or first_task):
        raise RecipeError(
            f"migu masks from the second task on, and in {method.display_name} every task is the first: set "
            "migu.first_task=true."
        )
    return method.with_gradient_rule(
        MagnitudeMask(threshold, mask, first_task, components, tokens, count, clusters, cluster_by, by)
    )
