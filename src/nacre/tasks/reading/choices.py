"""What the owner of the data may choose about rows that are not as they should be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choices:
    """How rows are read. The choices are part of a recipe, and what they changed is recorded in `Task.source`.

    Attributes:
        seed: Seed for rows held out of the training rows.
        skip_bad_rows: Whether rows that cannot be read are left out; otherwise a message names them.
        fold_labels: Whether labels that differ only in case or white space are one label.
    """

    seed: int = 0
    skip_bad_rows: bool = False
    fold_labels: bool = False


DEFAULT = Choices()
