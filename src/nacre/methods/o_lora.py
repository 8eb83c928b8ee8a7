"""O-LoRA: a LoRA a task, pushed to be orthogonal to the earlier ones."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.orthogonality import Orthogonality
from nacre.parts.penalty import NormPenalty
from nacre.per_task import PerTask


@method
def o_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    orthogonality: PerTask = 0.5,
    shrinkage: PerTask = 0.0,
    norm: Literal["absolute", "squared"] = "absolute",
    side: Literal["input", "output", "both"] = "input",
    reduce: Literal["sum", "mean"] = "sum",
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """Orthogonal LoRAs: a LoRA per task, pushed to use other directions than the earlier ones.

    Earlier LoRAs stay frozen and are added (IncLoRA). There is no stored data and no task identity at test.

    Equations:
        h = W x + s (B_t A_t + sum_{i<t} B_i A_i) x, s = alpha / rank
        loss = task loss + lambda_1 sum over sites and i < t of sum |A_i A_t^T|
            + lambda_2 sum over the new tensors of ||A_t||_2 + ||B_t||_2 (norms not squared)
        On the first task the lambda_1 term is 0.

    Args:
        rank: Dimensions r of each LoRA.
        alpha: The LoRAs' scale s is alpha / rank.
        dropout: On the new LoRA's input.
        orthogonality: lambda_1; a list gives one for each task, as for the released order 6.
        shrinkage: lambda_2; a list gives one for each task.
        norm: 'absolute' sums absolute values, as released; 'squared' squares, as in the paper's equation.
        side: Which factor: 'input' is A (the site's input side), as released; 'output' is B, which is how the paper's
            notation can be read (it writes the update as A B with A first); 'both' takes the two together.
        reduce: 'sum' over the matrices, as released, or their 'mean'.
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - The same lambdas on orders 4 and 5, for which no script was released.

    Note:
        The release drops the same entries of x for the old LoRAs and the new one. Here the frozen sum is folded
        into a working copy of the weight and sees x as it is, so in training the past's outputs are without
        dropout's noise; at test there is no difference.

        Orthogonal parameters do not make earlier outputs stay: B_t A_t x is 0 only for x orthogonal to A_t's rows
        (AM-LoRA, appendix 7.4; tests/methods/test_counterexamples.py).

    Sources:
        O-LoRA (arXiv 2310.14152), section 3; its code, src/uie_trainer_lora.py, lines 90 to 109; lambda_1 0.5,
        lambda_2 0, r 8, alpha 32, dropout 0.1, query and value as in its scripts for orders 1 to 3.
    """
    adapter = LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules)
    return Method(
        title="O-LoRA (orthogonal LoRAs)",
        sources=("arXiv 2310.14152",),
        adapter=adapter,
        penalties=(Orthogonality(orthogonality, norm, side, reduce), NormPenalty(shrinkage)),
    )
