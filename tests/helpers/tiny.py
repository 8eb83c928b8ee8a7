"""Tiny random models of every supported architecture, with a tokenizer of whole words, and tiny tasks."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

from nacre.adapters.latent import LatentSite
from nacre.adapters.slotted import SlottedSite
from nacre.models.host import Host
from nacre.tasks.task import SPLITS, Row, Task
from nacre.tasks.template import Template

WORDS = (
    "Is it an animal or thing What kind of ? Option : , . Answer yes no maybe red green blue dog cat cow hen stone "
    "lamp spoon chair rose grass sky sea blood leaf the a big small old new likes sees near under one two three four"
).split()
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]


@cache
def tokenizer(family: str, more: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *dict.fromkeys([*WORDS, *more])])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    single = {"encoder-decoder": "$A </s>", "decoder-only": "<s> $A", "encoder-only": "<s> $A </s>"}[family]
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("</s>", 1), ("<s>", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )


def configurations(vocabulary: int, width: int = 16) -> dict[str, Any]:
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
    # With the usual 0.02, so narrow a model could not tell tokens apart, and no adapter could teach it to.
    spread = {"initializer_range": 0.4}
    common = {
        **spread,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    llama = {**common, "intermediate_size": 24, "num_key_value_heads": 1, "max_position_embeddings": 64}
    bert = {**common, "intermediate_size": 24, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0}
    # Embeddings are normalized here, so that tokens differ anyway; a wide spread only hardens the attention.
    bert |= {"attention_probs_dropout_prob": 0.0, "initializer_range": 0.1}
    return {
        "t5": T5Config(
            vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0,
            decoder_start_token_id=0, feed_forward_proj="gated-gelu", **ids,
        ),
        "bart": BartConfig(
            vocab_size=vocabulary, d_model=width, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64, dropout=0.0,
            decoder_start_token_id=1, forced_eos_token_id=1, **ids,
        ),
        "llama": LlamaConfig(**llama, **ids),
        "mistral": MistralConfig(**llama, **ids),
        "qwen2": Qwen2Config(**llama, **ids),
        "gpt2": GPT2Config(
            **spread, vocab_size=vocabulary, n_embd=width, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, **ids,
        ),
        "gpt_neo": GPTNeoConfig(
            **spread, vocab_size=vocabulary, hidden_size=16, num_layers=2, num_heads=2,
            attention_types=[[["global"], 2]], max_position_embeddings=64, **ids,
        ),
        "gpt_neox": GPTNeoXConfig(**common, intermediate_size=24, max_position_embeddings=64, **ids),
        "bert": BertConfig(**bert, **ids),
        "roberta": RobertaConfig(**bert, **ids),
        "xlm-roberta": XLMRobertaConfig(**bert, **ids),
    }  # fmt: skip


FAMILIES = {
    "encoder-decoder": ("t5", "bart"),
    "decoder-only": ("llama", "mistral", "qwen2", "gpt2", "gpt_neo", "gpt_neox"),
    "encoder-only": ("bert", "roberta", "xlm-roberta"),
}
ARCHITECTURES = tuple(architecture for family in FAMILIES.values() for architecture in family)


def family_of(architecture: str) -> str:
    """A key of `FAMILIES`."""
    return next(name for name, architectures in FAMILIES.items() if architecture in architectures)


def tiny_host(
    architecture: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    more_words: tuple[str, ...] = (),
    width: int = 16,
) -> Host:
    """A host with random weights; the same ones for the same seed. It knows `WORDS`, and more if there are any."""
    family = family_of(architecture)
    model = copy.deepcopy(_drawn(architecture, dtype, seed, more_words, width))  # drawing takes three times as long
    return Host(model, tokenizer(family, more_words), name=f"tiny-{architecture}")


@cache
def _drawn(
    architecture: str, dtype: torch.dtype, seed: int, more_words: tuple[str, ...], width: int
) -> PreTrainedModel:
    family = family_of(architecture)
    config = configurations(len(tokenizer(family, more_words)), width)[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "encoder-only":
            model = AutoModel.from_config(config, add_pooling_layer=False)
        elif family == "encoder-decoder":
            model = AutoModelForSeq2SeqLM.from_config(config)
        else:
            model = AutoModelForCausalLM.from_config(config)
        return model.to(dtype).eval()


def write_tiny_model(architecture: str, folder: Path, more_words: tuple[str, ...] = ()) -> Path:
    """The tiny host as a Hugging Face folder."""
    host = tiny_host(architecture, more_words=more_words)
    host.body.save_pretrained(folder)
    host.tokenizer.save_pretrained(folder)
    return folder


def tiny_task(name: str = "animals", rows: int = 12, labels: tuple[str, ...] = ("yes", "no")) -> Task:
    """Is it an animal? Rows differ by task name and split; targets have one word."""
    things = {"yes": ("dog", "cat", "cow", "hen"), "no": ("stone", "lamp", "spoon", "chair"), "maybe": ("rose", "leaf")}
    things |= {"red": ("blood", "rose"), "green": ("grass", "leaf"), "blue": ("sky", "sea")}
    where = ("near", "under", "sees", "likes")[sum(map(ord, name)) % 4]

    def made(split: str, count: int) -> tuple[Row, ...]:
        found = []
        for number in range(count):
            label = labels[number % len(labels)]
            thing = things[label][number // len(labels) % len(things[label])]
            size = ("big", "small", "old", "new")[(number // 8 + len(split)) % 4]
            found.append(Row(f"the {size} {thing} {where} the sea {'one ' * (number % 3)}", label))
        return tuple(found)

    template = Template(instruction="Is it an animal ?", options=True)
    return Task(name, made("train", rows), made("validation", 4), made("test", 6), template, labels)


def write_task(data: Path, name: str, labels: tuple[str, ...] = ("yes", "no"), rows: int = 12) -> None:
    """A tiny task as a folder of JSON lines."""
    task = tiny_task(name, rows, labels)
    folder = data / name
    folder.mkdir(parents=True)
    for split in SPLITS:
        lines = [json.dumps({"text": row.text, "label": row.target}) for row in task.rows(split)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "task.json").write_text(json.dumps({"labels": labels, "instruction": "Is it an animal ?"}))


@torch.no_grad()
def outputs(host: Host, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the host computes: logits; of an encoder-only host, which may know no class yet, the last hidden states and,
    beside the first token's, the logits."""
    inputs = {name: tensor for name, tensor in inputs.items() if name != "labels"}
    logits: Tensor = host.model(**inputs).logits
    if host.family.is_generative:
        return logits
    read = {name: tensor for name, tensor in inputs.items() if name != "tasks"}  # those are for the heads alone
    return torch.cat([host.body(**read).last_hidden_state.flatten(), logits.flatten()])


def learned_by_head(host: Host) -> dict[str, Tensor]:
    """What an encoder-only host's classification head has learned; nothing in other hosts."""
    return host.family.head.tensors() if host.family.head is not None else {}


@torch.no_grad()
def perturb(model: torch.nn.Module, seed: int = 1, size: float = 0.3) -> None:
    """Move every open site's new tensors off their start, where half of them are zero and tests would see nothing."""
    generator = torch.Generator().manual_seed(seed)
    for site in model.modules():
        if isinstance(site, SlottedSite | LatentSite) and site.is_open:
            for tensor in site.parameters_by_group().values():
                tensor.add_(size * torch.randn(tensor.shape, generator=generator).to(tensor))
