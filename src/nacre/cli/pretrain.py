"""`nacre pretrain`: a tiny language model from text files, or from the demo's own text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from nacre.console import PlainConsole
from nacre.errors import DataError
from nacre.pretraining.settings import PretrainSettings
from nacre.progress import ProgressLine

_USUAL = PretrainSettings()
_DEMO_PASSAGES = 24_000  # of the demo's text, for the embedded model: each is seen five or six times


def pretrain(
    text: Annotated[
        list[Path] | None,
        typer.Argument(help="Text files in UTF-8; empty lines part the passages.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the model; an earlier model in it is replaced.", show_default=False)
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Learn from the demo's generated text, not from files.")] = False,
    objective: Annotated[str, typer.Option(help="span_corruption makes a T5, causal a Llama.")] = _USUAL.objective,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with a tokenizer to use; else one is trained.")] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = _USUAL.steps,
    seed: Annotated[int, typer.Option(help="Of the weights, masks, batches and the demo's text.")] = _USUAL.seed,
    batch_size: Annotated[int, typer.Option(help="Passages per step.")] = _USUAL.batch_size,
    learning_rate: Annotated[
        float, typer.Option(help="Peak rate, relative to the size of the weights.")
    ] = _USUAL.learning_rate,
    d_model: Annotated[int, typer.Option(help="Width of the model.")] = _USUAL.d_model,
    layers: Annotated[int, typer.Option(help="Layers of the encoder, or of a causal model.")] = _USUAL.layers,
    decoder_layers: Annotated[int, typer.Option(help="Layers of the decoder.")] = _USUAL.decoder_layers,
    heads: Annotated[int, typer.Option(help="Attention heads per layer.")] = _USUAL.heads,
    d_ff: Annotated[int, typer.Option(help="Width of the feed-forward layers.")] = _USUAL.d_ff,
    vocabulary: Annotated[int, typer.Option(help="Entries of the trained tokenizer.")] = _USUAL.vocabulary,
    length: Annotated[int, typer.Option(help="Most tokens of a passage; longer ones are cut.")] = _USUAL.length,
    threads: Annotated[int, typer.Option(help="Processor threads; they change the last digits.")] = _USUAL.threads,
) -> None:
    """Train a tiny language model from scratch on a CPU, and write a folder that transformers loads.

    The defaults are those of the embedded demo model, which was made by
    "nacre pretrain --demo --output demo-t5". All settings are written into the model's card.
    """
    if output is None:
        raise DataError("--output is missing: name the folder in which the model is to be written.")
    if demo and text:
        raise DataError("Text files and --demo exclude each other: the demo's text is generated.")
    from transformers.utils import logging as transformers_logging

    from nacre.pretraining.passages import read_passages
    from nacre.pretraining.pretrain import pretrain as carry_out
    from nacre.tasks.demo import unlabelled_text

    given: dict[str, Any] = {
        "objective": objective, "steps": steps, "seed": seed, "batch_size": batch_size, "learning_rate": learning_rate,
        "d_model": d_model, "layers": layers, "decoder_layers": decoder_layers, "heads": heads, "d_ff": d_ff,
        "vocabulary": vocabulary, "length": length, "threads": threads,
    }  # fmt: skip
    settings = PretrainSettings(**given)
    files = text or []
    if demo:
        passages = list(unlabelled_text(settings.seed, _DEMO_PASSAGES))
        source = f"the demo's generated text (`nacre.tasks.demo.unlabelled_text`, seed {settings.seed})"
    else:
        passages = read_passages(files)
        source = ", ".join(file.name for file in files)

    # For the card: names without folders, which are nobody's business, and only what differs from the defaults.
    usual = asdict(_USUAL)
    command = ["nacre", "pretrain", *(["--demo"] if demo else [file.name for file in files]), "--output", output.name]
    command += ["--tokenizer", tokenizer.name] if tokenizer else []
    for name, value in asdict(settings).items():
        if value != usual[name]:
            command += [f"--{name.replace('_', '-')}", str(value)]

    transformers_logging.disable_progress_bar()  # of writing one small file
    line = ProgressLine(PlainConsole(stderr=True))
    numbers = ""

    def show(done: int, steps_in_all: int, loss: float | None) -> None:
        nonlocal numbers
        numbers = numbers if loss is None else f"loss {loss:.2f}"
        line.move("pretraining", done, steps_in_all, numbers)

    try:
        result = carry_out(
            passages, output, settings, source=source, command=command, tokenizer=tokenizer, progress=show
        )
    finally:
        line.drop()
    typer.echo(
        f"{output}: {result.parameters:,} parameters; held-out loss {result.loss_before:.3f} before and "
        f"{result.loss_after:.3f} after {settings.steps:,} steps, {result.seconds:.0f} seconds."
    )
