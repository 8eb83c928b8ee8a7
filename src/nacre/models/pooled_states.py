"""Hidden states of a host's inputs, pooled to one vector a row: what queries, statistics and teachers are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nacre.errors import RecipeError
from nacre.models.evaluating import evaluating
from nacre.models.prefix import with_tokens_behind
from nacre.models.reader import reader_of, shortened

if TYPE_CHECKING:
    from nacre.models.host import Host


Layer = int | Literal["words"]
Pooling = Literal["mean", "first", "last", "max"]
Text = Literal["prompt", "bare"]


@dataclass(frozen=True)
class PooledStates:
    """Which states, and how a row's tokens become one vector.

    Attributes:
        layer: Of the stack that reads the input, as Hugging Face counts `hidden_states`: 0 is the embedding, -1 the
            last layer's output. 'words': the word embeddings alone, for which no layer is run.
        pooling: Over the row's tokens, padding excluded: their mean, the first or the last one, or in each dimension
            the largest number.
        text: What is read: the whole 'prompt', with its instruction and options; or 'bare', the row's text alone,
            before any template. Either is cut at the length of training's inputs.
        drop_first: Whether the first token is left out, whose state can be huge in decoder-only models. Of an input of
            one token nothing is.
        final_norm: Whether the stack's final norm, if it has one, is put behind the layer, as if the stack ended there.
            The layers above are not run then.
    """

    layer: Layer = -1
    pooling: Pooling = "mean"
    text: Text = "prompt"
    drop_first: bool = False
    final_norm: bool = False

    def __post_init__(self) -> None:
        if self.final_norm and self.layer == "words":
            raise RecipeError("final_norm: the word embeddings alone are no layer that a norm could stand behind.")


@torch.no_grad()
def pooled_states(host: Host, inputs: Mapping[str, Tensor], states: PooledStates) -> Tensor:
    """Read a batch's inputs, without dropout, and pool.

    Args:
        host: As it computes at present; callers that want the bare one bypass what was learned.
        inputs: ``input_ids`` and ``attention_mask`` [B, S] of what `states.text` names, on the host's device, padded on
            either side.
        states: What to return.

    Returns:
        [B, d] in float32, without gradient; the same for any batch, up to rounding.

    Raises:
        RecipeError: If the stack has no such layer.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if host.family.name == "decoder-only":  # whose positions would count padding in front
        ids, mask = with_tokens_behind(ids, mask, ids[:, :0])
    hidden = _hidden(host, ids, mask, states)
    if states.drop_first:
        mask = _without_first(mask)
    if states.pooling == "max":
        return hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1)
    if states.pooling == "mean":
        weights = mask.to(hidden.dtype).unsqueeze(-1)
        return (hidden * weights).sum(1) / weights.sum(1)
    ends = mask.argmax(1) if states.pooling == "first" else mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), ends]


def _without_first(mask: Tensor) -> Tensor:
    """The mask [B, S] without each row's first token, unless it is the only one."""
    first = F.one_hot(mask.argmax(1), mask.shape[1]).to(mask)
    return mask - first * (mask.sum(1, keepdim=True) > 1)


def _hidden(host: Host, ids: Tensor, mask: Tensor, states: PooledStates) -> Tensor:
    """The states of one layer, or the word embeddings, [B, S, d] in float32."""
    reader: Any = reader_of(host.body)
    layer = states.layer
    if layer == "words":
        words: Tensor = reader.get_input_embeddings()(ids)
        return words.float()
    with evaluating(reader):
        cache = {} if host.family.name == "encoder-only" else {"use_cache": False}
        if states.final_norm:
            # Not with `output_hidden_states`: transformers would record these blocks alone from then on.
            with shortened(reader, layer):
                last: Tensor = reader(input_ids=ids, attention_mask=mask, **cache).last_hidden_state
            return last.float()
        output = reader(input_ids=ids, attention_mask=mask, output_hidden_states=True, **cache)
    layers = output.hidden_states
    if not -len(layers) <= layer < len(layers):
        raise RecipeError(f"layer: {layer} is not a layer of this model, which has 0 to {len(layers) - 1}.")
    hidden: Tensor = layers[layer].float()
    return hidden
