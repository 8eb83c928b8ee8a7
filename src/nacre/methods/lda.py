"""Linear discriminant analysis on frozen features, by exact running sums."""

from typing import Literal

from nacre.adapters.no_adapter import NoAdapter
from nacre.method import Method, method
from nacre.models.pooled_states import Layer, PooledStates, Pooling, Text
from nacre.parts.class_evidence import Answer
from nacre.parts.linear_discriminant import LinearDiscriminant
from nacre.parts.shared_gaussians import Covariance, Prior


@method
def lda(
    *,
    shrinkage: float | Literal["oas"] = "oas",
    covariance: Covariance = "rows",
    prior: Prior = "pairs",
    unit: Literal["label", "task"] = "label",
    answer: Answer = "best_pair",
    text: Text = "bare",
    layer: Layer = -1,
    pooling: Pooling = "mean",
) -> Method:
    """A class is a Gaussian on the frozen host's features, and all share one covariance. Nothing is trained.

    A class p is a pair of a task and one of its labels. After a task its training rows are read once and summed; no row
    is kept. What is stored is a mean for each pair and one covariance, whatever the number of tasks.

    Equations:
        z = pooled states of the bare host; n_p, m_p, V_p = number, mean and scatter of the rows of p
        rows: C = sum_p V_p / (N - P); tasks: C = mean over tasks t of sum_{p in t} V_p / (N_t - P_t); classes: C = mean
        over p of V_p / (n_p - 1)
        S = (1 - g) C + g tr(C) / d I
        score_p = w_p . z - w_p . m_p / 2 + log pi_p, w_p = S^-1 m_p; answer = label of argmax_p score_p
        oas: g = min(1, (a + u^2) / ((N + 1) (a - u^2 / d))), a = mean of all C_ij^2, u = tr(C) / d

    Args:
        shrinkage: g in [0, 1], or 'oas'. With 1 and equal priors it is nearest_mean.
        covariance: How the classes' covariances are pooled: 'rows', 'tasks' or 'classes'.
        prior: pi: equal for all 'pairs', for all 'tasks' and within them for their labels, or by 'counts' of rows.
        unit: A Gaussian for each 'label' of a task; or first one for each 'task', and then the labels of the best one.
        answer: Of a label that several tasks have: the posterior of its 'best_pair', or their 'sum'.
        text: What is read, see nearest_mean.
        layer: See nearest_mean.
        pooling: Over the tokens, see nearest_mean.

    Assumed:
        - The sums have no rounding, so that any order of tasks and rows gives the same bits; see docs/decisions.md.
        - Pooled over 'tasks', a task's covariance is that around its labels' means, with N_t - P_t degrees of freedom.
        - Without two rows of one class there is no covariance; the identity stands for it.
        - A task learned again adds its rows; a mean over tasks or classes then counts it once more.
        - In a decoder-only host the mean leaves out the first token.
        - Answers are among all labels learned so far; with decode=labels and candidates=true_task among those of the
          row's task.

    Sources:
        Fisher's discriminant; streaming as in Hayes and Kanan 2020 (arXiv 1909.01520); OAS: Chen et al. 2010 (arXiv
        0907.4698); CoDe-LoRA's router (arXiv 2610.08312) is unit=task, shrinkage=0.01, prior=tasks.
    """
    return Method(
        title="Linear discriminant analysis",
        sources=("arXiv 1909.01520", "arXiv 0907.4698"),
        adapter=NoAdapter(),
        readout=LinearDiscriminant(
            states=PooledStates(layer, pooling, text),
            shrinkage=shrinkage,
            covariance=covariance,
            prior=prior,
            unit=unit,
            answer=answer,
        ),
    )
