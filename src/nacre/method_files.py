"""Methods in files of one's own: `./mine.py` or `./mine.py:name`, wherever a method's name may stand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from nacre.errors import RecipeError, nearest


class MethodFile(NamedTuple):
    """A method by the file that holds it.

    Attributes:
        path: The Python file.
        function: The name of the method's function; empty for the file's own name, or the only method in it.
    """

    path: Path
    function: str

    @classmethod
    def of(cls, name: str) -> MethodFile | None:
        """What a method's name means as a file.

        Args:
            name: As in `./mine.py` or `./mine.py:name`, without modifiers.

        Returns:
            The file; None for the name of a registered method.
        """
        path, colon, function = name.partition(".py:")
        if not colon and not name.endswith(".py"):
            return None
        return cls(Path(f"{path}.py" if colon else name).expanduser(), function)

    @property
    def short_name(self) -> str:
        """The name for tables: without the folder."""
        return f"{self.path.name}:{self.function}" if self.function else self.path.name

    def hash(self) -> str:
        """sha256 of the file.

        Raises:
            RecipeError: There is no such file.
        """
        if not self.path.is_file():
            raise RecipeError(f"Method '{self.path}': there is no such file.")
        return sha256(self.path.read_bytes()).hexdigest()

    def complete(self) -> MethodFile:
        """The same with the whole path and the function's name."""
        return MethodFile(self.path.resolve(), self.load().__name__)

    def load(self) -> Callable[..., Any]:
        """The method's function; the file is run, once for each content.

        Raises:
            RecipeError: There is no such file, it cannot be imported, or it does not hold that method.
        """
        module = self._module()
        methods: dict[str, Callable[..., Any]] = {
            name: value
            for name, value in vars(module).items()
            if callable(value) and hasattr(value, "__wrapped__") and value.__module__ == module.__name__
        }
        wanted = self.function or (next(iter(methods)) if len(methods) == 1 else self.path.stem)
        if wanted in methods:
            return methods[wanted]
        if not self.function and methods:
            raise RecipeError(
                f"'{self.path}' holds {len(methods)} methods ({', '.join(methods)}): name one of them, as in "
                f"{self.path}:{next(iter(methods))}."
            )
        raise RecipeError(
            f"'{self.path}' has no method '{wanted}': a function with @method, from nacre.method. "
            f"{nearest(wanted, methods)}"
        )

    def _module(self) -> ModuleType:
        name = f"nacre_method_{self.path.stem}_{self.hash()[:16]}"
        if name not in sys.modules:
            spec = spec_from_file_location(name, self.path)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[name] = module = module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except (SyntaxError, ImportError) as error:
                del sys.modules[name]
                raise RecipeError(f"'{self.path}' cannot be imported: {error}.") from error
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]
