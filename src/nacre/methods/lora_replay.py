"""LoRAReplay: one LoRA for the whole stream, with a few rows of every past task mixed in."""

from dataclasses import replace

from nacre.method import Method, method
from nacre.methods.seq_lora import seq_lora
from nacre.models.roles import Role
from nacre.modifiers.replay import replay as with_replay


@method
def lora_replay(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    fraction: float = 0.02,
    per_task: int | None = None,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """One LoRA for the whole stream, trained with stored rows of all past tasks; the host is frozen.

    Equations:
        h = W x + s B A x, s = alpha / rank
        (A, B)_t = train((A, B)_{t-1}, D_t + M_1 + ... + M_{t-1}), shuffled together
        M_i a random sample of D_i without replacement, drawn once, |M_i| = max(1, floor(fraction |D_i|))

    Args:
        rank: Dimensions r of the update.
        alpha: The update's scale s is alpha / rank.
        dropout: On the LoRA's input.
        fraction: Share of a task's training rows that is kept; 0 keeps none.
        per_task: Number of rows kept of each task, instead of a share.
        roles: Which linear maps carry it.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - Rows are mixed one by one into the epoch, and a kept sample is drawn once. MIGU's release draws anew for each
          later task, for which all past data would have to be kept. Its dropout is 0.05; here it is 0.1, as in all LoRA
          methods.

    Sources:
        MIGU (arXiv 2406.17245), section 4.1 (LoRAReplay, 2 % of past tasks).
    """
    lora = seq_lora(rank=rank, alpha=alpha, dropout=dropout, roles=roles, modules=modules)
    return replace(
        with_replay(lora, fraction=fraction, per_task=per_task),
        title="LoRAReplay (sequential LoRA with stored rows)",
        sources=("arXiv 2406.17245, 4.1",),
    )
