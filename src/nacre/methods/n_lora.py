"""N-LoRA: a LoRA a task, its update kept sparse so that tasks collide less."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.roles import Role
from nacre.parts.update_l1 import UpdateL1
from nacre.per_task import PerTask


@method
def n_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    strength: PerTask = 0.4,
    form: Literal["update", "released"] = "update",
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """LoRAs that collide less: one per task, all of them summed, the new one's update kept sparse.

    Earlier LoRAs stay frozen and are added (IncLoRA). There is no stored data and no task identity at test.

    Equations:
        h = W x + s (B_t A_t + sum_{i<t} B_i A_i) x, s = alpha / rank
        loss = task loss + strength * sum over sites of sum |B_t A_t|, without the scale s.

    Args:
        rank: Dimensions r of each LoRA.
        alpha: The LoRAs' scale s is alpha / rank.
        dropout: On the new LoRA's input.
        strength: lambda; a list gives one for each task. The released scripts choose it by the order of tasks: 0.4 for
            orders 1 to 3, 0.4 or 1.2 by task for order 4, 0.55 for order 5 and 1.8 for order 6.
        form: 'update' is B A, the update itself, as in the paper; 'released' is A B, an r x r matrix that says nothing
            about the update's entries, and that exists only where a map's input and output have one size.
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - It counts on the first task, too: with its update later ones may collide.

    Note:
        The release adds the term to each micro-batch's loss, so that accumulating gradients multiplies it; here it
        counts once a step.

    Sources:
        N-LoRA (arXiv 2410.10179); its code, src/uie_trainer_lora.py, lines 90 to 104, for the other form.
    """
    adapter = LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules)
    return Method(
        title="N-LoRA (LoRAs with sparse updates)",
        sources=("arXiv 2410.10179",),
        adapter=adapter,
        penalties=(UpdateL1(strength, form),),
    )
