"""nacre's own learner: evidence by exact sums, a LoRA for each task beside it, and rows that no task fits."""

from typing import Literal

from nacre.adapters.low_rank import LowRank
from nacre.functional.gaussian_evidence import Along
from nacre.method import Method, method
from nacre.models.pooled_states import Layer
from nacre.models.roles import Role
from nacre.parts.abstention import Abstention
from nacre.parts.class_evidence import Answer
from nacre.parts.evidence_offset import EvidenceOffset
from nacre.parts.evidence_sums import SumsSettings, Views
from nacre.parts.gaussian_routing import GaussianRouting
from nacre.parts.label_evidence import LabelEvidence
from nacre.parts.start import Fresh
from nacre.parts.warm_start import WarmStart
from nacre.per_task import PerTask, all_values


@method
def nacre(
    *,
    rank: int = 8,
    alpha: float = 32.0,
    dropout: float = 0.1,
    host_weight: float | Literal["chosen"] = "chosen",
    offset: PerTask = 0.0,
    begin_with: Literal["held_out", "fresh", "nearest", "mean"] = "held_out",
    nearest: int = 3,
    abstain: bool = True,
    known_share: float = 0.99,
    agreement: float = 0.5,
    views: Views = "both",
    answer: Answer = "best_pair",
    pairs: bool = True,
    layer: Layer = -1,
    ridge: float = 0.3,
    along: Along = "diagonal",
    roles: tuple[Role, ...] = ("query", "value"),
    modules: tuple[str, ...] = (),
) -> Method:
    """What can be summed exactly is summed, and gradients learn the rest: a LoRA a task beside one Gaussian a label.

    The sums say which label a row has, which task it is of, and whether it is of any. No row is kept, no task is given
    at test, and a task costs the same whether it is the first or the fiftieth. It is inc_lora+gaussian_routing+evidence
    with +abstention and +warm_start.

    Equations:
        e(y), T, w as in +evidence: answer = argmax_y w log p_host(y | x) + e(y)
        p_host: h = W x + s B_i A_i x, i the likeliest task by the same sums (+gaussian_routing), s = alpha / rank
        a foreign row (+abstention): h = W x, and no evidence
        LoRA i begins afresh, as the nearest task's or as an average of the nearest ones' (+warm_start)

    Args:
        rank: Dimensions r of each LoRA.
        alpha: The LoRAs' scale s is alpha / rank.
        dropout: On the input of the LoRA that is trained.
        host_weight: w of +evidence; 'chosen' on validation rows. Where it is 0 the LoRA of a task is not asked.
        offset: Of +evidence, in training; a list gives one for each task.
        begin_with: Of +warm_start: 'held_out' lets validation rows decide; 'fresh' begins as usual.
        nearest: Of +warm_start: how many tasks are averaged, at most.
        abstain: Whether a foreign row is left to the bare host.
        known_share: Of +abstention: the share of a task's held-out rows that counts as near.
        agreement: Of +abstention: how probable it must be that prompt and text name the same task.
        views: Read the 'prompt', the 'bare' text, or 'both'.
        answer: Of a label that several tasks have: the evidence of its 'best_pair', or their 'sum'.
        pairs: Whether the two parts of a task's texts are compared, where every text has two lines or more.
        layer: Of the states; 0 is the embedding, -1 the last layer's output.
        ridge: c of +evidence, which keeps the covariance invertible.
        along: Where c is added, as in +evidence.
        roles: Which linear maps carry LoRAs.
        modules: Endings of the maps' names, instead of roles.

    Assumed:
        - That the frozen host's states tell tasks apart. Where they do not, the wrong LoRA answers; the evidence, which
          is about labels and not about tasks, does not depend on that.
        - A task without labels is answered by the likeliest task's LoRA.
        - Validation rows are read once, for w and for the start; without any w is 1 and the start fresh.

    Note:
        A task takes 8 d (d + 1) bytes for the scatters of both views, 16 d for each label, about 5 kB for its
        histograms, and its LoRA: 4 r (d_in + d_out) for each linear map in float32. At d = 384 the sums are 1.2 MB.
        Where its texts have two parts, it takes 8 d (2 d + 1) bytes more, and 16 d for each label.
        A row is read by the bare host once for each view, and by the likeliest LoRA where that counts: once, and once
        more if a label beyond the four with the most evidence may be the best. No other label is scored by the host.

    Sources:
        Own.
    """
    sums = SumsSettings(layer=layer, ridge=ridge, along=along)
    abstention = Abstention(known_share, agreement) if abstain else None
    return Method(
        title="nacre (exact evidence, and a LoRA for each task beside it)",
        sources=(),
        adapter=LowRank(rank=rank, alpha=alpha, dropout=dropout, slots="per_task", roles=roles, modules=modules),
        start=Fresh() if begin_with == "fresh" else WarmStart(sums, views, begin_with, nearest),
        routing=GaussianRouting(sums, views, abstention=abstention),
        readout=LabelEvidence(sums, views, host_weight, answer, abstention, pairs),
        batch_terms=(EvidenceOffset(offset, sums, views),) if any(all_values(offset)) else (),
    )
