"""One exception type for everything the user can mend.

The command line prints the sentence and exits with code 2; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class NacreError(Exception):
    """A mistake the user can mend, in one sentence: what is wrong, where, and what would be right."""


class RecipeError(NacreError):
    """A setting is unknown, missing or out of range."""


class DataError(NacreError):
    """A file, row, label or split of the data is not what a task needs."""


class ModelError(NacreError):
    """The host model or its tokenizer cannot be used."""


class SlotTaken(NacreError):
    """A part was added to a slot of a method that holds one part only, and holds one already."""


class CheckpointError(NacreError):
    """A saved learner or run directory is incomplete, damaged or made with other settings."""


class FileError(NacreError):
    """A file or folder cannot be read or written."""


class TrainingError(NacreError):
    """Training cannot go on: a non-finite loss, no target token, or nothing to train."""


class FailedElsewhere(NacreError):
    """Another of the processes that carry out a run together has failed, and says why."""


LISTED = 40
"""Names that a message lists."""

ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "choose another place, or change its rights",
    errno.EPERM: "choose another place, or change its rights",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "choose a path whose parents are folders",
    errno.ENOENT: "choose a path that exists",
    errno.EEXIST: "choose another name",
    errno.EIO: "look after the disk",
    errno.EMFILE: "close other programs, or raise the limit of open files",
}


def file_error(error: OSError) -> FileError:
    """The error to raise, or the line to print, for an operating system's.

    Args:
        error: What an operation on a file raised.
    """
    name = error.filename2 or error.filename
    where = "The output" if name is None else os.fsdecode(name) if isinstance(name, bytes) else name
    advice = ADVICE.get(error.errno or 0, "mend it, or choose another place")
    return FileError(f"{where}: {error.strerror or error}; {advice}, and try again.")


def name_error(error: UnicodeEncodeError) -> FileError | None:
    """The error to raise, or the line to print, for a file's name that the locale cannot write; None for other texts.

    Args:
        error: What an operation on a file raised.
    """
    names = sys.getfilesystemencoding()
    if "utf-8" in (names, error.encoding):  # contents are UTF-8 everywhere
        return None
    return FileError(
        f"{error.object}: in this locale the names of files are in {names}, which lacks "
        f"'{error.object[error.start]}'; set PYTHONUTF8=1, and try again."
    )


def memory_error(error: MemoryError | RuntimeError) -> NacreError | None:
    """The line to print where the memory of this machine or of its accelerator was too small; None for other errors.

    Args:
        error: What Python or torch raised.
    """
    said = str(error)
    of_device = type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
    if not (isinstance(error, MemoryError) or of_device or "can't allocate memory" in said):
        return None
    asked = re.search(r"tried to allocate ([\d.]+ \w+)", said, re.IGNORECASE)
    where = "the accelerator's memory" if of_device else "memory"
    more = f" ({asked[1]} more were asked for)" if asked else ""
    return NacreError(
        f"Out of {where}{more}: lower optim.batch_size or evaluation.batch_size, raise optim.accumulation, or take a "
        "smaller model."
    )


def lost_process(error: RuntimeError) -> NacreError | None:
    """The line to print where another of the processes that carry out a run together has died; None for other errors.

    Args:
        error: What torch raised.
    """
    by_name = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    if not (by_name or re.search(r"Connection (closed|reset) by peer|Broken pipe|gloo/transport", str(error))):
        return None
    return NacreError(
        "Another process of this run has ended, and nothing goes on without it. The same command goes on from what is "
        "saved."
    )


@contextmanager
def file_errors() -> Iterator[None]:
    """Inside, or in a function that it decorates, an operating system's error becomes nacre's."""
    try:
        yield
    except OSError as error:
        raise file_error(error) from error


def nearest(name: str, known: Iterable[str], also: Iterable[str] = ()) -> str:
    """The end of an error sentence about an unknown name: near misses, then everything that is known.

    Args:
        name: The unknown name.
        known: All names.
        also: Names of another kind, which are suggested when near, but not listed.
    """
    names = sorted(known)
    close = get_close_matches(name, [*names, *also], n=3, cutoff=0.6) or get_close_matches(name, names, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    listed = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")
    return f"{hint}Known: {listed or 'none'}."
