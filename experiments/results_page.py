"""Pages whose tables are written between marks: docs/results.md, unless another is named."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results.md"


def write_between(begin: str, end: str, text: str, page: Path = PAGE) -> None:
    """Put the text between two marks of the page, in the place of what was there."""
    before, found, rest = page.read_text().partition(begin)
    _, found_too, after = rest.partition(end)
    if not (found and found_too):
        raise SystemExit(f"{page} has no place for the tables: {begin} and {end} are to stand in it.")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def percent(values: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation of scores, in %."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{spread}"
