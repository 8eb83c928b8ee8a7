"""A plain Hugging Face folder with what was learned added to the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from nacre.export.exported import Exported, LoadedModel, check_writes, export
from nacre.learning.learner import Learner
from nacre.models.families import Encoded
from nacre.models.loading import load_host_as

BOUND = 1e-4
"""Of the logits: a weight and its updates are rounded together, where the learner may have added them in parts."""


def export_merged(learner: Learner, folder: Path, rows: Sequence[Encoded]) -> Exported:
    """Write model and tokenizer as `from_pretrained` loads them.

    Args:
        learner: What is exported.
        folder: A new folder.
        rows: To compare on (`exported.rows_of`).

    Raises:
        ModelError: If no one weight holds what was learned, or if the folder, loaded again, answers otherwise.
    """
    check_writes(learner, "merged")
    merged = learner.merged()

    def write(place: Path) -> None:
        merged.save_pretrained(place)  # type: ignore[operator]
        learner.host.tokenizer.save_pretrained(place)

    def load(place: Path) -> torch.nn.Module:
        return load_host_as(str(place), learner.host.loaded_as).model

    return export("merged", learner, folder, rows, write, [LoadedModel(load)], BOUND)
