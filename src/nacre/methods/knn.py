"""Nearest neighbors among a bounded store of the frozen host's features."""

from typing import Literal

from nacre.adapters.no_adapter import NoAdapter
from nacre.method import Method, method
from nacre.models.pooled_states import Layer, PooledStates, Pooling, Text
from nacre.parts.class_evidence import Answer
from nacre.parts.nearest_neighbors import NearestNeighbors


@method
def knn(
    *,
    k: int = 10,
    per_pair: int | None = 50,
    distance: Literal["cosine", "euclidean"] = "cosine",
    tau: float = 0.05,
    precision: Literal["float16", "float32"] = "float16",
    answer: Answer = "best_pair",
    text: Text = "bare",
    layer: Layer = -1,
    pooling: Pooling = "mean",
) -> Method:
    """The nearest kept rows vote, by their features in the frozen host. Nothing is trained.

    Of each pair of a task and a label a bounded number of rows is kept, as vectors. Vectors are data, too: texts can be
    told from them, and the method counts as one with a memory.

    Equations:
        z = pooled states of the bare host
        s(x, y) = cos(z(x), z(y)), or -||z(x) - z(y)||^2
        votes of p = sum over those of the k nearest kept rows y that are p's of exp(s(x, y) / tau)
        answer = label of the p with the most votes

    Args:
        k: How many rows vote.
        per_pair: m, how many rows of each pair are kept, at most; null: all.
        distance: The similarity s: 'cosine' or 'euclidean'.
        tau: The votes' temperature.
        precision: In which vectors are kept.
        answer: Of a label that several tasks have: the votes of its 'best_pair', or their 'sum'.
        text: What is read, see nearest_mean.
        layer: See nearest_mean.
        pooling: Over the tokens, see nearest_mean.

    Assumed:
        - k, m and tau are nobody's published settings. tau is for the cosine; squared distances have any scale.
        - Which m rows are kept is drawn by the seed and their content, each pair for itself: the same rows in any
          order, and small tasks keep theirs.
        - Of equally similar rows those of the first pair in sorted order vote.
        - Vectors are not whitened.
        - In a decoder-only host the mean leaves out the first token.
        - Answers are among all labels learned so far; with decode=labels and candidates=true_task among those of the
          row's task.

    Sources:
        Fix and Hodges 1951; the weighted vote as in Wu et al. 2018 (arXiv 1805.01978).
    """
    return Method(
        title="Nearest neighbors",
        sources=("arXiv 1805.01978",),
        adapter=NoAdapter(),
        readout=NearestNeighbors(
            states=PooledStates(layer, pooling, text),
            k=k,
            per_pair=per_pair,
            distance=distance,
            tau=tau,
            precision=precision,
            answer=answer,
        ),
    )
