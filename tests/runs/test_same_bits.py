"""Every recorded run gives the bits that it gave when it was recorded; see `same_bits.py` for what is compared."""

from __future__ import annotations

import json

import pytest

from nacre.registry import METHODS
from same_bits import RECORD, differences, numerics, record


def test_every_method_has_a_recorded_run() -> None:
    runs = json.loads(RECORD.read_text())["runs"]
    assert {f"t5 {name}" for name in METHODS.names()} <= runs.keys()
    recorded = {name for run in runs for name in run.split()[-1].split("+")[1:]}
    assert {"der", "distill", "hat", "soft_mask", "migu", "replay"} <= recorded


@pytest.mark.long
def test_recorded_runs_keep_their_bits() -> None:
    before = json.loads(RECORD.read_text())
    if numerics() != before["numerics"]:
        pytest.skip("this machine's processor or libraries round otherwise than those of the record")
    now = record()
    assert now["runs"].keys() <= before["runs"].keys()
    assert len(now["runs"]) >= 130
    assert differences(before, now) == []
