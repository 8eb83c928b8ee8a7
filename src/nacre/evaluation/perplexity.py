"""How well a host knows a text: the share of tokens it names, and its perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nacre.events import OnEvent, RowsAnswered, ignore
from nacre.functional.losses import IGNORED, token_loss_sum
from nacre.models.families import Encoded, Lengths
from nacre.models.host import Host
from nacre.tasks.task import Task

PERPLEXITY = (
    "exp of the mean over a test split's predicted tokens of -ln p(token | context); the score of such a task is the "
    "share of them that are the likeliest token. Encoder-only hosts: hidden tokens, and the rest of their chunk"
)


@dataclass(frozen=True)
class TextScore:
    """On n tokens w_j, each predicted from its context c_j: what is left of an encoder-only host's chunk when 15 % of
    it is hidden; the tokens before w_j in a decoder-only host's.

    Attributes:
        accuracy: Share of w_j that are the likeliest token.
        perplexity: exp(-1/n sum_j ln p(w_j | c_j)). An encoder's is the perplexity of hidden tokens, many at once, and
            not a likelihood of the text: compare it with other encoders' only.
        right: How many tokens are predicted rightly, by chunk.
        tokens: How many tokens are predicted, by chunk.
    """

    accuracy: float
    perplexity: float
    right: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def value(self) -> float:
        """What stands in the matrix."""
        return self.accuracy


@torch.inference_mode()
def measure_text(host: Host, task: Task, lengths: Lengths, batch_size: int, on_event: OnEvent = ignore) -> TextScore:
    """Score the test rows of a task of unlabeled text.

    Which tokens are hidden follows from the task's name and the chunk's number in it: the same for every run, method
    and seed.

    Args:
        host: The model that is measured.
        task: The task.
        lengths: Tokens of a chunk.
        batch_size: Chunks measured at once.
        on_event: Is called after each batch.
    """
    rows = [
        row.with_fresh_masks(0, "test", task.name, number)
        for number, row in enumerate(host.family.encode_all(task.examples("test"), lengths))
    ]
    loss, right = 0.0, []
    training = host.model.training
    host.model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            batch_loss, batch_right = _measure(host, rows[start : start + batch_size])
            loss += batch_loss
            right += batch_right
            on_event(RowsAnswered(done=len(right), rows=len(rows)))
    finally:
        host.model.train(training)
    tokens = tuple(len(row.target) for row in rows)
    return TextScore(sum(right) / sum(tokens), math.exp(loss / sum(tokens)), tuple(right), tokens)


def _measure(host: Host, rows: Sequence[Encoded]) -> tuple[float, list[int]]:
    """The summed loss of a batch, and how many tokens are right in each of its rows."""
    logits, labels = host.family.predictions(host.model, host.on_device(host.family.batch(rows)))
    hits = ((logits.argmax(-1) == labels) & (labels != IGNORED)).flatten()
    targets = (labels != IGNORED).flatten()
    in_row = torch.split(hits[targets], [len(row.target) for row in rows])  # a row's tokens stand side by side
    return float(token_loss_sum(logits, labels).item()), [int(part.sum()) for part in in_row]
