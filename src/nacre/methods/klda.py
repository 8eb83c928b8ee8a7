"""Linear discriminant analysis in a kernel's space, by random Fourier features of the frozen host."""

from typing import Literal

from nacre.adapters.no_adapter import NoAdapter
from nacre.method import Method, method
from nacre.models.pooled_states import Layer, PooledStates, Pooling, Text
from nacre.parts.class_evidence import Answer
from nacre.parts.fourier_kernel import FourierKernel
from nacre.parts.linear_discriminant import LinearDiscriminant
from nacre.parts.shared_gaussians import Prior


@method
def klda(
    *,
    dimension: int = 5000,
    gamma: float | Literal["median"] = "median",
    shrinkage: float | Literal["oas"] = "oas",
    prior: Prior = "pairs",
    answer: Answer = "best_pair",
    text: Text = "bare",
    layer: Layer = -1,
    pooling: Pooling = "mean",
) -> Method:
    """As lda, on random Fourier features: Gaussians in the space of a kernel. Nothing is trained.

    What is stored is a mean for each pair of a task and a label and one covariance [D, D], whatever the number of
    tasks: 200 MB at D = 5000.

    Equations:
        z = pooled states of the bare host; phi(z) = sqrt(2 / D) cos(Omega^T z + b)
        Omega: normal with variance 2 gamma, b: uniform in [0, 2 pi), drawn once by the seed
        phi(x) . phi(y) is about exp(-gamma ||x - y||^2); then lda on phi(z), pooled over rows

    Args:
        dimension: D, the number of random features.
        gamma: Of the kernel; 'median' is 1 / (2 median^2) of the distances between the first task's rows.
        shrinkage: g, see lda.
        prior: pi, see lda.
        answer: Of a label that several tasks have, see lda.
        text: What is read, see nearest_mean.
        layer: See nearest_mean.
        pooling: Over the tokens, see nearest_mean.

    Assumed:
        - gamma='median' is decided by the first task and kept, so that which task comes first matters; with a number
          any order gives the same bits.
        - Released code centers each batch with the mean after its update and without the cross term, which is exact
          only if a class comes whole, and inverts the scatter without dividing by the rows; here the covariance is
          exact, divided and shrunk.
        - The ensemble (KLDA-E) is not offered.

    Sources:
        KLDA (arXiv 2412.15571); Rahimi and Recht 2007 for the features.
    """
    return Method(
        title="Kernel linear discriminant analysis",
        sources=("arXiv 2412.15571",),
        adapter=NoAdapter(),
        readout=LinearDiscriminant(
            states=PooledStates(layer, pooling, text),
            shrinkage=shrinkage,
            prior=prior,
            answer=answer,
            kernel=FourierKernel(dimension, gamma),
        ),
    )
