"""SinLoRA: one LoRA for the whole stream."""

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.roles import Role


@method
def seq_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """One LoRA for the whole stream, trained on each task in turn and never reset; the host is frozen.

    Equations:
        h = W x + s B A x, s = alpha / rank
        (A, B)_t = train((A, B)_{t-1}, D_t)

    Args:
        rank: Dimensions r of the update.
        alpha: The update's scale s is alpha / rank.
        dropout: On the LoRA's input.
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.

    Sources:
        AM-LoRA section 3.2 (SinLoRA), O-LoRA (SeqLoRA); r 8, alpha 32, dropout 0.1, query and value as there.
    """
    adapter = LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="shared", roles=roles, modules=modules)
    return Method(title="SinLoRA (sequential LoRA)", sources=("arXiv 2409.19611, 3.2",), adapter=adapter)
