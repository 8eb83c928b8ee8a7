"""Hosts to measure on: the shapes of known models with random weights, without dropout, and a tokenizer of words."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from nacre.models.families import Encoded
from nacre.models.host import Host

READ, WRITTEN, ROWS = 128, 8, 8
"""Tokens that a row reads and writes, and rows of a step; a decoder-only host reads and writes ``READ`` in all."""


def _t5(width: int, feed_forward: int, layers: int, heads: int, head_width: int) -> T5Config:
    return T5Config(
        vocab_size=32128, d_model=width, d_kv=head_width, d_ff=feed_forward, num_layers=layers, num_heads=heads,
        dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip


def _llama(width: int, feed_forward: int, layers: int, heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=32000, hidden_size=width, intermediate_size=feed_forward, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=2048, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip


SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "t5-small": lambda: _t5(512, 2048, 6, 8, 64),
    "llama-60m": lambda: _llama(512, 1408, 8, 8),
    "t5-large": lambda: _t5(1024, 4096, 24, 16, 64),
    "llama-2-7b": lambda: _llama(4096, 11008, 32, 32),
}


class Hosts:
    """Hosts of one shape. ``frozen`` ones share the weights of the first, which their adapters do not change."""

    def __init__(self, shape: str, dtype: torch.dtype, device: torch.device) -> None:
        self.config = SHAPES[shape]()
        self.encoder_decoder = bool(self.config.is_encoder_decoder)
        kind = AutoModelForSeq2SeqLM if self.encoder_decoder else AutoModelForCausalLM
        with torch.random.fork_rng():
            torch.manual_seed(0)
            with torch.device(device):
                self.first: nn.Module = kind.from_config(self.config, dtype=dtype)

    def frozen(self) -> Host:
        shared = {id(parameter): parameter for parameter in self.first.parameters()}
        return Host(copy.deepcopy(self.first, shared), self.tokenizer, name="bench")

    def own(self) -> Host:
        return Host(copy.deepcopy(self.first).requires_grad_(True), self.tokenizer, name="bench")

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return _tokenizer(self.encoder_decoder, int(self.config.vocab_size))

    def rows(self, count: int = ROWS) -> list[Encoded]:
        """Rows of random tokens, all of the same length."""
        generator = torch.Generator().manual_seed(1)
        read = READ if self.encoder_decoder else READ - WRITTEN
        tokens = torch.randint(10, 1000, (count, read + WRITTEN), generator=generator).tolist()
        return [Encoded(tuple(row[:read]), tuple(row[read:]), truncated=False) for row in tokens]


@cache
def _tokenizer(encoder_decoder: bool, vocabulary: int) -> PreTrainedTokenizerFast:
    """Word ``wN`` is token N."""
    words = {"<pad>": 0, "</s>": 1, "<s>": 2, "<unk>": 3} | {f"w{number}": number for number in range(4, vocabulary)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    single = "$A </s>" if encoder_decoder else "<s> $A"
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("</s>", 1), ("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
