"""A disk that fails: operations on files below a folder are counted, and one of them, or all from it on, raise."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from nacre import files
from nacre.learning import checkpoint


class FailingDisk:
    """Counts opening, writing, flushing, renaming, linking and making folders.

    Attributes:
        count: How many operations there were.
        failed: Those that failed.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, at: int = 0, number: int = 0, *, ever: bool = False):
        """A disk that fails.

        Args:
            patch: Puts everything back.
            folder: Below which operations count.
            at: The operation that fails, from 1; 0: none.
            number: The error's, such as `errno.ENOSPC`.
            ever: Whether all that follow fail too.
        """
        self.folder, self.at, self.number, self.ever = str(folder), at, number, ever
        self.count = 0
        self.failed: list[str] = []
        for module, names in ((os, ("open", "mkdir", "replace", "rename", "link")), (io, ("open",))):
            for name in names:
                patch.setattr(module, name, self._counted(name, getattr(module, name)))
        patch.setattr(builtins, "open", io.open)
        patch.setattr(os, "fsync", self._always("fsync", os.fsync))
        patch.setattr(files, "_exchange", self._counted("exchange", files._exchange))
        patch.setattr(checkpoint, "save_file", self._saving(checkpoint.save_file))

    def step(self, what: str, place: object) -> None:
        """Count an operation, and let it fail if it is its turn."""
        self.count += 1
        if self.at and (self.count == self.at or (self.ever and self.count > self.at)):
            self.failed.append(f"{what} {place}")
            raise OSError(self.number, os.strerror(self.number), str(place))

    def _inside(self, place: object) -> bool:
        return isinstance(place, str | os.PathLike) and os.fspath(place).startswith(self.folder)  # type: ignore[arg-type]

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(place: Any, *arguments: Any, **options: Any) -> Any:
            if not self._inside(place):
                return call(place, *arguments, **options)
            self.step(name, place)
            made = call(place, *arguments, **options)
            return self._with_writes(made, place) if isinstance(made, io.IOBase) else made

        return counted

    def _with_writes(self, file: Any, place: object) -> Any:
        def counted(data: Any) -> Any:
            self.step("write", place)
            return file.write(data)

        return _Written(file, counted)

    def _always(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.step(name, arguments[0])
            return call(*arguments)

        return counted

    def _saving(self, call: Callable[..., None]) -> Callable[..., None]:
        """safetensors has errors of its own."""

        def save(tensors: Any, file: Path) -> None:
            try:
                self.step("save", file)
            except OSError as error:
                raise SafetensorError(f"Error while serializing: I/O error: {error.strerror}") from None
            call(tensors, file)

        return save


class _Written:
    """A file whose writes count."""

    def __init__(self, file: Any, write: Callable[[Any], Any]) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._file)


ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES")}
