"""ELLA: a LoRA a task, kept small where the earlier tasks' updates are large."""

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.past_energy import PastEnergy
from nacre.per_task import PerTask


@method
def ella(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    strength: PerTask = 100.0,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """ELLA: a new task's update is kept small where earlier updates are large; elsewhere it is free.

    Each task has a LoRA; all of them are summed, and earlier ones stay frozen. There is no stored data and no task
    identity at test.

    Equations:
        h = W x + (D_t + P) x, D_t = s B_t A_t, P = sum_{i<t} s B_i A_i, s = alpha / rank
        loss = task loss + strength * sum over sites of ||D_t * P||_F^2, * entry by entry; 0 on the first task

    Args:
        rank: Dimensions r of each LoRA.
        alpha: The LoRAs' scale s is alpha / rank.
        dropout: On the new LoRA's input; the penalty knows none.
        strength: lambda; a list gives one for each task. Choose it on validation rows of the second task: the term is
            a sum of fourth powers of small numbers, so that its size says little before.
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - lambda: the paper's is not known. 100 makes the term two hundredths of the loss at the end of the second task
          of order 1, with 500 rows and `minilm-b2b`.
        - Sites are summed, P holds all earlier tasks and is never cut, and both factors are drawn anew for each task.
        - The factors of P are kept instead of P, which is as large as the weights; P is formed once a task. They grow
          with the tasks.
        - alpha, dropout and the learning rate as in O-LoRA's pipeline.

    Note:
        The paper's D = G / (1 + lambda E^2), E = |P| + epsilon, is the minimum of a quadratic model of the loss, not a
        step of training.

    Sources:
        ELLA (arXiv 2601.02232).
    """
    adapter = LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules)
    return Method(
        title="ELLA (small where the past is large)",
        sources=("arXiv 2601.02232",),
        adapter=adapter,
        penalties=(PastEnergy(strength),),
    )
