"""What goes into a pretraining and what comes of it. Free of torch: the command line shows the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nacre.errors import RecipeError

Objective = Literal["span_corruption", "causal"]
OBJECTIVES: tuple[Objective, ...] = ("span_corruption", "causal")


@dataclass(frozen=True)
class PretrainSettings:
    """Every setting of a pretraining; the defaults are those of the embedded model.

    objective: ``span_corruption`` makes a T5, ``causal`` a Llama; see ``objectives``.
    d_model, layers, decoder_layers, heads, d_ff: the architecture; ``layers`` counts the encoder's (or a causal
        model's), ``decoder_layers`` belongs to span corruption only. The feed-forward is gated, embeddings are tied.
    vocabulary: entries of the tokenizer, when one is trained: bytes, special tokens, sentinels and merges.
    sentinels: how many ``<extra_id_n>`` the trained tokenizer has.
    lowercase: whether the trained tokenizer lower-cases its input; a small vocabulary reaches further so.
    length: most tokens of a passage; longer ones are cut into windows.
    mask_share, mean_span: share of a passage's tokens that is masked, and mean tokens per span.
    continuation: share of the passages trained as prefix and continuation (span corruption only).
    learning_rate: the peak, relative to each parameter tensor's root mean square at the start, see ``training``.
    warmup: share of the steps with a rising rate; afterwards it falls to zero along a cosine.
    threads: of torch, during the training; the weights depend on it in the last bits.
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
    """What came of it, and what it took.

    loss_before, loss_after: mean loss per target token on held-out passages, in nats.
    passages, held_out: how many were trained on and measured on; a passage longer than ``length`` counts per window.
    """

    loss_before: float
    loss_after: float
    parameters: int
    passages: int
    held_out: int
    seconds: float
