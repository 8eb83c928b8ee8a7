"""Settings and result of a pretraining. Free of torch: the command line shows the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nacre.errors import RecipeError

Objective = Literal["span_corruption", "causal"]
OBJECTIVES: tuple[Objective, ...] = ("span_corruption", "causal")


@dataclass(frozen=True)
class PretrainSettings:
    """Every setting of a pretraining; the defaults are those of the embedded model.

    Attributes:
        objective: `span_corruption` makes a T5, `causal` a Llama; see `objectives`.
        d_model: Width.
        layers: Layers of the encoder, or of a causal model.
        decoder_layers: Layers of the decoder (span corruption only).
        heads: Attention heads.
        d_ff: Width of the feed-forward, which is gated.
        vocabulary: Entries of the tokenizer, when one is trained: bytes, special tokens, sentinels and merges.
        sentinels: Number of `<extra_id_n>` tokens of the trained tokenizer.
        lowercase: Whether the trained tokenizer lower-cases its input, so that a small vocabulary goes further.
        length: Most tokens of a passage; longer ones are cut into windows.
        mask_share: Share of a passage's tokens that is masked.
        mean_span: Mean tokens per masked span.
        continuation: Share of the passages trained as prefix and continuation (span corruption only).
        steps: Optimizer steps.
        batch_size: Windows per step.
        learning_rate: Peak rate, relative to each parameter tensor's root mean square at the start; see `training`.
        warmup: Share of the steps with a rising rate; afterwards it falls to zero along a cosine.
        seed: Of weights, batches, masks and the held-out windows.
        threads: Threads of torch during the training; the weights depend on it in the last bits.

    Raises:
        RecipeError: A value is out of range.
    """

    objective: Objective = "span_corruption"
    d_model: int = 128
    layers: int = 2
    decoder_layers: int = 2
    heads: int = 4
    d_ff: int = 256
    vocabulary: int = 1500
    sentinels: int = 32
    lowercase: bool = True
    length: int = 64
    mask_share: float = 0.2
    mean_span: float = 1.5
    continuation: float = 0.4
    steps: int = 4000
    batch_size: int = 32
    learning_rate: float = 0.02
    warmup: float = 0.05
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise RecipeError(f"objective: '{self.objective}' is unknown. Known: {', '.join(OBJECTIVES)}.")
        counts = ("d_model", "layers", "decoder_layers", "heads", "d_ff", "sentinels", "steps", "batch_size", "threads")
        for name in counts:
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: {getattr(self, name)} is a count and must be at least 1.")
        if self.d_model % (2 * self.heads):
            raise RecipeError(
                f"d_model: {self.d_model} is not a multiple of twice the number of heads ({self.heads}); "
                "every head needs an even width."
            )
        if self.length < 8:
            raise RecipeError(f"length: {self.length} is less than 8 tokens, too few to mask spans in.")
        if not 0 < self.mask_share < 1:
            raise RecipeError(f"mask_share: {self.mask_share} is not in (0, 1); it is the share of masked tokens.")
        if self.mean_span < 1:
            raise RecipeError(f"mean_span: {self.mean_span} is less than one token.")
        for name in ("continuation", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name}: {getattr(self, name)} is not in [0, 1]; it is a share.")
        if not 0 < self.learning_rate < 1:
            raise RecipeError(f"learning_rate: {self.learning_rate} is not in (0, 1); it is relative, 0.02 is usual.")


@dataclass(frozen=True)
class PretrainResult:
    """The outcome of a pretraining.

    Attributes:
        loss_before: Mean loss per target token on held-out passages before training, in nats.
        loss_after: The same after training.
        parameters: Number of parameters.
        passages: Passages trained on; one longer than `length` counts once per window.
        held_out: Passages measured on, counted likewise.
        seconds: Wall-clock time.
    """

    loss_before: float
    loss_after: float
    parameters: int
    passages: int
    held_out: int
    seconds: float
