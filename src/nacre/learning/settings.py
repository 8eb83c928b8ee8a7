"""How to train: everything that is neither the method's nor the data's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nacre.learning.schedule import Schedule
from nacre.settings import AS_LIST, Settings

Rate = Annotated[float, Field(gt=0, le=1e3)]  # AdamW moves every weight by about as much in a step
Passes = Annotated[int, Field(ge=1)]
Rates = Annotated[tuple[Rate, ...], Field(min_length=1), AS_LIST]
PassesByTask = Annotated[tuple[Passes, ...], Field(min_length=1), AS_LIST]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Optim(Settings):
    """AdamW and its schedule; one optimizer a task, as in the released code of all three papers."""

    learning_rate: Rate | Rates | None = Field(
        default=None, description="None: what the method's adapter recommends; a list: one for each task"
    )
    batch_size: int = Field(
        default=16, ge=1, description="rows of one optimizer step, over all micro-batches and processes"
    )
    accumulation: int = Field(
        default=1, ge=1, description="micro-batches into which a step's rows are split; changes memory, not results"
    )
    split_padding: int | None = Field(
        default=256,
        ge=0,
        description="tokens of padding that are worth one micro-batch more, of rows of like length; None: none are",
    )
    pad_to_multiple_of: int = Field(
        default=8,
        ge=1,
        le=65_536,
        description="widths of padded inputs: those at which accelerators' matrix units are full",
    )
    epochs: Passes | PassesByTask = Field(default=1, description="over a task's rows; a list: one for each task")
    betas: Annotated[tuple[Decay, Decay], AS_LIST] = Field(
        default=(0.9, 0.999), description="of AdamW's running means of the gradient and of its square"
    )
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="gradients are clipped to this norm; None: not at all"
    )
    schedule: Schedule = Field(
        default="constant", description="of the rate, over a task's steps: constant, linear or cosine"
    )
    warmup: float = Field(
        default=0.0, ge=0, lt=1, description="share of a task's steps over which the rate rises; the first is not 0"
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="what a layer computed is computed again in the backward pass: about a third more time, and memory "
        "for one layer; changes no result",
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    max_source_length: int = Field(default=512, ge=8, description="tokens of an input; only the text field is cut")
    max_target_length: int = Field(default=50, ge=1, description="tokens of a target in training")
    log_every: int = Field(default=10, ge=1, description="steps between two readings of loss and rate")
