"""What a task may be called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nacre.errors import DataError
from nacre.tasks.catalog import canonical


def check_names(names: Sequence[str]) -> None:
    """``DataError`` if there is none, if one cannot be a folder's name, or if two mean the same task."""
    if not names:
        raise DataError("No task is named; name at least one.")
    for name in names:
        if not name.strip() or ".." in name or set(name) & set("/\\\0"):
            raise DataError(
                f"Task name '{name}' cannot be used; a name has no '/', '\\' or '..' in it and is not empty."
            )
    counts = Counter(canonical(name) for name in names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"Task '{twice[0]}' is named twice; a stream holds each task once.")
