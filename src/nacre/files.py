"""Atomic files and hashes: a reader sees the old content or the new, never a part of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Hash of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(value: Any) -> str:
    """Hash of a plain value (dicts, lists, strings, numbers), independent of the order of keys."""
    return hashlib.sha256(to_json(value, indent=None).encode()).hexdigest()


def to_json(value: Any, indent: int | None = 2) -> str:
    """Strict JSON with sorted keys; NaN and infinity are refused, because readers disagree about them."""
    return json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False)


def safe_name(name: str) -> str:
    """A name as a part of a file's: characters that a file system may refuse become hyphens."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:40] or "task"


def numbered_name(number: int, name: str) -> str:
    """`NN-name`, as a part of a file's name; see `safe_name`."""
    return f"{number:02d}-{safe_name(name)}"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write to a temporary name beside ``path``, flush to disk, rename. A killed process leaves the old file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def build_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write a folder under a temporary name, flush every file, then rename it to ``path``.

    A folder of that name is replaced. A process killed at any moment leaves the old folder, the new one, or
    neither under that name; leftovers carry a leading dot and the ending ``.partial``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    former = path.with_name(f".{path.name}.{os.getpid()}.former.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        fill(temporary)
        for file in sorted(temporary.rglob("*")):
            _sync_folder(file) if file.is_dir() else _sync_file(file)
        _sync_folder(temporary)
        if path.exists():
            path.replace(former)
        temporary.replace(path)
    except BaseException:
        if former.exists() and not path.exists():
            former.replace(path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(former, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
