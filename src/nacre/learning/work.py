"""How much a training computed on, and how much of that was padding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """tokens: those of the rows, inputs and targets, over all steps of this process. positions: with padding."""

    tokens: int = 0
    positions: int = 0

    def add(self, tokens: int, positions: int) -> None:
        self.tokens += tokens
        self.positions += positions
