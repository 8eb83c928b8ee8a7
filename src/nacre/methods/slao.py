"""SLAO: one LoRA for ever, restarted orthonormally and averaged over the tasks."""

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.averaged_lora import AveragedLora


@method
def slao(
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.1,
    power: float = 0.5,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """SLAO: a single LoRA, whose B is averaged over the tasks and whose A is the newest task's.

    What is stored stays the same whatever the number of tasks: A, the B that answers and the B that was trained last.
    There is no stored data and no task identity at test.

    Equations:
        Task 1 is a LoRA's. For task i >= 2: A_{i-1}^T = Q R, the diagonal of R positive;
        A begins as Q^T, so that A A^T = I, and B as B_{i-1}, the last one as trained;
        after training B_m <- B_m + (B_i - B_m) / sqrt(i), A_m = A_i
        Answers: h = W x + s B_m A_m x, s = alpha / rank

    Args:
        rank: Dimensions r of the update.
        alpha: The update's scale s is alpha / rank.
        dropout: On the LoRA's input.
        power: p in 1 / i^p; 0.5 is the paper's, 1 weighs all tasks alike, 0 keeps the last alone.
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - alpha, dropout and the optimizer, which are not given: 16, 0.1 as in O-LoRA's pipeline, and AdamW, anew for
          each task.

    Note:
        A begins with orthonormal rows inside the last task's row space, not orthogonal to it, and B_{i-1} Q^T is not
        the function that was learned: that would need B_{i-1} R^T. The B's that are averaged belong to different A's.
        1 / sqrt(i) favors recent tasks: of fifteen, the last has a weight of 0.26 and the first one of 0.0007.

    Sources:
        SLAO (arXiv 2512.23017), Algorithm 1.
    """
    adapter = LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="shared", roles=roles, modules=modules)
    return Method(
        title="SLAO (a single LoRA, averaged)",
        sources=("arXiv 2512.23017",),
        adapter=adapter,
        start=AveragedLora(power),
    )
