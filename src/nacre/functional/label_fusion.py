"""Two models' opinions about labels, each without the prior that it has for them, together (CoDe-LoRA).

PMI(c | x) = log softmax_c(L(c | x) - log q(c))        log q: `functional/label_rules.prior_offsets`
score = a PMI_branch + (1 - a) PMI_expert
"""

from __future__ import annotations

import torch
from torch import Tensor

SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
"""What a is chosen from. With 0 the expert answers alone."""


def without_prior(scores: Tensor, offsets: Tensor) -> Tensor:
    """PMI [B, L] of the scores L [B, L], log p of each label, with log q [L] up to a constant."""
    return (scores - offsets).log_softmax(1)


def fused(branch: Tensor | None, expert: Tensor | None, share: float) -> Tensor:
    """a PMI_branch + (1 - a) PMI_expert [B, L]; one of them alone where a is 0 or 1: the other may lack."""
    if branch is None or expert is None or share in {0, 1}:
        alone = branch if share else expert
        assert alone is not None
        return alone
    return torch.lerp(expert, branch, share)


def best_share(branch: Tensor, expert: Tensor, truth: Tensor) -> float:
    """The a of `SHARES` with which most rows get their label; of equals, the smallest.

    Args:
        branch: PMI_branch [n, L].
        expert: PMI_expert [n, L].
        truth: The number of each row's label [n].
    """
    right = {share: int((fused(branch, expert, share).argmax(1) == truth).sum()) for share in SHARES}
    return max(SHARES, key=lambda share: (right[share], -share))
