"""Nearest class mean on frozen features."""

from typing import Literal

from nacre.adapters.no_adapter import NoAdapter
from nacre.method import Method, method
from nacre.models.pooled_states import Layer, PooledStates, Pooling, Text
from nacre.parts.nearest_mean import NearestMean


@method
def nearest_mean(
    *,
    rule: Literal["euclidean", "cosine"] = "euclidean",
    text: Text = "bare",
    layer: Layer = -1,
    pooling: Pooling = "mean",
) -> Method:
    """A class is the mean of its rows' features in the frozen host; the nearest class answers. Nothing is trained.

    A class p is a pair of a task and one of its labels. After a task its training rows are read once; no row is kept.

    Equations:
        z = pooled states of the bare host
        m_p = mean of z over the rows of p
        euclidean: answer = label of argmin_p ||z - m_p||
        cosine: u_p = normalized mean of z / ||z|| over the rows of p; answer = label of argmax_p cos(z, u_p)

    Args:
        rule: 'euclidean' or 'cosine': two different means.
        text: What is read: the row's text alone ('bare'), or the whole 'prompt', whose instruction and options nearly
            name the task.
        layer: Of the stack that reads, as Hugging Face counts: 0 the embedding, -1 the last one's output; or 'words',
            the word embeddings alone.
        pooling: Over the tokens: 'mean', 'first', 'last', or 'max' in each dimension.

    Assumed:
        - In a decoder-only host the mean leaves out the first token, whose state may outweigh all others.
        - A label that several tasks have is a class in each of them.
        - Answers are among all labels learned so far; with decode=labels and candidates=true_task among those of the
          row's task.
        - Texts are cut at optim.max_source_length tokens.

    Sources:
        Mensink et al. 2013, Rebuffi et al. 2017 (arXiv 1611.07725, without its memory); the cosine of normalized means
        as in CoDe-LoRA's prototype router (arXiv 2610.08312).
    """
    return Method(
        title="Nearest class mean",
        sources=("arXiv 1611.07725",),
        adapter=NoAdapter(),
        readout=NearestMean(states=PooledStates(layer, pooling, text), rule=rule),
    )
