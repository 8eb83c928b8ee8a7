"""Pages whose tables are written between marks: docs/results.md, unless another is named."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results.md"


def write_between(begin: str, end: str, text: str, page: Path = PAGE) -> None:
    """Put the text between two marks of the page, in the place of what was there."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
