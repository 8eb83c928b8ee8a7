"""A folder's journal, to which lines are only ever appended, and the lock by which one process holds the folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nacre.documents import parse_json
from nacre.errors import RecipeError
from nacre.files import naming, read_bytes


class Journal:
    """A file of what happened when: a JSON object a line.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, document: Mapping[str, Any]) -> None:
        """Write a line, with the time in front.

        Args:
            document: What happened, as plain values.
        """
        line = json.dumps({"time": round(time.time(), 3), **document}, ensure_ascii=False)
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """What was written, oldest first; a line that a killed process did not finish is left out."""
        try:
            texts = read_bytes(self.path).decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [line for text in texts if isinstance(line := _line(text), dict)]

    def mend(self) -> None:
        """End the line that a killed process did not finish, so that it stays alone."""
        if self.path.exists() and not read_bytes(self.path).endswith(b"\n"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")


def _line(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return None


@contextmanager
def held(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder against a second process. The system lets go of it when the process ends, in whatever way.

    Args:
        folder: What is held; it is made if there is none.
        busy: The error, if another process holds it.

    Raises:
        RecipeError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RecipeError(busy) from None
    try:
        yield
    finally:
        lock.release()
