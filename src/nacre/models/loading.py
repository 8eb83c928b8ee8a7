"""A host from a folder, a Hugging Face name, or `demo` for the model that comes with the package."""

from __future__ import annotations

import logging
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
    BitsAndBytesConfig,
    PreTrainedModel,
)

from nacre import processes
from nacre.errors import ModelError
from nacre.models.architectures import dropout_settings_of, model_types_of
from nacre.models.encoder_only import is_encoder
from nacre.models.found_weights import check_found_weights
from nacre.models.host import Host
from nacre.models.loaded_as import Attention, Dtype, LoadedAs, Quantization
from nacre.models.mlm_head import own_parameters
from nacre.models.model_folder import check_model_folder
from nacre.models.named import DEMO
from nacre.models.quiet import quiet_transformers
from nacre.models.vocabulary import check_tokenizer_files
from nacre.optional import need

DEEPEST = 10_000
"""Layers of the deepest model that is loaded."""


def load_host(
    name: str,
    dtype: torch.dtype = torch.float32,
    dropout: float | None = None,
    *,
    quantization: Quantization = "none",
    attention: Attention | None = None,
    values: bool = True,
) -> Host:
    """Load model and tokenizer.

    Args:
        name: A folder, a Hugging Face name, or `demo`.
        dtype: Of the weights, whatever type the file stores; of quantized ones, of what is computed with them.
        dropout: Of all the model's own layers in training; None: what its configuration says.
        quantization: Of the linear maps' weights: `int8` and `nf4` need bitsandbytes.
        attention: How attention is computed; None: as transformers chooses.
        values: Whether the weights have any. Without, they take no memory until `Host.shard` gives every process its
            part of the first one's; quantized ones always have some.

    Raises:
        ModelError: If there is no such model, if its files are not whole or of another model, or if no family is known
            for its architecture.
        NacreError: If bitsandbytes is needed and not installed.
    """
    kind: Dtype = str(dtype).removeprefix("torch.")  # type: ignore[assignment]
    return load_host_as(name, LoadedAs(kind, quantization, attention, dropout), values=values)


def load_host_as(name: str, loaded_as: LoadedAs, *, values: bool = True) -> Host:
    """The same, as somebody held it before.

    Raises:
        ModelError, NacreError: As `load_host` does.
    """
    source = str(demo_folder()) if name == DEMO else name
    folder = Path(source) if Path(source).is_dir() else None
    _check_place(name, source, folder)
    with quiet_transformers():  # nacre's own lines say what is wrong
        return _loaded(name, source, folder, loaded_as, values)


def model_without_values(name: str, loaded_as: LoadedAs) -> PreTrainedModel | None:
    """The model of a folder, or `demo`, on torch's meta device: its shapes and types, and no memory.

    It is not quantized: its linear maps have the shapes that they have before.

    Args:
        name: The folder.
        loaded_as: How it is to be held.

    Returns:
        None where the model is not on this machine.

    Raises:
        ModelError: If no family is known for its architecture.
    """
    source = demo_folder() if name == DEMO else Path(name)
    if not source.is_dir():
        return None
    check_model_folder(name, source)
    with quiet_transformers(), torch.device("meta"):
        config = _config(name, str(source), loaded_as)
        model: PreTrainedModel = _loader(name, config).from_config(config, dtype=getattr(torch, loaded_as.dtype))
    return model


def _config(name: str, source: str, loaded_as: LoadedAs) -> Any:
    with _reading(name, "config.json"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    _check_depth(name, config)
    for setting in dropout_settings_of(config) if loaded_as.dropout is not None else ():
        setattr(config, setting, loaded_as.dropout)
    return config


def _loader(name: str, config: Any) -> Any:
    """The class of transformers that makes the model."""
    if config.is_encoder_decoder and type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return AutoModelForSeq2SeqLM
    if is_encoder(config):
        return AutoModelForMaskedLM
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    raise ModelError(
        f"Model '{name}' ({config.model_type}) is neither encoder-decoder nor decoder-only, nor one of the "
        f"encoders that nacre knows ({', '.join(model_types_of('encoder-only'))})."
    )


def _loaded(name: str, source: str, folder: Path | None, loaded_as: LoadedAs, values: bool) -> Host:
    config = _config(name, source, loaded_as)
    if loaded_as.attention is not None:
        config._attn_implementation = loaded_as.attention
    dtype: torch.dtype = getattr(torch, loaded_as.dtype)
    loader = _loader(name, config)
    with _reading(name, "weights"):
        model, loading = loader.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # check_found_weights names them
            **({} if values else {"device_map": {"": "meta"}}) | _quantized(loaded_as.quantization, dtype),
        )
    with _reading(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer("a")  # some settings are read with the first text
    check_tokenizer_files(name, source, tokenizer)
    head = own_parameters(model) if loader is AutoModelForMaskedLM else set()
    check_found_weights(name, model, loading, drawn=head)
    if not head.isdisjoint(loading["missing_keys"]):
        model = model.base_model  # transformers has drawn a head of its own, another one every time
    return Host(model.eval(), tokenizer, name=name, folder=folder, loaded_as=loaded_as)


def _quantized(quantization: Quantization, dtype: torch.dtype) -> dict[str, Any]:
    """What transformers is given for it."""
    if quantization == "none":
        return {}
    need("bitsandbytes", f"model_quantization={quantization}", "quantized")
    if quantization == "int8" and dtype not in (torch.bfloat16, torch.float16):
        raise ModelError("model_quantization=int8 computes in half precision: set model_dtype to float16 or bfloat16.")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it would say with every product that bfloat16 is cast
    if quantization == "int8":
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    # Each process puts the whole model on its own device; it is quantized there, layer by layer.
    return {"quantization_config": settings, "device_map": {"": processes.device()}}


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
