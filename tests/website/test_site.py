"""The documentation site: it builds strictly and offline, no internal link is dead, no method or module is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.links import dead_links, foreign_loads
from nacre.registry import METHODS, MODIFIERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning is an error."""
    pytest.importorskip("zensical", reason="the extra 'docs' is not installed")
    folder = tmp_path_factory.mktemp("build")
    command = [sys.executable, ROOT / "website" / "build.py", "--build", folder]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout[-4000:] + outcome.stderr[-4000:]
    return folder / "site"


def test_no_internal_link_is_dead(site: Path) -> None:
    assert list(dead_links(site)) == []


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    assert list(foreign_loads(site)) == []


def test_every_method_modifier_and_public_module_has_a_page(site: Path) -> None:
    for name in METHODS.names():
        assert (site / "methods" / f"{name}.html").is_file()
    for name in MODIFIERS.names():
        assert (site / "methods" / f"plus_{name}.html").is_file()
    assert "Raises" in (site / "api" / "nacre.registry.html").read_text(encoding="utf-8")
    assert (site / "api" / "nacre.functional.gating.html").is_file()
