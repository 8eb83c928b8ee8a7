"""DAS: full fine-tuning with soft masks on units that matter for what was known, and a contrast to it."""

from dataclasses import replace
from typing import Literal

from nacre.method import Method, method
from nacre.methods.seq_ft import seq_ft
from nacre.modifiers.soft_mask import soft_mask as with_soft_mask
from nacre.parts.knowledge_contrast import KnowledgeContrast
from nacre.per_task import PerTask


@method
def das(
    *,
    mask: Literal["gradient", "update"] = "gradient",
    importance_rows: int = 10_000,
    contrast: PerTask = 1.0,
    temperature: float = 0.05,
) -> Method:
    """Continual domain-adaptive pre-training with soft masks: units that matter for what was known are trained less.

    All parameters are trained on each task in turn. There is no stored data and no task identity at test; one number is
    kept for each unit. Units are attention heads, intermediate neurons and outputs of each feed-forward.

    Equations:
        I_u = mean over rows of |d L_impt / d g_u|, g_u = 1 a virtual gate on unit u
        L_impt = KL(f1(x) || f2(x)), two passes with different dropout, for general knowledge (before the first task);
        the task loss, for each task that was learned
        I <- |tanh((I - mean) / std)| over the units of one kind in one layer; I^(<=t) = max(I^(<=t-1), I^(t))
        grad of a unit's incoming weights and bias <- (1 - I_u^(<=t-1)) grad; the forward pass is not masked
        loss = task loss + contrast L_con
        L_con = -mean_n log exp(sim(h_n, h_n+) / T) / sum_m (exp(sim(h_n, h_m+) / T) + exp(sim(h_n, h_m^prev) / T))
        h, h+ the rows' mean last states in two passes with dropout, h^prev with units multiplied by I; sim the cosine

    Args:
        mask: 'gradient' masks what the optimizer reads, as released; AdamW nearly undoes a factor that stays the same
            over a task, unless it is 0. 'update' masks what the optimizer changes.
        importance_rows: Rows at most in which importances are measured, drawn at random.
        contrast: Weight of L_con; a list gives one for each task. 0 computes none.
        temperature: T, which cosines are divided by.

    Assumed:
        - The absolute value is taken row by row, as printed; the released code takes it after summing signed gradients,
          and counts earlier batches several times.
        - f is the last layer's states, compared by a softmax over their features; the released code's runs over
          positions, and its two passes have no dropout and do not differ. Where the host has none (Llama), the general
          importance is 0, and a warning says so.
        - A task's importance is that of its training loss, hidden tokens hidden, without dropout. A row's loss is the
          mean over its target tokens.
        - h of a masked text is that of the text itself; of an encoder-decoder the decoder's states at the target
          tokens; of a decoder-only model those of input and target. Pairs h, h+ are of the same row; the released code
          pairs neighboring rows.
        - Incoming are query, key and value of a head, the feed-forward's first maps of an intermediate neuron, its last
          of an output. Keys and values that query heads share take the largest importance. The attention's output map,
          embeddings, norms and heads are not masked. Where a gate is multiplied with the first map (T5 1.1, Llama),
          the unit is their product.
        - Other rows of L_con are those of the micro-batch.

    Note:
        A step reads each row three times more for L_con.

    Sources:
        Ke et al. 2023 (arXiv 2302.03241), section 3; settings: its released code (10,000 rows, T = 0.05, weight 1).
    """
    masked = with_soft_mask(seq_ft(), mask=mask, importance_rows=importance_rows)
    contrasted = masked.with_batch_term(KnowledgeContrast(contrast, temperature))
    return replace(contrasted, title="DAS (soft-masked domain-adaptive pre-training)", sources=("arXiv 2302.03241",))
