"""The small tasks that every store of these tests learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.stores import write_tasks


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their folder; nobody changes it."""
    return write_tasks(tmp_path_factory.mktemp("data"))
