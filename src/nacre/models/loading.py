"""A host from a folder, a Hugging Face name, or `demo` for the model that comes with the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

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

from nacre.errors import ModelError
from nacre.models.architectures import dropout_settings_of, model_types_of
from nacre.models.encoder_only import is_encoder
from nacre.models.found_weights import check_found_weights
from nacre.models.host import Host
from nacre.models.mlm_head import own_parameters
from nacre.models.model_folder import check_model_folder
from nacre.models.named import DEMO
from nacre.models.quiet import quiet_transformers
from nacre.models.vocabulary import check_tokenizer_files

DEEPEST = 10_000
"""Layers of the deepest model that is loaded."""


def load_host(name: str, dtype: torch.dtype = torch.float32, dropout: float | None = None) -> Host:
    """Load model and tokenizer.

    Args:
        name: A folder, a Hugging Face name, or `demo`.
        dtype: Of the weights, whatever type the file stores.
        dropout: Of all the model's own layers in training; None: what its configuration says.

    Raises:
        ModelError: If there is no such model, if its files are not whole or of another model, or if no family is known
            for its architecture.
    """
    source = str(demo_folder()) if name == DEMO else name
    folder = Path(source) if Path(source).is_dir() else None
    _check_place(name, source, folder)
    with quiet_transformers():  # nacre's own lines say what is wrong
        return _loaded(name, source, folder, dtype, dropout)


def _loaded(name: str, source: str, folder: Path | None, dtype: torch.dtype, dropout: float | None) -> Host:
    with _reading(name, "config.json"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    _check_depth(name, config)
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
    with _reading(name, "weights"):
        model, loading = loader.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # check_found_weights names them
        )
    with _reading(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer("a")  # some settings are read with the first text
    check_tokenizer_files(name, source, tokenizer)
    head = own_parameters(model) if loader is AutoModelForMaskedLM else set()
    check_found_weights(name, model, loading, drawn=head)
    if not head.isdisjoint(loading["missing_keys"]):
        model = model.base_model  # transformers has drawn a head of its own, another one every time
    return Host(model.eval(), tokenizer, name=name, folder=folder)


def _check_depth(name: str, config: Any) -> None:
    """Refuse a number of layers that would be built for hours before their weights are missed."""
    for setting, value in vars(config).items():
        if "layer" in setting and isinstance(value, int) and value > DEEPEST:
            raise ModelError(f"Model '{name}': its config.json asks for {setting} = {value}, and no model has so many.")


def demo_folder() -> Path:
    """Where the embedded model lies."""
    return Path(str(files("nacre.assets"))) / "demo-t5"


def _check_place(name: str, source: str, folder: Path | None) -> None:
    if folder is not None:
        check_model_folder(name, folder)
        return
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
    if looks_like_path or not source:
        raise ModelError(f"Model folder '{name}' does not exist.")


@contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    """Inside, transformers reads files that somebody else wrote. Whatever it says of them is about the files."""
    try:
        yield
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"Model '{name}' brings code of its own, which nacre never runs: take a model whose architecture and "
                "tokenizer are part of transformers."
            ) from None
        raise ModelError(f"Model '{name}' cannot be loaded ({what}): {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    line = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no details'}"
    return f"{line[:297]}..." if len(line) > 300 else f"{line.rstrip('.')}."
