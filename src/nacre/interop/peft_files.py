"""A stock PEFT LoRA on disk, read without PEFT."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nacre.errors import ModelError
from nacre.files import read_bytes
from nacre.settings import complaint

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

OUTER = "base_model.model."
"""What PEFT puts before the names of a model's modules."""

UNUSUAL: Mapping[str, Any] = {
    "bias": "none",
    "use_dora": False,
    "lora_bias": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "trainable_token_indices": None,
    "target_parameters": None,
    "layer_replication": None,
}
"""Settings by which an adapter is more than `W x + s B A x`, and their usual values."""

LoraFactors = Mapping[str, tuple[Tensor, Tensor]]
"""A [r, d_in] and B [d_out, r] by linear map."""


@dataclass(frozen=True)
class PeftLora:
    """A LoRA that PEFT wrote.

    Attributes:
        folder: Where it lies.
        base: The model that it was trained on, as PEFT noted it; empty if it did not.
        rank: r.
        alpha: The update's scale is alpha / r.
        modules: Names of its linear maps, or the ends by which PEFT was told to find them.
        factors: Its tensors.
    """

    folder: Path
    base: str
    rank: int
    alpha: float
    modules: tuple[str, ...]
    factors: LoraFactors


class _Config(BaseModel):
    model_config = ConfigDict(extra="allow")

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1)]
    lora_alpha: Annotated[float, Field(gt=0)]
    use_rslora: bool = False
    base_model_name_or_path: str | None = None
    target_modules: list[str] | str | None = None


def read_peft(folder: Path) -> PeftLora:
    """Read the adapter in a folder.

    Raises:
        ModelError: If there is none, if it is more than a LoRA on linear maps, or if a file is damaged.
    """
    file = folder / CONFIG
    try:
        config = _Config.model_validate_json(read_bytes(file))
    except FileNotFoundError:
        raise ModelError(f"'{folder}' holds no PEFT adapter: it has no {CONFIG}.") from None
    except ValidationError as error:
        raise ModelError(f"{file} describes no LoRA: {complaint(error)}.") from None
    more = config.model_extra or {}
    for key, usual in UNUSUAL.items():
        if more.get(key, usual) not in (usual, None, [], {}):
            raise ModelError(
                f"{file}: '{key}' makes it more than a LoRA on linear maps, which is all that can be taken."
            )
    factors = _factors(folder / WEIGHTS, config.r)
    written = config.target_modules
    modules = tuple(written) if isinstance(written, list) and written else tuple(factors)
    if not _finds(modules, factors):
        modules = tuple(factors)
    alpha = config.lora_alpha * math.sqrt(config.r) if config.use_rslora else config.lora_alpha
    return PeftLora(folder, config.base_model_name_or_path or "", config.r, alpha, modules, factors)


def _factors(file: Path, rank: int) -> LoraFactors:
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise ModelError(f"{file} is missing; pickled weights (adapter_model.bin) are not read.") from None
    except SafetensorError as error:
        raise ModelError(f"{file} is damaged: {error}.") from None
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, kind = key.removeprefix(OUTER).rpartition(".lora_")
        side = kind.removesuffix(".weight").removesuffix(".default")
        if not name or not kind.endswith(".weight") or side not in ("A", "B") or tensor.dim() != 2:
            raise ModelError(f"{file}: '{key}' is no factor of a LoRA on a linear map.")
        found.setdefault(name, {})[side] = tensor.float()
    for name, pair in found.items():
        if pair.keys() != {"A", "B"} or len(pair["A"]) != rank or pair["B"].shape[1] != rank:
            raise ModelError(f"{file}: the factors of '{name}' are not a pair of rank {rank}.")
    if not found:
        raise ModelError(f"{file} holds no factors.")
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def _finds(modules: tuple[str, ...], factors: LoraFactors) -> bool:
    """Whether these endings are those of the adapter's maps, each of them of some."""
    ends = [[f".{name}".endswith(f".{end}") for name in factors] for end in modules]
    return all(map(any, ends)) and all(map(any, zip(*ends, strict=True)))
