"""How well a host predicts a text: the share of tokens that it predicts rightly, and its perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nacre import processes
from nacre.events import OnEvent, RowsAnswered, ignore
from nacre.functional.losses import IGNORED, token_loss_sum
from nacre.models.batch import Batch
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.tasks.task import Task

PERPLEXITY = (
    "exp of the mean over a test split's predicted tokens of -ln p(token | context); the score of such a task is the "
    "share of them that are the likeliest token. Encoder-only hosts: hidden tokens, and the rest of their chunk"
)


@dataclass(frozen=True)
class TextScore:
    """The score on n tokens w_j, each predicted from its context c_j.

    For an encoder-only host, c_j is the rest of the chunk when 15 % of it is hidden; for a decoder-only host, it is the
    tokens before w_j.

    Attributes:
        accuracy: Share of w_j that are the likeliest token.
        perplexity: exp(-1/n sum_j ln p(w_j | c_j)). An encoder's is the perplexity of hidden tokens, many at once, and
            not a likelihood of the text: compare it with other encoders' only.
        right: Number of rightly predicted tokens, by chunk.
        tokens: Number of predicted tokens, by chunk.
    """

    accuracy: float
    perplexity: float
    right: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def value(self) -> float:
        """The entry of the matrix: the accuracy."""
        return self.accuracy


@torch.inference_mode()
def measure_text(
    host: Host,
    task: Task,
    lengths: Lengths,
    batch_size: int,
    on_event: OnEvent = ignore,
    predictions: Callable[[Batch], tuple[Tensor, Tensor] | None] = lambda batch: None,
) -> TextScore:
    """Score the test rows of a task of unlabeled text.

    The hidden tokens follow from the task's name and the chunk's number in it: they are the same for every run, method
    and seed.

    Args:
        host: The model that is measured.
        task: The task.
        lengths: Tokens of a chunk.
        batch_size: Chunks measured at once.
        on_event: Is called after each batch.
        predictions: Logits and labels of a batch in place of the host's, or None.
    """
    rows = [
        row.with_fresh_masks(0, "test", task.name, number)
        for number, row in enumerate(host.family.encode_all(task.examples("test"), lengths))
    ]
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    loss, right = 0.0, []
    training = host.model.training
    host.model.eval()
    try:
        measured = processes.by_all(lambda batch: _measure(host, batch, predictions), batches, in_step=host.is_sharded)
        for batch_loss, batch_right in measured:
            loss += batch_loss
            right += batch_right
            on_event(RowsAnswered(done=len(right), rows=len(rows)))
    finally:
        host.model.train(training)
    tokens = tuple(len(row.target) for row in rows)
    return TextScore(sum(right) / sum(tokens), math.exp(loss / sum(tokens)), tuple(right), tokens)


def _measure(
    host: Host, rows: Sequence[Encoded], predictions: Callable[[Batch], tuple[Tensor, Tensor] | None]
) -> tuple[float, list[int]]:
    """The summed loss of a batch, and the number of right tokens in each of its rows."""
    batch = host.on_device(host.family.batch(rows))
    logits, labels = predictions(batch) or host.family.predictions(host.model, batch)
    hits = ((logits.argmax(-1) == labels) & (labels != IGNORED)).flatten()
    targets = (labels != IGNORED).flatten()
    in_row = torch.split(hits[targets], [len(row.target) for row in rows])  # a row's tokens stand side by side
    return float(token_loss_sum(logits, labels).item()), [int(part.sum()) for part in in_row]
