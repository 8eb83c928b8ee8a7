"""The model of a pretraining, before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nacre.pretraining.settings import PretrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def new_model(tokenizer: PreTrainedTokenizerBase, settings: PretrainSettings) -> PreTrainedModel:
    """A freshly initialized T5 or Llama; both with gated feed-forward, tied embeddings and no dropout.

    Args:
        tokenizer: Gives the vocabulary and special tokens.
        settings: Objective and sizes.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if settings.objective == "span_corruption":
        return T5ForConditionalGeneration(
            T5Config(
                d_model=settings.d_model,
                d_kv=settings.d_model // settings.heads,
                d_ff=settings.d_ff,
                num_layers=settings.layers,
                num_decoder_layers=settings.decoder_layers,
                num_heads=settings.heads,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
                decoder_start_token_id=tokenizer.pad_token_id,
                **common,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=settings.d_model,
            intermediate_size=settings.d_ff,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=512,
            initializer_range=settings.d_model**-0.5,  # Llama's 0.02 is meant for widths in the thousands
            bos_token_id=tokenizer.bos_token_id,
            **common,
        )
    )
