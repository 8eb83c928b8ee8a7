"""Numbers as text: percent, points, counts, seconds, bytes. What is not defined is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DASH = "–"
MINUS = "−"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """A fraction as a percentage without its sign: 0.785 is "78.5"."""
    return DASH if fraction is None else _negative_zero(f"{100 * fraction:.{decimals}f}")


def points(difference: float | None) -> str:
    """A difference of fractions in percentage points, with its sign: -0.031 is "−3.1"."""
    if difference is None:
        return DASH
    text = percent(difference)
    return text if text.startswith(MINUS) or text == "0.0" else f"+{text}"


def counted(number: int, what: str) -> str:
    """A number of things: "1 run", "2 runs".

    Args:
        number: How many.
        what: One of them; its plural ends in s.
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def count(number: int | None) -> str:
    """A count with its thousands apart: "1,234,567"."""
    return DASH if number is None else f"{number:,}"


def seconds(duration: float | None) -> str:
    """A duration that reads at a glance: "0.42 s", "12.3 s", "4 min 05 s", "2 h 07 min"."""
    if duration is None:
        return DASH
    if duration < 0.995:
        return f"{duration:.2f} s"
    if duration < 59.95:
        return f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


@dataclass(frozen=True)
class Total:
    """A sum as text; note: of how many stages, where not all have a value."""

    text: str
    note: str


def total_seconds(durations: Sequence[float | None]) -> Total:
    """The sum over the stages that took place: a method that learns all tasks at once has one stage only."""
    known = [duration for duration in durations if duration is not None]
    if not known:
        return Total(DASH, "")
    return Total(
        seconds(sum(known)), "" if len(known) == len(durations) else f"{len(known)} of {len(durations)} stages"
    )


def size(number: int) -> str:
    """A number of bytes in binary units: "512.0 MiB", "1.4 GiB"."""
    mebibytes = number / 2**20
    return f"{mebibytes:.1f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def _negative_zero(text: str) -> str:
    # "-0.0" says that something was lost when nothing was, and a hyphen is not a minus sign.
    if not text.strip("-0."):
        return text.lstrip("-")
    return text.replace("-", MINUS)
