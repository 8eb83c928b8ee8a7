"""One GGUF file, as llama.cpp and what is built on it read, by llama.cpp's own converter where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from nacre.errors import ModelError
from nacre.export.exported import Exported, LoadedModel, check_writes, export
from nacre.files import user_path
from nacre.learning.learner import Learner
from nacre.models.families import Encoded
from nacre.models.generative import EncoderDecoder
from nacre.optional import need

BOUND = 1e-4
"""Of the logits, as for a merged folder, of which the converter writes every number."""

CONVERTER = "convert_hf_to_gguf.py"
FOLDER = "LLAMA_CPP"
"""The variable of the environment that names a folder with the converter."""

FILE = "model.gguf"


def export_gguf(learner: Learner, folder: Path, rows: Sequence[Encoded]) -> Exported:
    """Write a GGUF file in float32; llama.cpp's tools make smaller ones of it.

    Args:
        learner: What is exported.
        folder: A new folder, for the file alone.
        rows: To compare on (`exported.rows_of`).

    Raises:
        ModelError: If no one weight holds what was learned, if the converter is not installed or does not know such a
            model, or if the file, loaded again by transformers, answers otherwise.
        NacreError: If the package that reads such files is not installed.
    """
    check_writes(learner, "gguf")
    need("gguf", "Reading a GGUF file back", "gguf")
    converter = _converter()
    merged = learner.merged()
    kind = AutoModelForSeq2SeqLM if isinstance(learner.host.family, EncoderDecoder) else AutoModelForCausalLM

    def write(place: Path) -> None:
        with tempfile.TemporaryDirectory(dir=place.parent) as plain:
            merged.save_pretrained(plain)  # type: ignore[operator]
            learner.host.tokenizer.save_pretrained(plain)
            arguments = [plain, "--outfile", str(place / FILE), "--outtype", "f32"]
            done = subprocess.run([sys.executable, str(converter), *arguments], capture_output=True, text=True)
        if done.returncode or not (place / FILE).is_file():
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise ModelError(f"gguf: {converter.name} failed, and said last: {said}")

    def load(place: Path) -> nn.Module:
        model: nn.Module = kind.from_pretrained(place, gguf_file=FILE, dtype=torch.float32)
        return model

    return export("gguf", learner, folder, rows, write, [LoadedModel(load)], BOUND)


def _converter() -> Path:
    named = os.environ.get(FOLDER)
    found = shutil.which(CONVERTER) if named is None else user_path(named) / CONVERTER
    if found is None or not Path(found).is_file():
        where = "on the PATH" if named is None else f"in {FOLDER}='{named}'"
        raise ModelError(
            f"gguf: {CONVERTER}, of llama.cpp, is not {where}. Name its folder in the variable {FOLDER}, or take the "
            "format merged, and convert that elsewhere."
        )
    return Path(found)
