"""Atomic files and hashes: a reader sees the old content or the new, never a part of it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from nacre.documents import shown, text_fault
from nacre.errors import FileError

PARTIAL = ".partial"
"""Ending of a temporary name."""
LONGEST_NAME = 255
"""Bytes of a file's name; no usual file system takes more."""
LONGEST_PATH = 4095


def open_file(path: Path) -> BufferedReader:
    """Open a file for reading bytes. A pipe or a device could keep its reader forever, and is refused.

    Raises:
        OSError: The file cannot be read, or is not a regular one.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a file, but a pipe or a device", str(path))
    return path.open("rb")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        OSError: The file cannot be read, or is not a regular one.
        UnicodeDecodeError: It is not UTF-8.
    """
    with open_file(path) as file:
        return file.read().decode("utf-8-sig")


def user_path(place: str | Path) -> Path:
    """The path that a person wrote: `~` and `~name` are home folders.

    Args:
        place: As it was written.

    Raises:
        FileError: There is no such home folder, or no file can have this name.
    """
    text = str(place)
    if not text.strip():
        raise FileError("An empty text is not a path; write . for the current folder.")
    if fault := text_fault(text):
        raise FileError(f"The path {shown(text)} cannot be used: it {fault}.")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise FileError(f"The path {shown(text)} cannot be used: there is no home folder of that name.") from None
    if any(len(part.encode()) > LONGEST_NAME for part in path.parts) or len(str(path).encode()) > LONGEST_PATH:
        raise FileError(f"The path {shown(text)} cannot be used: it is longer than a file system allows.")
    return path


def full_path(path: Path) -> Path:
    """The path from the root, through all links; links in a circle stay as they are, and fail when they are opened."""
    return Path(os.path.realpath(path))


def sha256(path: Path) -> str:
    """Hash of a file's bytes, hexadecimal."""
    with open_file(path) as file:
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an operating system's error names this file: those of writing name none, others a temporary one."""
    try:
        yield
    except OSError as error:
        if error.filename is None or PARTIAL in str(error.filename):
            error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write to a temporary name beside ``path``, flush to disk, rename. A killed process leaves the old file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with naming(path):
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
        with naming(path):
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
    with naming(path), path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
