"""Logits of the tokens that may follow each node of a tree of labels, reading every example only once.

Where an architecture takes an attention mask of its own exactly, the whole tree is one sequence: each node sees its
ancestors, and its position is its depth. Elsewhere every label is a sequence, behind the same encoder output or the
same cached prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from nacre.models.architectures import architecture_of, config_of
from nacre.models.batch import Batch
from nacre.models.label_tree import LabelTree

MASKED = ("sdpa", "eager")
"""Attention implementations that add a mask of [B, heads, queries, keys] to the scores."""


LabelReading = Callable[[Tensor, Tensor], Tensor]
"""A batch, read: logits of the token after given nodes of given rows, [k], [k] -> [k, V]. Only these go through the
output layer."""


def takes_tree(model: nn.Module, tree: LabelTree, width: int) -> bool:
    """Whether the model computes a tree exactly as it computes its branches.

    Args:
        model: The host's.
        tree: Of the labels.
        width: Tokens of the inputs.
    """
    config = config_of(model)
    architecture = architecture_of(config)
    if architecture is None or architecture.label_tree is None or config._attn_implementation not in MASKED:
        return False
    nodes = len(tree.nodes)
    if architecture.label_tree != "continuing":
        return architecture.label_tree == "relative" or nodes <= int(config.max_position_embeddings)
    # A window counts tokens by index, and a tree puts other labels' tokens in between.
    return all(window is None or width + nodes < window for window in architecture.windows(config))


def read_by_encoder(model: Any, prompts: Batch, tree: LabelTree, start: int, *, once: bool = True) -> LabelReading:
    """Read a batch by the encoder.

    Args:
        model: An encoder-decoder model.
        prompts: `input_ids` and `attention_mask`, [B, S].
        tree: Of the labels.
        start: The token that the decoder begins with.
        once: Whether the encoder reads each row once; otherwise with every label.
    """
    mask = prompts["attention_mask"]
    labels = len(tree.labels)
    if not once:
        inputs = {name: tensor.repeat_interleave(labels, 0) for name, tensor in prompts.items()}
        written = tree.beginnings(start).to(mask.device).repeat(prompts.size, 1)
        return _at_nodes(model(**inputs, decoder_input_ids=written, use_cache=False).logits, tree)
    memory = model.get_encoder()(**prompts).last_hidden_state  # [B, S, d]

    if takes_tree(model, tree, mask.shape[1]):
        states = model.get_decoder()(
            **_tree_inputs(model, tree, start, memory),
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        return _output_layer(model, states)
    logits = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=memory.repeat_interleave(labels, 0)),
        attention_mask=mask.repeat_interleave(labels, 0),
        decoder_input_ids=tree.beginnings(start).to(memory.device).repeat(len(memory), 1),
        use_cache=False,
    ).logits
    return _at_nodes(logits, tree)


def read_as_prompt(model: Any, prompts: Batch, tree: LabelTree) -> LabelReading:
    """Read a batch as a cached prompt, whose last token is the tree's first node.

    Args:
        model: A decoder-only model.
        prompts: `input_ids` and `attention_mask`, [B, S], padded on the left.
        tree: Of the labels.
    """
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    device, (size, width) = ids.device, ids.shape
    cache = DynamicCache(config=model.config)
    if width > 1:
        model.base_model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, :-1],
            past_key_values=cache,
            use_cache=True,
        )
    first = ids[:, -1:]
    lengths = mask.sum(-1, keepdim=True)
    if takes_tree(model, tree, width):
        nodes = len(tree.nodes)
        of_prompt = mask[:, None, :-1].bool().expand(-1, nodes, -1)
        of_tree = tree.ancestors.to(device).expand(size, -1, -1)
        states = model.base_model(
            input_ids=torch.cat([first, tree.tokens.to(device).expand(size, -1)], 1),
            attention_mask=_additive(torch.cat([of_prompt, of_tree], -1)[:, None], next(model.parameters()).dtype),
            position_ids=lengths - 1 + tree.depths.to(device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return _output_layer(model, states)
    labels = len(tree.labels)
    written = _behind(first, tree)
    if width > 1:
        cache.batch_repeat_interleave(labels)
    logits = model(
        input_ids=written,
        attention_mask=torch.cat([mask[:, :-1].repeat_interleave(labels, 0), torch.ones_like(written)], 1),
        position_ids=lengths.repeat_interleave(labels, 0) - 1 + torch.arange(written.shape[1], device=device),
        past_key_values=cache,
        use_cache=True,
    ).logits
    return _at_nodes(logits, tree)


def read_whole(model: Any, prompts: Batch, tree: LabelTree) -> LabelReading:
    """Read every label together with its prompt, by a model whose cache cannot be shared.

    Args:
        model: A decoder-only model.
        prompts: `input_ids` and `attention_mask`, [B, S], of rows of one length: there is no padding.
        tree: Of the labels.
    """
    ids, labels = prompts["input_ids"], len(tree.labels)
    written = _behind(ids[:, -1:], tree)
    whole = torch.cat([ids[:, :-1].repeat_interleave(labels, 0), written], 1)
    logits = model(input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False).logits
    return _at_nodes(logits[:, -written.shape[1] :], tree)


def _behind(first: Tensor, tree: LabelTree) -> Tensor:
    """Every label without its last token, behind each row's token of `first` [B, 1]: [B * labels, steps]."""
    written = tree.beginnings(0).to(first.device).repeat(len(first), 1)
    written[:, :1] = first.repeat_interleave(len(tree.labels), 0)
    return written


def _adds_positions(model: Any) -> bool:
    """Whether learned positions are added to the decoder's embeddings. BART does so; it also has a bias of logits."""
    architecture = architecture_of(model.config)
    return architecture is not None and architecture.label_tree == "learned"


def _tree_inputs(model: Any, tree: LabelTree, start: int, memory: Tensor) -> dict[str, Tensor]:
    """The decoder's inputs [B, N, ...] and its mask.

    Decoders know only indices. Where a position is something that is added, what belongs to the index is taken away
    and what belongs to the depth put in its place.
    """
    decoder = model.get_decoder()
    ids = torch.cat([torch.tensor([start]), tree.tokens]).to(memory.device).expand(len(memory), -1)
    depths, sees = tree.depths.to(memory.device), tree.ancestors.to(memory.device)
    if _adds_positions(model):
        positions = decoder.embed_positions
        table = positions.weight[positions.offset :]
        moved = decoder.embed_tokens(ids) + (table[depths] - table[: len(depths)])
        return {"inputs_embeds": moved, "attention_mask": _additive(sees[None, None], moved.dtype)}
    attention = decoder.block[0].layer[0].SelfAttention
    by_index = attention.compute_bias(len(depths), len(depths), device=memory.device)  # [1, heads, N, N]
    distances = (depths[:, None] - depths).clamp(min=0)  # to ancestors
    by_depth = by_index[:, :, :, 0][:, :, distances]
    return {
        "input_ids": ids,
        "attention_mask": torch.where(sees, by_depth - by_index, torch.finfo(by_index.dtype).min),
    }


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def _output_layer(model: Any, states: Tensor) -> LabelReading:
    """From the last hidden states [B, N, d] to logits, as the model itself does it."""

    def logits(rows: Tensor, nodes: Tensor) -> Tensor:
        chosen = states[rows, nodes]
        if getattr(model.config, "scale_decoder_outputs", False):  # T5 with tied embeddings
            chosen = chosen * model.config.d_model**-0.5
        scores: Tensor = model.get_output_embeddings()(chosen)
        return scores + model.final_logits_bias if _adds_positions(model) else scores

    return logits


def _at_nodes(logits: Tensor, tree: LabelTree) -> LabelReading:
    """From every label's logits at every step, [B * labels, steps, V]."""
    by_label = logits.view(-1, len(tree.labels), *logits.shape[1:])
    positions = tree.positions.to(logits.device)

    def at(rows: Tensor, nodes: Tensor) -> Tensor:
        label, step = positions[nodes].unbind(-1)
        return by_label[rows, label, step]

    return at
