"""Comparing a model with itself: a row in a padded, cached batch, and its labels, with the row alone.

What is known of an architecture stands in its row of `models/architectures`. Of one without a row nothing is known: it
may read padding (RWKV), or have a cache that cannot be repeated (Mamba). A few tokens show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from nacre.errors import ModelError
from nacre.functional.losses import IGNORED
from nacre.models.architectures import config_of
from nacre.models.batch import Batch
from nacre.models.families import Encoded
from nacre.models.generative import Generative
from nacre.models.label_tree import tree_of
from nacre.models.vocabulary import embeddings_of
from nacre.models.ways import Ways

SIZES = (2, 11, 11)
"""Tokens of the inputs. Most of the short one's place in the batch is padding; the others can share a batch without."""

WRITTEN = 4
"""Tokens of an answer."""

NEW_WAYS: tuple[dict[str, bool], ...] = ({}, {"padded": False}, {"cached": False}, {"padded": False, "cached": False})
"""In this order they are tried, until one gives the numbers of the row alone."""


def find_ways(family: Generative, device: torch.device) -> Ways:
    """Find how a model can be run in batches.

    The model's mode, its settings and torch's random state stay as they are.

    Args:
        family: Of the host; no learner is in it yet.
        device: Where the model is.

    Returns:
        What may be done with its rows.

    Raises:
        ModelError: If the loss of a row depends on the rows beside it, or if answers are not computed as training
            computes them, whatever is tried.
    """
    check = _SelfCheck(family, device)
    kind = config_of(family.model).model_type
    with _undisturbed(family):
        if not check.trains():
            raise ModelError(
                f"The architecture '{kind}' computes another loss for a row beside others than for the row alone"
                f"{check.reason}: nacre cannot train it."
            )
        ways = next((ways for change in NEW_WAYS if check.writes(ways := replace(Ways(), **change))), None)
        if ways is None:
            raise ModelError(
                f"The architecture '{kind}' computes other logits when it writes than when it is trained"
                f"{check.reason}: nacre cannot use it."
            )
        if check.reads_labels(ways):
            return ways
        ways = replace(ways, labels_cached=False)
        return ways if check.reads_labels(ways) else replace(ways, labels=False)


@contextmanager
def _undisturbed(family: Generative) -> Iterator[None]:
    was_training, before = family.model.training, family.ways
    family.model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        family.model.train(was_training)
        family.ways = before


class _SelfCheck:
    """Compares logits with those of a row alone, without padding and without a cache.

    Attributes:
        reason: What the last comparison raised, for a message; empty if it raised nothing.
    """

    def __init__(self, family: Generative, device: torch.device) -> None:
        self.family, self.device, self.reason = family, device, ""
        special = {*family.tokenizer.all_special_ids, family.end, family.pad}
        ids = [number for number in range(embeddings_of(family.model)) if number not in special]
        step = max(1, len(ids) // 64)  # from everywhere in the vocabulary
        words = ids[::step] * (1 + 64 // len(ids[::step]))
        self.sources = tuple(tuple(words[start : start + size]) for start, size in enumerate(SIZES, 5))
        first, second, third = words[:3]
        self.labels = tuple((*label, family.end) for label in ((first, second), (third,), (first, third, second)))

    def trains(self) -> bool:
        """Whether rows side by side have the logits that they have alone."""

        def compare() -> Iterator[tuple[Tensor, Tensor]]:
            rows = list(zip(self.sources, self.labels, strict=True))
            yield from zip(self._targets(rows), (self._targets([row])[0] for row in rows), strict=True)

        return self._same(compare)

    def writes(self, ways: Ways) -> bool:
        """Whether written answers have the logits that their tokens have in training."""

        def compare() -> Iterator[tuple[Tensor, Tensor]]:
            self.family.ways = ways
            for sources in self._batches(ways.padded):
                for source, (tokens, logits) in zip(sources, self._written(sources), strict=True):
                    yield logits, self._targets([(source, tokens)])[0]

        return self._same(compare)

    def reads_labels(self, ways: Ways) -> bool:
        """Whether labels have the logits, node by node, that they have in training."""
        tree = tree_of(self.labels)

        def compare() -> Iterator[tuple[Tensor, Tensor]]:
            self.family.ways = ways
            for sources in self._batches(ways.padded and ways.labels_cached):
                reading = self.family.reading(self._prompts(sources), tree)
                for number, source in enumerate(sources):
                    for label in self.labels:
                        nodes = torch.tensor([tree.number[label[:step]] for step in range(len(label))])
                        found = reading(torch.full_like(nodes, number).to(self.device), nodes.to(self.device))
                        yield found, self._targets([(source, label)])[0]

        return self._same(compare)

    def _batches(self, padded: bool) -> list[list[tuple[int, ...]]]:
        """The sources as one batch, or, without padding, as one for each length."""
        if padded:
            return [list(self.sources)]
        return [list(group) for _, group in groupby(self.sources, key=len)]

    def _same(self, compare: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> bool:
        self.reason = ""
        try:
            return all(_close(found, alone) for found, alone in compare())
        except Exception as error:  # an unknown architecture may raise anything where it cannot do what is tried
            self.reason = f" ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            return False

    def _targets(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Tensor]:
        """Of each source and target, as one training batch: the target's logits, [tokens, V]."""
        encoded = [Encoded(tuple(source), tuple(target), truncated=False) for source, target in rows]
        logits, labels = self.family.predictions(self.family.model, self.family.batch(encoded).to(self.device))
        return [own[wanted != IGNORED] for own, wanted in zip(logits, labels, strict=True)]

    def _prompts(self, sources: Sequence[Sequence[int]]) -> Batch:
        return self.family.prompts([Encoded(tuple(s), (), truncated=False) for s in sources]).to(self.device)

    def _written(self, sources: Sequence[Sequence[int]]) -> list[tuple[list[int], Tensor]]:
        """Of each source, as one batch: the tokens that are written, and the logits that they were chosen by."""
        prompts, model = self._prompts(sources), self.family.model
        with self.family.generation(self.family.greedy(WRITTEN)) as settings:
            settings.return_dict_in_generate = settings.output_logits = True
            output: Any = model.generate(**prompts, generation_config=settings)  # type: ignore[operator]
        logits = torch.stack(output.logits, 1)  # [B, T, V]
        tokens = self.family.written(output.sequences, prompts["input_ids"])[:, -logits.shape[1] :].tolist()
        ends = set(settings.eos_token_id)
        sizes = [next((n for n, token in enumerate(row, 1) if token in ends), len(row)) for row in tokens]
        return [(row[:size], own[:size]) for row, own, size in zip(tokens, logits, sizes, strict=True)]


def _close(found: Tensor, alone: Tensor) -> bool:
    """Whether two computations of [tokens, V] logits differ by rounding only. What is -inf in one must be in both."""
    finite = torch.isfinite(alone)
    if found.shape != alone.shape or not finite.any() or not torch.equal(finite, torch.isfinite(found)):
        return False
    spread = alone[finite].max() - alone[finite].min()
    return bool((found[finite] - alone[finite]).abs().max() <= torch.finfo(alone.dtype).eps ** 0.5 * spread)
