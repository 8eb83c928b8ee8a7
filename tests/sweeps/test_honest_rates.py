"""The honest table's rates: none is chosen at the edge of what was tried."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("worth", "left"),
    [
        ({}, [1e-4, 1e-3, 5e-3]),
        ({1e-4: 0.5, 5e-3: 0.1}, [1e-3]),
        ({1e-4: 0.4, 1e-3: 0.5, 5e-3: 0.1}, []),
        ({1e-4: 0.5, 1e-3: 0.4, 5e-3: 0.1}, [3e-5]),
        ({3e-5: 0.4, 1e-4: 0.5, 1e-3: 0.4, 5e-3: 0.1}, []),
        ({3e-5: 0.6, 1e-4: 0.5, 1e-3: 0.4, 5e-3: 0.1}, [1e-5]),
        ({1e-4: 0.1, 1e-3: 0.2, 5e-3: 0.3}, [2e-2]),
        ({1e-4: 0.5, 1e-3: 0.5, 5e-3: 0.1}, [3e-5]),
    ],
)
def test_the_next_rate_outward_is_tried(
    monkeypatch: pytest.MonkeyPatch, worth: dict[float, float], left: list[float]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "experiments")
    table = importlib.import_module("honest_table")
    assert table.rates_left("joint", worth) == left
    assert table.rates_left("lda", {}) == []
