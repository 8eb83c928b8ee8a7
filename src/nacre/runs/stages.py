"""What the folders of a run's stages are called."""

from __future__ import annotations

import re


def stage_name(number: int, name: str) -> str:
    """``NN-name``; characters that a file system may refuse become hyphens."""
    return f"{number:02d}-{safe(name)}"


def safe(name: str) -> str:
    """A task's name as a part of a file's."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:40] or "task"
