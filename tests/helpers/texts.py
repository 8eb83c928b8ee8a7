"""Tiny hosts with a mask token, and tiny tasks of unlabeled text."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from helpers.tiny import configurations, tokenizer
from nacre.models.host import Host
from nacre.tasks.task import SPLITS, Row, Task
from nacre.tasks.template import Template


@cache
def masking_tokenizer() -> Any:
    words = copy.deepcopy(tokenizer("encoder-only"))
    words.add_special_tokens({"mask_token": "<mask>"})
    return words


def masked_model(architecture: str = "roberta", dtype: torch.dtype = torch.float32) -> Any:
    """A random encoder with its masked-LM head, as transformers makes it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForMaskedLM.from_config(configurations(len(masking_tokenizer()))[architecture]).to(dtype).eval()


def text_host(architecture: str = "roberta", *, bare: bool = False, dtype: torch.dtype = torch.float32) -> Host:
    """A tiny encoder whose tokenizer has a mask. bare: without a masked-LM head of its own. Or a decoder."""
    if architecture == "llama":
        words = tokenizer("decoder-only")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Host(
                AutoModelForCausalLM.from_config(configurations(len(words))["llama"]).to(dtype).eval(), words, "llama"
            )
    model = masked_model(architecture, dtype)
    return Host(model.base_model if bare else model, masking_tokenizer(), name=f"tiny-{architecture}")


def text_task(name: str = "farm", rows: int = 24) -> Task:
    """Sentences of one form; where in the sentence the words may stand depends on the task's name."""
    verb = ("likes", "sees", "near", "under")[sum(map(ord, name)) % 4]
    things = ("dog", "cat", "cow", "hen")
    places = ("sea", "grass", "sky")

    def made(first: int, count: int) -> tuple[Row, ...]:
        numbers = range(first, first + count)
        return tuple(
            Row(f"the {('big', 'small')[i % 2]} {things[i % 4]} {verb} the {places[i % 3]} one two three four", "")
            for i in numbers
        )

    template = Template(answer_cue="")
    return Task(name, made(0, rows), made(3, 4), made(5, 8), template, metric="token_accuracy", kind="text")


def write_text(data: Path, name: str, rows: int = 24) -> None:
    """The tiny text task as a folder of JSON lines."""
    task = text_task(name, rows)
    folder = data / name
    folder.mkdir(parents=True)
    for split in SPLITS:
        lines = [json.dumps({"text": row.text}) for row in task.rows(split)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "task.json").write_text(json.dumps({"kind": "text", "metric": "perplexity"}))
