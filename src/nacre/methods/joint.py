"""MTL: all tasks at once, the usual upper bound."""

from typing import Literal

from nacre.adapters.adapter import Adapter
from nacre.adapters.full import Full
from nacre.adapters.low_rank import LowRank
from nacre.method import Method, recorded
from nacre.parts.curriculum import Joint


@recorded
def joint(
    *, train: Literal["host", "lora"] = "host", rank: int = 8, alpha: float = 32.0, dropout: float = 0.1
) -> Method:
    """One model trained on the union of all tasks' rows, mixed together. Not continual: it needs all data at once.

    Equations: theta = train(theta_0, D_1 + ... + D_T).

    train: 'host' trains all parameters, as published; 'lora' a LoRA on query and value, for a bound at the same
    capacity as the LoRA methods. rank, alpha, dropout: of that LoRA.

    Only the matrix's last row exists, so learning accuracy, forgetting and both transfers are undefined.

    Sources: AM-LoRA section 3.2 (MTL).
    """
    adapter: Adapter = Full() if train == "host" else LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="shared")
    return Method(title="MTL (joint training)", sources=("arXiv 2409.19611, 3.2",), adapter=adapter, curriculum=Joint())
