"""Atomic files and hashes: a reader sees the old content or the new, never a part of it."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from nacre.documents import DocumentError, parse_yaml, shown, text_fault
from nacre.errors import FileError

PARTIAL, FORMER = "partial", "former.partial"
"""Endings of files and folders that are not complete, and of folders that make way."""
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


def read_bytes(path: Path) -> bytes:
    """The content of a file that somebody may have put there.

    Raises:
        OSError: The file cannot be read, or is not a regular one.
    """
    with open_file(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        OSError: The file cannot be read, or is not a regular one.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_bytes(path).decode("utf-8-sig")


def read_yaml(path: Path) -> Any:
    """The plain value of a YAML file that somebody else wrote; see `documents.parse_yaml`.

    Raises:
        OSError: The file cannot be read, or is not a regular one.
        DocumentError: It is not YAML in UTF-8, or cannot be used.
    """
    try:
        return parse_yaml(read_text(path))
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not valid YAML: it is not UTF-8 (byte {error.start})") from None


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


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document with its own hash, so that a reader notices any change."""
    return {**document, "hash": hash_of(dict(document))}


def unsealed(document: Any) -> dict[str, Any]:
    """The document that `sealed` was given.

    Raises:
        ValueError: It was changed since, or is none.
    """
    if not isinstance(document, dict) or "hash" not in document:
        raise ValueError("it has no hash")
    rest = {key: value for key, value in document.items() if key != "hash"}
    if hash_of(rest) != document["hash"]:
        raise ValueError("its hash is that of another content")
    return rest


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
        if error.filename is None or f".{PARTIAL}" in str(error.filename):
            error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write to a temporary name beside ``path``, flush to disk, rename. A killed process leaves the old file."""
    temporary = _beside(path)
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
    _remove_leftovers(path)


def build_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write a folder under a temporary name, flush every file, then rename it to ``path``.

    A folder of that name is replaced. A process killed at any moment leaves the old folder or the new one; where the
    file system cannot exchange two folders, `put_back` finds the one that made way. Leftovers carry a leading dot and
    the ending ``.partial``. Files get the rights that new files have here, whatever library writes them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    put_back(path)
    former = _beside(path, FORMER)
    try:
        with _filled(path, fill) as temporary:
            if not path.exists():
                temporary.replace(path)
            elif not _exchange(temporary, path):
                path.replace(former)
                temporary.replace(path)
    except BaseException:
        put_back(path)
        raise
    try:
        _sync_folder(path.parent)
    finally:
        _remove_leftovers(path)  # what made way is among them


def build_named_folder(parent: Path, fill: Callable[[Path], None], name_of: Callable[[Path], str]) -> Path:
    """The same for a folder whose name follows from its content.

    Args:
        parent: Where the folder is to lie.
        fill: Writes it.
        name_of: Its name, when it is written. If a folder of this name is there, it has this content, and stays.

    Returns:
        The folder.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with _filled(parent / "new", fill) as temporary:
        path = parent / name_of(temporary)
        if path.exists():
            shutil.rmtree(temporary)
        else:
            temporary.replace(path)
    _sync_folder(parent)
    return path


def build_new_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """The same for a folder that nothing may make way for.

    Raises:
        FileExistsError: If something is there by the time that the folder is written; an empty folder may be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _filled(path, fill) as temporary:
        try:
            temporary.replace(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            raise
    _sync_folder(path.parent)
    _remove_leftovers(path)


@contextmanager
def _filled(path: Path, fill: Callable[[Path], None]) -> Iterator[Path]:
    """A folder beside ``path`` that is written and flushed, and that is removed if something fails."""
    temporary = _beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with naming(path):
            fill(temporary)
        rights = temporary.stat().st_mode & 0o666
        for file in sorted(temporary.rglob("*")):
            if file.is_dir():
                _sync_folder(file)
            else:
                file.chmod(rights)
                _sync_file(file)
        _sync_folder(temporary)
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def put_back(path: Path) -> None:
    """If a process was killed while a folder made way for a new one, give it its name back."""
    if path.exists() or not path.parent.is_dir():
        return
    for leftover in _leftovers(path):
        if leftover.name.endswith(f".{FORMER}"):
            leftover.replace(path)
            return


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _beside(path: Path, ending: str = PARTIAL) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def _leftovers(path: Path) -> list[Path]:
    """What processes that are no more left beside a path."""
    named = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(?:{FORMER}|{PARTIAL})")
    found = [(match, file) for file in path.parent.iterdir() if (match := named.fullmatch(file.name))]
    return [file for match, file in sorted(found, key=lambda each: each[1]) if not _is_running(int(match[1]))]


def _remove_leftovers(path: Path) -> None:
    for leftover in _leftovers(path):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if process == os.getpid():  # its own temporary names are in use no more than once at a time
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change their names in one step. False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    if (number := ctypes.get_errno()) in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


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
