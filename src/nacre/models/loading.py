"""A host from a folder, a Hugging Face name, or `demo` for the model that comes with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from nacre.errors import ModelError
from nacre.models.architectures import dropout_settings_of, model_types_of
from nacre.models.encoder_only import is_encoder
from nacre.models.host import Host
from nacre.models.mlm_head import lacks_mlm_head

DEMO = "demo"


def load_host(name: str, dtype: torch.dtype = torch.float32, dropout: float | None = None) -> Host:
    """Load model and tokenizer.

    Args:
        name: A folder, a Hugging Face name, or `demo`.
        dtype: Of the weights, whatever type the file stores.
        dropout: Of all the model's own layers in training; None: what its configuration says.

    Raises:
        ModelError: If there is no such model, no config, or no family for its architecture.
    """
    # Loading takes a second and is followed by nacre's own lines; another library's bar between them only confuses.
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    source = str(demo_folder()) if name == DEMO else name
    folder = Path(source) if Path(source).is_dir() else None
    _check_place(name, source, folder)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ModelError(f"Model '{name}' cannot be read: {_first_line(error)}") from None
    for setting in dropout_settings_of(config) if dropout is not None else ():
        setattr(config, setting, dropout)
    if config.is_encoder_decoder and type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        loader = AutoModelForSeq2SeqLM
    elif is_encoder(config):
        loader = AutoModelForMaskedLM
    elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        loader = AutoModelForCausalLM
    else:
        raise ModelError(
            f"Model '{name}' ({config.model_type}) is neither encoder-decoder nor decoder-only, nor one of the "
            f"encoders that nacre knows ({', '.join(model_types_of('encoder-only'))})."
        )
    try:
        model, loading = loader.from_pretrained(source, config=config, dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"Model '{name}' cannot be loaded: {_first_line(error)}") from None
    model.eval()
    if loader is AutoModelForMaskedLM and lacks_mlm_head(model, loading["missing_keys"]):
        model = model.base_model  # transformers has drawn a head of its own, another one every time
    return Host(model, tokenizer, name=name, folder=folder)


def demo_folder() -> Path:
    """Where the embedded model lies."""
    return Path(str(files("nacre.assets"))) / "demo-t5"


def _check_place(name: str, source: str, folder: Path | None) -> None:
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise ModelError(f"Model folder '{name}' has no config.json: it is not a Hugging Face model folder.")
        return
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
    if looks_like_path or not source:
        raise ModelError(f"Model folder '{name}' does not exist.")


def _first_line(error: Exception) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if line.endswith(".") else f"{line}."
