"""Ridge regression on random features of the frozen host."""

from typing import Literal

from nacre.adapters.no_adapter import NoAdapter
from nacre.method import Method, method
from nacre.models.pooled_states import Layer, PooledStates, Pooling, Text
from nacre.parts.random_ridge import RandomRidge


@method
def ridge(
    *,
    dimension: int | None = 2048,
    lam: float = 0.1,
    scale: Literal["relative", "absolute"] = "relative",
    text: Text = "bare",
    layer: Layer = -1,
    pooling: Pooling = "mean",
) -> Method:
    """Least squares from fixed random features of the frozen host to one-hot classes. Nothing is trained.

    A class p is a pair of a task and one of its labels. After a task its training rows are read once and summed; no row
    is kept. Task after task gives what all rows at once would give.

    Equations:
        z = pooled states of the bare host; h = max(z R, 0), R [d, D] standard normal, drawn once by the seed
        G = sum over all rows h h^T; Q_p = sum over the rows of p h
        W = (G + lambda I)^-1 Q; answer = label of argmax_p h . W_p

    Args:
        dimension: D, the number of random features; null for the features z themselves, without R and max.
        lam: lambda.
        scale: lambda is 'relative': lam times the mean of G's diagonal; or 'absolute': lam.
        text: What is read, see nearest_mean.
        layer: See nearest_mean.
        pooling: Over the tokens, see nearest_mean.

    Assumed:
        - The recursive form (A <- A - A H^T (I + H A H^T)^-1 H A, W <- W + A H^T (Y - H W)) is not offered: it gives
          the same W (1e-7, in the tests) and depends on the order of rows by rounding, which sums do not.
        - lambda is relative, because sums of features have any scale and grow with the rows; published are 0.1
          (absolute, D = 8192), 100 (absolute, D = 10,000) or a choice by held-out rows.
        - No intercept, and no weights for rare classes: it follows the majority where classes are of unlike size.
        - In a decoder-only host the mean leaves out the first token.
        - Answers are among all labels learned so far; with decode=labels and candidates=true_task among those of the
          row's task.

    Sources:
        ACIL (arXiv 2205.14922); RanPAC (arXiv 2307.02251); Any-SSR's routing has the same form.
    """
    return Method(
        title="Ridge regression on random features",
        sources=("arXiv 2205.14922", "arXiv 2307.02251"),
        adapter=NoAdapter(),
        readout=RandomRidge(states=PooledStates(layer, pooling, text), dimension=dimension, lam=lam, scale=scale),
    )
