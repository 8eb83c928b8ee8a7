"""MTL: all tasks at once, the usual upper bound."""

from typing import Literal

from nacre.adapters.adapter import Adapter
from nacre.adapters.full import Full
from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.parts.curriculum import Joint


@method
def joint(
    *, train: Literal["host", "lora"] = "host", rank: int = 8, alpha: float = 32.0, dropout: float = 0.1
) -> Method:
    """One model trained on the rows of all tasks together, shuffled; the usual upper bound.

    It is not continual: it needs all data at once.

    Equations:
        theta = train(theta_0, D_1 + ... + D_T).

    Args:
        train: 'host' trains all parameters, as published; 'lora' a LoRA on query and value, for a bound at the same
            capacity as the LoRA methods.
        rank: Dimensions of that LoRA.
        alpha: Its scale is alpha / rank.
        dropout: On its input.

    Note:
        Only the matrix's last row exists, so learning accuracy, forgetting and both transfers are undefined.

    Sources:
        AM-LoRA section 3.2 (MTL).
    """
    adapter: Adapter = Full() if train == "host" else LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="shared")
    return Method(title="MTL (joint training)", sources=("arXiv 2409.19611, 3.2",), adapter=adapter, curriculum=Joint())
