"""The card of a pretrained model: what it is, and all that went into it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict

import torch

from nacre.pretraining.settings import PretrainResult, PretrainSettings


def model_card(settings: PretrainSettings, result: PretrainResult, source: str, command: Sequence[str]) -> str:
    """The README.md of the model's folder.

    Args:
        settings: Of the pretraining.
        result: What it gave.
        source: Where the text came from, one line.
        command: The command that was typed; may be empty.
    """
    kind = {
        "span_corruption": "An encoder-decoder (T5, gated feed-forward, tied embeddings, no dropout)",
        "causal": "A decoder-only model (Llama, tied embeddings)",
    }[settings.objective]
    table = "\n".join(f"| {name} | {value} |" for name, value in asdict(settings).items())
    typed = f"By the command\n\n```\n{shlex.join(command)}\n```\n" if command else "By `nacre.pretraining`.\n"
    return f"""---
license: apache-2.0
library_name: transformers
---

# A tiny {settings.objective.replace("_", "-")} model

{kind} of {result.parameters:,} parameters,
trained from scratch by nacre to be a small host for experiments and demonstrations. It knows the words and
sentences of its training text and nothing else; do not use it for anything that matters.

## How it was made

{typed}
- Data: {source}; {result.passages:,} passages to train on, {result.held_out:,} held out.
- Held-out loss per target token, in nats: {result.loss_before:.3f} before, {result.loss_after:.3f} after training.
- Time: {result.seconds:.0f} seconds on a CPU with {settings.threads} thread{"s" if settings.threads > 1 else ""} \
(torch {torch.__version__.split("+")[0]}).

| setting | value |
|---|---|
{table}

## License

Apache-2.0, as nacre.
"""
