"""What a run's model and training need of memory, from the model's configuration alone."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import PreTrainedModel

from nacre.method import Method
from nacre.models.encoder_only import is_encoder
from nacre.models.loaded_as import LoadedAs
from nacre.models.loading import model_without_values
from nacre.models.sharding import cut_weights, layers_of
from nacre.runs.recipe import Recipe

NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""Of a weight: 4 bits, and its share of a scale for 64 weights, a byte with a share of a scale for 256 such scales."""

MOMENTS = 2
"""Numbers that AdamW keeps of each trained one."""


class MemoryNeed(BaseModel):
    """Bytes that a run needs at least: what a batch's layers compute is not counted.

    Attributes:
        parameters: Of the pretrained model.
        weights: Their bytes.
        trained_parameters: For the first task.
        trained: Bytes of trained parameters that are not the model's own.
        gradients: Their bytes.
        optimizer: Bytes of AdamW's moments.
        slot: Bytes that each earlier task adds; 0 where the method does not grow.
        cut: Of all these, the bytes that are shared out where the model is sharded; 0 where it cannot be.
        layer: Of the largest layer's weights, which each process then has while the layer computes.
        available: Of the device, or of main memory where there is none.
        device: Whose memory that is.
    """

    model_config = ConfigDict(frozen=True)

    parameters: int
    weights: int
    trained_parameters: int
    trained: int
    gradients: int
    optimizer: int
    slot: int
    cut: int
    layer: int
    available: int
    device: str

    @property
    def total(self) -> int:
        """While the first task is learned."""
        return self.weights + self.trained + self.gradients + self.optimizer

    @property
    def processes(self) -> int | None:
        """How many processes can hold the model sharded, each on such a device; None if no number can."""
        room = self.available - (self.total - self.cut) - self.layer
        return max(2, math.ceil(self.cut / room)) if self.cut and room > 0 else None

    def __str__(self) -> str:
        parts = {
            f"{self.parameters:,} weights": self.weights,
            f"{self.trained_parameters:,} trained ones": self.trained,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
        }
        listed = ", ".join(f"{name} {spoken(size)}" for name, size in parts.items() if size)
        each = f"; each earlier task adds {spoken(self.slot)}" if self.slot else ""
        return (
            f"at least {spoken(self.total)} of the {self.device}'s {spoken(self.available)}: {listed}{each}; what "
            "layers compute comes on top (--estimate measures it)"
        )

    def refusal(self) -> str | None:
        """Why the run cannot fit, in a sentence; None if it may."""
        if self.total <= self.available:
            return None
        several = f", or cut the model over {self.processes} such devices or more (--sharded)"
        return (
            f"memory: the run needs {spoken(self.total)} at least, and the {self.device} has {spoken(self.available)}: "
            "set model_dtype=bfloat16 or model_quantization=nf4, take a method that trains less"
            f"{several if self.processes else ''}."
        )


def memory_need(recipe: Recipe, method: Method, tasks: int) -> MemoryNeed | None:
    """What a run needs at least.

    Args:
        recipe: Which model, and how it is held.
        method: What is trained.
        tasks: How many the stream has.

    Returns:
        None where the model is not on this machine, or what is trained depends on the values of its weights.

    Raises:
        ModelError: If the method does not fit the model.
    """
    model = model_without_values(recipe.model, recipe.loaded_as)
    if model is None:
        return None
    weights = _bytes_of(model, recipe.loaded_as)
    own = {id(parameter) for parameter in model.parameters()}
    body = model.base_model if is_encoder(model.config) else model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        placed = method.adapter.place(body)
        placed.grow()
    except NotImplementedError:  # torch's, where a value is read: osf and latent_lora decompose the weights
        return None
    trained = [parameter for group in placed.parameter_groups() for parameter in group.parameters]
    added = _size([parameter for parameter in trained if id(parameter) not in own])
    layers = [] if recipe.loaded_as.quantization != "none" else [cut_weights(layer) for layer in layers_of(body)]
    own_layers = {id(weight) for layer in layers for weight in layer} & own
    trained_there = _size(parameter for parameter in trained if id(parameter) in own_layers)
    in_layers = _size(weight for layer in layers for weight in layer if id(weight) in own_layers)
    available, device = _available()
    return MemoryNeed(
        parameters=parameters,
        weights=weights,
        trained_parameters=sum(parameter.numel() for parameter in trained),
        trained=added,
        gradients=_size(trained),
        optimizer=MOMENTS * _size(trained),
        slot=added if method.adapter.grows and tasks > 1 else 0,
        cut=in_layers + (1 + MOMENTS) * trained_there,
        layer=max((_size(weight for weight in layer if id(weight) in own_layers) for layer in layers), default=0),
        available=available,
        device=device,
    )


def _bytes_of(model: PreTrainedModel, loaded_as: LoadedAs) -> int:
    """Of all weights, each counted once."""
    if loaded_as.quantization == "none":
        return _size(model.parameters())
    kept = [model.get_output_embeddings(), model.get_input_embeddings()]
    whole = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    quantized = {
        id(module.weight): module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in kept and name.rpartition(".")[2] not in whole
    }
    rest = [parameter for parameter in model.parameters() if id(parameter) not in quantized]
    numbers = sum(weight.numel() for weight in quantized.values())
    if loaded_as.quantization == "nf4":
        return _size(rest) + round(NF4_BYTES * numbers)
    return _size(rest) + numbers + 4 * sum(len(weight) for weight in quantized.values())  # a float32 scale a row


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _available() -> tuple[int, str]:
    """How much memory there is where the run would compute, and whose it is."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, "GPU"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "machine"


def spoken(size: float) -> str:
    """A number of bytes in a unit that leaves few digits."""
    units = ("bytes", "KB", "MB", "GB", "TB")
    place = min(int(math.log(size, 1000)), len(units) - 1) if size >= 1 else 0
    return f"{size / 1000**place:.{1 if place else 0}f} {units[place]}"
