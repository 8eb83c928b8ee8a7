"""De-LoRA: a LoRA of its own for each task, and one Gaussian a task says which task an input is of."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.method import Method, method
from nacre.models.pooled_states import Layer, PooledStates, Text
from nacre.models.roles import Role
from nacre.parts.discriminant_routing import DiscriminantRouting


@method
def de_lora(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    shrinkage: float | Literal["oas"] = 0.01,
    support: int | None = 1000,
    text: Text = "bare",
    layer: Layer = -1,
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """CoDe-LoRA's experts and router without its branch: the LoRA of the likeliest task answers alone.

    Nothing is shared between tasks but the pretrained model. After a task, the bare model reads some of its training
    rows once more. At test it reads every input before the answer, and the task is inferred; no row is kept.

    Equations:
        z(x) = mean over the tokens of the text of the bare model's last hidden states
        S = (1 - g) C + g tr(C) / d I, C = (sum over tasks of the scatter of their rows) / (N - T)
        task of x = argmax_i w_i . z - w_i . m_i / 2, w_i = S^-1 m_i, m_i the mean of task i's rows
        LoRA i alone: h = W x + s B_i A_i x, s = alpha / rank

    Args:
        rank: Dimensions r of each LoRA; 8 as published.
        alpha: The LoRAs' scale s is alpha / rank; 32 as published.
        dropout: On the input of the LoRA that is trained; 0.1 as released.
        shrinkage: g; 0.01 as released. 'oas': by the oracle approximating shrinkage.
        support: Rows of a task that the router reads, drawn by the seed; 1000 as released. null: all.
        text: What the router reads: the text alone ('bare', as released), or the whole 'prompt'.
        layer: Of the states; 0 is the embedding, -1 the last layer's output.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - The released router, not that of the paper's text (cosines to prototypes of ten rows, and the branch below a
          similarity of 0.75): the published rows were made with it.
        - In a decoder-only host the first token counts, as released.
        - Answers are written, or chosen among labels, as `decoding` says; nothing of a row's true task is used.
        - Sums are exact, so that the order of tasks changes no bit.

    Sources:
        CoDe-LoRA (EMNLP 2026, arXiv 2610.08312), its row De-LoRA, and its released settings.
    """
    return Method(
        title="De-LoRA (a LoRA for each task, told by one Gaussian a task)",
        sources=("arXiv 2610.08312",),
        adapter=LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules),
        routing=DiscriminantRouting(states=PooledStates(layer, text=text), shrinkage=shrinkage, support=support),
    )
