"""Which tokens of a text are hidden, and what stands there instead (masked language modelling)."""

from __future__ import annotations

import torch
from torch import Tensor


def hidden_places(maskable: Tensor, draws: Tensor, rate: float) -> Tensor:
    """The places to be predicted, in order: maskable_i and u_i < rate; the smallest u where that is none.

    maskable [S] bool; draws u [S], uniform in [0, 1). Returns [k] numbers, k >= 1 wherever anything may be hidden.
    Source: BERT (arXiv 1810.04805, section 3.1), as in transformers' collator; there a text may stay without any.
    """
    chosen = maskable & (draws < rate)
    if not chosen.any() and maskable.any():
        chosen = torch.zeros_like(maskable)
        chosen[torch.where(maskable, draws, draws.new_tensor(2.0)).argmin()] = True
    return chosen.nonzero().flatten()


def corrupted(ids: Tensor, places: Tensor, draws: Tensor, other: Tensor, mask: int) -> Tensor:
    """The text with its hidden places filled: v_j < 0.8: the mask token; 0.8 <= v_j < 0.9: a random token; else as it
    was.

    ids [S]; places [k]; draws v [k], uniform in [0, 1); other [k], random tokens. Returns [S].
    Source: BERT, section 3.1 (80 %, 10 %, 10 %).
    """
    kept = ids[places]
    filled = torch.where(draws < 0.8, torch.full_like(kept, mask), torch.where(draws < 0.9, other, kept))
    return ids.index_copy(0, places, filled)
