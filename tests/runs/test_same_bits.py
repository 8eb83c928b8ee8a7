"""Every recorded run gives the bits that it gave when it was recorded; see `same_bits.py` for what is compared."""

from __future__ import annotations

import json

import pytest

from same_bits import RECORD, differences, numerics, record

pytestmark = pytest.mark.long


def test_recorded_runs_keep_their_bits() -> None:
    before = json.loads(RECORD.read_text())
    if numerics() != before["numerics"]:
        pytest.skip("this machine's processor or libraries round otherwise than those of the record")
    now = record()
    assert len(now["runs"]) >= 80
    assert differences(before, now) == []
