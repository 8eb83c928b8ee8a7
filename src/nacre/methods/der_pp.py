"""DER++: full fine-tuning, with stored rows that keep their logits and are learned again."""

from dataclasses import replace
from typing import Literal

from nacre.method import Method, method
from nacre.methods.seq_ft import seq_ft
from nacre.modifiers.der import der as with_der
from nacre.per_task import PerTask


@method
def der_pp(
    *,
    alpha: PerTask = 0.3,
    beta: PerTask = 0.5,
    capacity: int = 500,
    rows: int = 16,
    distance: Literal["mean", "sum"] = "mean",
    top_k: int | None = None,
) -> Method:
    """Dark experience replay: full fine-tuning, with a reservoir of rows and of the logits that they had.

    Rows go into the reservoir step by step, so that training needs no task boundaries.

    Equations:
        loss = CE(x, y) + alpha ||z(x') - z'||^2 + beta CE(x'', y'')
        (x', z') and (x'', y'') are two independent draws of `rows` rows from the reservoir M, |M| <= capacity. z' are
        the logits of the target tokens in the step in which x' passed, before its update, with dropout.
        Row number i (from 0) of the stream is stored at i if i < capacity, else at j uniform in {0..i} if j < capacity.

    Args:
        alpha: Weight of the stored logits; a list gives one for each task. 0 leaves experience replay (ER).
        beta: Weight of the stored labels, likewise; 0 leaves DER.
        capacity: Rows in the reservoir.
        rows: Rows of each draw.
        distance: 'mean' over the logits of a token, as released; 'sum' over them, as printed: then the same weight
            counts as many times as there are logits.
        top_k: Logits kept of each target token, the largest ones, and the logarithm of the others' summed exponentials,
            which takes the place of their logits in the distance; None keeps all. This variant is ours.

    Assumed:
        - Of a language model z are the logits of the target tokens, behind the target's own tokens before them; of a
          masked text those of the hidden tokens, the same ones hidden at replay. MIGU's table says no more than how
          many tokens are stored a domain, and the code it took DER++ from does not run.
        - alpha, beta and capacity are those of the released configuration (for images); draws are as large as the
          default batch.
        - Both terms are means over the target tokens of their draw. A class of an encoder-only host that did not exist
          when a row was stored has no part in its distance.
        - Rows pass as often as they are trained on, once in every epoch, as released.

    Note:
        A step computes up to 2 `rows` rows more. Stored logits of a large vocabulary take much memory (a token of
        Llama's: 128 kB in float32): `top_k` keeps a few.

    Sources:
        Buzzega et al. 2020 (arXiv 2004.07211), Eq. 6 and Algorithm 2; MIGU (arXiv 2406.17245), Table 3 (DER++).
    """
    dark = with_der(seq_ft(), alpha=alpha, beta=beta, capacity=capacity, rows=rows, distance=distance, top_k=top_k)
    return replace(dark, title="DER++ (dark experience replay)", sources=("arXiv 2004.07211",))
