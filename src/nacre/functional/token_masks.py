"""Which tokens of a text are hidden, and what stands there instead (masked language modelling)."""

from __future__ import annotations

import torch
from torch import Tensor


def hidden_positions(maskable: Tensor, draws: Tensor, rate: float) -> Tensor:
    """Positions to be predicted: maskable_i and u_i < rate; the one with the smallest u where that is none.

    Source: BERT (arXiv 1810.04805, section 3.1), as in transformers' collator; there a text may stay without any.

    Args:
        maskable: Which tokens may be hidden, bool, [S].
        draws: u, uniform in [0, 1), [S].
        rate: Share of the tokens to hide.

    Returns:
        Positions in order, [k]; k >= 1 wherever anything may be hidden.
    """
    chosen = maskable & (draws < rate)
    if not chosen.any() and maskable.any():
        chosen = torch.zeros_like(maskable)
        chosen[torch.where(maskable, draws, draws.new_tensor(2.0)).argmin()] = True
    return chosen.nonzero().flatten()


def corrupted(ids: Tensor, positions: Tensor, draws: Tensor, other: Tensor, mask: int) -> Tensor:
    """The text with its hidden positions filled.

    v_j < 0.8 gives the mask token, 0.8 <= v_j < 0.9 a random token; otherwise the token stays.
    Source: BERT, section 3.1 (80 %, 10 %, 10 %).

    Args:
        ids: Tokens, [S].
        positions: Hidden positions, [k].
        draws: v, uniform in [0, 1), [k].
        other: Random tokens, [k].
        mask: The mask token.

    Returns:
        [S].
    """
    kept = ids[positions]
    filled = torch.where(draws < 0.8, torch.full_like(kept, mask), torch.where(draws < 0.9, other, kept))
    return ids.index_copy(0, positions, filled)
