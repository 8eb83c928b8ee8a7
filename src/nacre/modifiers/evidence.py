"""`+evidence`: sums over the tasks' rows, one Gaussian a label, answer together with the host."""

from typing import Literal

from nacre.functional.gaussian_evidence import Along
from nacre.method import Method, modifier
from nacre.models.pooled_states import Layer
from nacre.parts.class_evidence import Answer
from nacre.parts.evidence_offset import EvidenceOffset
from nacre.parts.evidence_sums import SumsSettings, Views
from nacre.parts.label_evidence import LabelEvidence
from nacre.per_task import PerTask, all_values


@modifier
def evidence(
    method: Method,
    *,
    host_weight: float | Literal["chosen"] = "chosen",
    offset: PerTask = 0.0,
    views: Views = "both",
    answer: Answer = "best_pair",
    pairs: bool = True,
    layer: Layer = -1,
    ridge: float = 0.3,
    along: Along = "diagonal",
) -> Method:
    """A label is answered by the host as it was taught, and by one Gaussian a label on the frozen host's states.

    The Gaussians are running sums over the rows of each task, which are read twice in the bare host before the task is
    learned: as prompts, and as texts alone. No row is kept, and nothing of the sums is trained.

    Equations:
        z_v(x) = mean over the tokens of the bare host's states of view v: the prompt, or the text alone
        e_v(k) = -1/2 (z_v - m_k)^T S_v^-1 (z_v - m_k), k a pair of a task and a label, S_v = W_v + c diag(W_v)
        e(y) = max over the pairs k with label y of (sum of e_v(k) over the views) / T
        of a task whose texts have two parts u and v: e(k) + log(L p(k)), p by a Gaussian a label on (|u - v|, u * v)
        loss = task loss + offset * (log sum_y p_host(y | x) exp(e(y)) - e(target)), y the task's labels, e held out:
            with an offset of 1 the labels' cross-entropy under both opinions
        answer = argmax_y w log p_host(y | x) + e(y)
        T = the temperature of 2^-2 .. 2^6 at which rows that the sums do not hold are the least surprising
        w = of 0, 1/8, 1/4 .. 8, the one at which the task's validation rows are the least surprising

    Args:
        method: The method to modify.
        host_weight: w; 'chosen': as above, after each task, for the rows that the sums take to be of that task. 0: the
            evidence answers alone.
        offset: How far the host is trained to say what the sums do not; a list gives one for each task. It takes one
            more pass a row.
        views: Read the 'prompt', the 'bare' text, or 'both'.
        answer: Of a label that several tasks have: the evidence of its 'best_pair', or their 'sum'.
        pairs: Whether the two parts of a task's texts are compared, where every text has two lines or more.
        layer: Of the states; 0 is the embedding, -1 the last layer's output.
        ridge: c, which keeps the covariance invertible.
        along: 'diagonal', as above; 'identity': S_v = W_v + c tr(W_v) / d I.

    Assumed:
        - With decode=labels and candidates=true_task the labels of the row's task compete, with candidates=union or
          decode=free all that were learned so far: no row's task is known then. A task without labels is answered by
          the host alone.
        - Held-out rows of a task are its training rows, fifth by fifth; T is that of all tasks together, each as it was
          measured when it was learned.
        - At most 100 validation rows of a task are read, and not kept. Where there are none, w is 1.
        - The second part is a text's last line. How much its comparison counts is chosen on held-out rows, too; it says
          nothing of which task a row is of.
        - In a decoder-only host the first token is left out of the mean: its state may outweigh all others.

    Sources:
        Own.
    """
    sums = SumsSettings(layer=layer, ridge=ridge, along=along)
    product = method.with_readout(LabelEvidence(sums, views, host_weight, answer, pairs=pairs))
    return product.with_batch_term(EvidenceOffset(offset, sums, views)) if any(all_values(offset)) else product
