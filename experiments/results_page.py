"""docs/results.md, whose tables are written between marks."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results.md"


def write_between(begin: str, end: str, text: str) -> None:
    """Put the text between two marks of the page, in the place of what was there."""
    before, _, rest = PAGE.read_text().partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
