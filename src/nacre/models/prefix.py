"""Virtual tokens: ids behind the vocabulary that stand in front of an input, and whose embeddings are learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Prefix(Protocol):
    """Knows what stands in front of every input. See `Family.prefix`."""

    @property
    def behind(self) -> bool:
        """Whether it stands behind the input instead; only an encoder-decoder host reads it there."""
        ...

    def tokens(self, task: str) -> tuple[int, ...]:
        """The virtual tokens in front of an input.

        Args:
            task: Which task the input is of, "" if nobody said.

        Raises:
            DataError: If they depend on the task, and it was not given.
        """
        ...


def without_prefix(inputs: Mapping[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """A batch as the bare host may read it.

    Args:
        inputs: `input_ids` and `attention_mask` [B, S], padded on either side.
        vocabulary: V, how many ids are no virtual tokens.

    Returns:
        The same tensors if they hold no virtual token; otherwise [B, S'], padded on the right.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    kept = mask.bool() & (ids < vocabulary)
    if torch.equal(kept, mask.bool()):
        return {"input_ids": ids, "attention_mask": mask}
    sizes = kept.sum(1, keepdim=True)
    order = torch.argsort(~kept, dim=1, stable=True)[:, : int(sizes.max())]  # what is kept comes first, in its order
    mask = (torch.arange(order.shape[1], device=ids.device) < sizes).to(mask.dtype)
    return {"input_ids": ids.gather(1, order) * mask, "attention_mask": mask}


def with_tokens_behind(ids: Tensor, mask: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """A padded batch with virtual tokens behind each row's own ones.

    Args:
        ids: [B, S], padded on either side.
        mask: The attention mask [B, S].
        tokens: The virtual tokens of each row, [B, k].

    Returns:
        Ids and mask, [B, S + k], padded on the right.
    """
    whole, kept = torch.cat([ids, tokens], 1), torch.cat([mask, torch.ones_like(tokens)], 1).bool()
    order = torch.argsort(~kept, dim=1, stable=True)  # what is kept comes first, in its order
    return whole.gather(1, order), kept.gather(1, order).to(mask.dtype)
