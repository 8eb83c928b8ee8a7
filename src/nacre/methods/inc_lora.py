"""IncLoRA: a new LoRA for each task, all of them summed."""

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.roles import Role


@method
def inc_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """Incremental LoRA: one LoRA per task, all of them summed.

    Earlier LoRAs stay frozen and are added, in training and at test. There is no regularization.

    Equations:
        h = W x + s (B_t A_t + sum_{i<t} B_i A_i) x, s = alpha / rank (AM-LoRA Eqs. 2 and 3).

    Args:
        rank: Dimensions r of each update.
        alpha: The updates' scale s is alpha / rank.
        dropout: On the new LoRA's input; the frozen sum is folded into a working copy of the weight and sees the
            input as it is.
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.

    Sources:
        AM-LoRA sections 2.2 and 3.2 (IncLoRA); O-LoRA's code with both penalties at zero.
    """
    adapter = LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules)
    return Method(title="IncLoRA (incremental LoRA)", sources=("arXiv 2409.19611, Eqs. 2-3",), adapter=adapter)
