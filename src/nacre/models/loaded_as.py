"""How a model is held in memory; read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Dtype = Literal["float32", "bfloat16", "float16", "float64"]
Quantization = Literal["none", "int8", "nf4"]
"""Of the linear maps' weights: none; 8 bits by LLM.int8(); 4 bits by QLoRA's NormalFloat, whose scales are quantized
once more. Both are computed by bitsandbytes."""
Attention = Literal["eager", "sdpa", "flash_attention_2"]


@dataclass(frozen=True)
class LoadedAs:
    """How a model is held in memory.

    Attributes:
        dtype: Of its weights; where these are quantized, of what is computed with them.
        quantization: Of its linear maps.
        attention: How attention is computed; None: as transformers chooses.
        dropout: Of all its own layers in training; None: what its configuration says.
    """

    dtype: Dtype = "float32"
    quantization: Quantization = "none"
    attention: Attention | None = None
    dropout: float | None = None

    def document(self) -> dict[str, Any]:
        """What of it answers depend on, and is not as usual; as plain values."""
        usual = asdict(LoadedAs())
        return {key: value for key, value in asdict(self).items() if key != "dropout" and value != usual[key]}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> LoadedAs:
        """What `document` gave."""
        return cls(**document)
