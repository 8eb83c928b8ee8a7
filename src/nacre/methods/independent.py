"""PerTaskFT: a copy of the host for each task."""

from typing import Literal

from nacre.adapters.adapter import Adapter
from nacre.adapters.full import Full
from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.parts.curriculum import Independent


@method
def independent(
    *, train: Literal["host", "lora"] = "host", rank: int = 8, alpha: float = 32.0, dropout: float = 0.1
) -> Method:
    """A fresh copy of the host for each task; it needs the task's identity at test.

    Equations:
        theta_t = train(theta_0, D_t); task t is answered by theta_t.

    Args:
        train: 'host' trains all parameters, as published; 'lora' a LoRA on query and value.
        rank: Dimensions of that LoRA.
        alpha: Its scale is alpha / rank.
        dropout: On its input.

    Note:
        A copy never changes again, so its score stands in all later rows of the matrix and forgetting is 0 by
        construction. No copy answers a task it has not learned, so forward transfer is undefined.

    Sources:
        AM-LoRA section 3.2 (PerTaskFT).
    """
    adapter: Adapter = Full() if train == "host" else LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="shared")
    return Method(
        title="PerTaskFT (independent models)",
        sources=("arXiv 2409.19611, 3.2",),
        adapter=adapter,
        curriculum=Independent(),
    )
