"""From passages to a model's folder: the pretraining as a whole."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from nacre.errors import DataError, ModelError
from nacre.files import build_folder, write_atomically
from nacre.pretraining.batches import WindowBatches
from nacre.pretraining.card import model_card
from nacre.pretraining.model import new_model
from nacre.pretraining.settings import PretrainResult, PretrainSettings
from nacre.pretraining.tokenizer import load_tokenizer, train_tokenizer
from nacre.pretraining.training import Progress, mean_loss, train
from nacre.pretraining.windows import hold_out, windows_of
from nacre.randomness import seeded
from nacre.seeds import derive


def pretrain(
    passages: Sequence[str],
    output: Path,
    settings: PretrainSettings,
    *,
    source: str,
    command: Sequence[str] = (),
    tokenizer: Path | None = None,
    progress: Progress | None = None,
) -> PretrainResult:
    """Train a model on passages and write a folder that transformers loads, with a model card, atomically.

    The result is deterministic for given passages, settings and versions.

    Args:
        passages: Texts that belong together, a paragraph each (`read_passages`). A twentieth, at most 256, is held out.
        output: A new or empty folder, or a model's, which is replaced.
        settings: Of the pretraining.
        source: Where the passages came from, one line for the card.
        command: The command that was typed, for the card.
        tokenizer: Folder with a tokenizer to use instead of training one.
        progress: Called after every step.

    Raises:
        DataError: There is too little text.
        ModelError: The tokenizer or the output folder cannot be used, or the loss is not a number.
        RecipeError: The vocabulary is too small.
    """
    if output.exists() and not output.is_dir():
        raise ModelError(f"{output} is a file; the output must be a folder, new or to be replaced.")
    if output.is_dir() and any(output.iterdir()) and not (output / "config.json").exists():
        raise ModelError(f"{output} holds other things than a model; name a new folder or one made by this command.")
    texts = [text.strip() for text in passages if text.strip()]
    if not texts:
        raise DataError(f"There is no text to learn from in {source}; give at least a few paragraphs.")
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        words = load_tokenizer(tokenizer, settings) if tokenizer else train_tokenizer(texts, settings)
        learned, held_out = hold_out(windows_of(texts, words, settings), settings, source)
        batches = WindowBatches(words, settings)
        with seeded(derive(settings.seed, "pretrain", "weights")):
            model = new_model(words, settings)
            before = mean_loss(model, batches, held_out)
            train(model, batches, learned, progress)
            after = mean_loss(model, batches, held_out)
    finally:
        torch.set_num_threads(threads)
    if not math.isfinite(after):
        raise ModelError(f"The loss became {after}; a smaller learning_rate than {settings.learning_rate} may help.")
    result = PretrainResult(
        loss_before=before,
        loss_after=after,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        passages=len(learned),
        held_out=len(held_out),
        seconds=time.perf_counter() - started,
    )

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        write_atomically(folder / "README.md", model_card(settings, result, source, command))

    build_folder(output, fill)
    return result
