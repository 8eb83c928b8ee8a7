"""Tiny random models of many architectures, most of them without a row in nacre's table."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from helpers.tiny import tokenizer
from nacre.models.host import Host

_PLAIN: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8,
}  # fmt: skip
_WINDOW = _PLAIN | {"sliding_window": 64}
_GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
_LINEAR: dict[str, Any] = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_STATES: dict[str, Any] = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8,
}  # fmt: skip
_MAMBA: dict[str, Any] = {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}

DECODER_ONLY: dict[str, dict[str, Any]] = {
    "apertus": _PLAIN,
    "arcee": _PLAIN,
    "bamba": _PLAIN | _STATES | {"attn_layer_indices": [1]},
    "bert-generation": _PLAIN | {"is_decoder": True},
    "biogpt": _PLAIN,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": _GPT | {"rotary_dim": 4},
    "cohere": _PLAIN,
    "cohere2": _WINDOW,
    "ctrl": {"n_embd": 32, "dff": 48, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "deepseek_v3": _PLAIN | _EXPERTS | {
        "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    },
    "diffllama": _PLAIN,
    "ernie4_5": _PLAIN,
    "exaone4": _WINDOW,
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "falcon_h1": _PLAIN | _STATES | {"mamba_d_ssm": 64},
    "falcon_mamba": _MAMBA,
    "gemma": _PLAIN,
    "gemma2": _WINDOW,
    "gemma3_text": _WINDOW,
    "glm": _PLAIN,
    "glm4": _PLAIN,
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neox": _PLAIN,
    "gpt_oss": _WINDOW | _EXPERTS,
    "gptj": _GPT | {"rotary_dim": 4},
    "granite": _PLAIN,
    "granitemoe": _PLAIN | {"num_local_experts": 4},
    "granitemoehybrid": _PLAIN | _STATES | {
        "layer_types": ["mamba", "attention"], "num_local_experts": 2, "num_experts_per_tok": 1,
        "shared_intermediate_size": 32,
    },
    "helium": _PLAIN,
    "hunyuan_v1_dense": _PLAIN,
    "jamba": _PLAIN | {
        "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "jetmoe": _PLAIN | {"kv_channels": 8, "num_local_experts": 4},
    "lfm2": _PLAIN | {"full_attn_idxs": [1]},
    "lfm2_moe": _PLAIN | _EXPERTS | {"layer_types": ["conv", "full_attention"]},
    "llama": _PLAIN,
    "llama4_text": _PLAIN | {"num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 64},
    "mamba": _MAMBA,
    "mamba2": _MAMBA | {"head_dim": 8, "num_heads": 8, "n_groups": 1, "chunk_size": 8},
    "minimax": _PLAIN | {
        "layer_types": ["linear_attention", "full_attention"], "num_local_experts": 2, "block_size": 8,
    },
    "mistral": _PLAIN,
    "mixtral": _PLAIN | {"num_local_experts": 4},
    "modernbert-decoder": _PLAIN,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "nemotron": _PLAIN,
    "nemotron_h": _PLAIN | {
        "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8,
        "n_groups": 1, "chunk_size": 8,
    },
    "olmo": _PLAIN,
    "olmo2": _PLAIN,
    "olmo3": _WINDOW,
    "olmo_hybrid": _PLAIN | _LINEAR,
    "olmoe": _PLAIN | _EXPERTS,
    "openai-gpt": _GPT,
    "opt": _PLAIN | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "persimmon": _PLAIN,
    "phi": _PLAIN,
    "phi3": _PLAIN,
    "phimoe": _PLAIN | {"num_local_experts": 4},
    "qwen2_moe": _PLAIN | _EXPERTS,
    "qwen3": _PLAIN,
    "qwen3_5_text": _PLAIN | _LINEAR,
    "qwen3_moe": _PLAIN | _EXPERTS,
    "qwen3_next": _PLAIN | _LINEAR | _EXPERTS,
    "recurrent_gemma": _PLAIN | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 64},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
    "seed_oss": _PLAIN,
    "smollm3": _PLAIN,
    "stablelm": _PLAIN,
    "starcoder2": _PLAIN,
    "vaultgemma": _WINDOW,
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 128},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "xlstm": {"hidden_size": 32, "num_blocks": 2, "num_hidden_layers": 2, "num_heads": 4},
    "zamba2": _PLAIN | {
        "num_hidden_layers": 3, "mamba_ngroups": 1, "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_headdim": 8,
        "chunk_size": 8, "layers_block_type": ["mamba", "hybrid", "mamba"], "num_mem_blocks": 1, "adapter_rank": 4,
        "attention_hidden_size": 64, "attention_head_dim": 16, "use_mamba_kernels": False,
    },
}  # fmt: skip
"""By `config.model_type`, what makes it tiny."""

_STACKS: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128,
    "decoder_start_token_id": 1,
}  # fmt: skip
_T5: dict[str, Any] = {
    "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip

ENCODER_DECODER: dict[str, dict[str, Any]] = {
    "bart": _STACKS,
    "bigbird_pegasus": _STACKS | {"attention_type": "original_full"},
    "blenderbot": _STACKS,
    "blenderbot-small": _STACKS,
    "led": _STACKS | {
        "max_encoder_position_embeddings": 128, "max_decoder_position_embeddings": 128, "attention_window": 16,
    },
    "longt5": _T5,
    "m2m_100": _STACKS,
    "marian": _STACKS,
    "mvp": _STACKS,
    "nllb-moe": _STACKS | {"num_experts": 2, "expert_capacity": 64, "encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "pegasus": _STACKS,
    "pegasus_x": _STACKS,
    "plbart": _STACKS,
    "prophetnet": {
        "hidden_size": 32, "encoder_ffn_dim": 48, "num_encoder_layers": 2, "num_encoder_attention_heads": 4,
        "decoder_ffn_dim": 48, "num_decoder_layers": 2, "num_decoder_attention_heads": 4,
        "max_position_embeddings": 128, "decoder_start_token_id": 1,
    },
    "switch_transformers": _T5 | {"num_experts": 2},
    "t5": _T5,
    "umt5": _T5,
}  # fmt: skip
"""Likewise."""


def zoo_host(architecture: str, seed: int = 0) -> Host:
    """A host with random weights of such a spread that tokens, and their places, make a difference."""
    family = "decoder-only" if architecture in DECODER_ONLY else "encoder-decoder"
    words = tokenizer(family)
    settings = (DECODER_ONLY | ENCODER_DECODER)[architecture]
    ids = {"vocab_size": len(words), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
    config = AutoConfig.for_model(architecture, **ids, **settings)
    loader = AutoModelForCausalLM if family == "decoder-only" else AutoModelForSeq2SeqLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = loader.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return Host(model, words, name=architecture)
