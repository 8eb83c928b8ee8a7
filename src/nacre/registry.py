"""Methods and modifiers by name.

They are the files of `nacre/methods` and `nacre/modifiers`, and the entry points of third parties in the groups
`nacre.methods` and `nacre.modifiers`. A method may also be named by a file that holds it (`method_files`).
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from nacre.documents import shown
from nacre.errors import RecipeError, nearest
from nacre.method_files import MethodFile
from nacre.per_task import PerTask
from nacre.settings import checked

if TYPE_CHECKING:
    from nacre.method import Method


@dataclass(frozen=True)
class Registry:
    """Functions by name: one file each in a package, then third parties'.

    Attributes:
        kind: What an error calls one: "method" or "modifier".
        package: The package, whose name is also the entry point group.
    """

    kind: str
    package: str

    def names(self) -> list[str]:
        """All names, the package's first; no function is imported."""
        return [*self.own_names(), *sorted(set(self._third_parties()) - set(self.own_names()))]

    def function(self, name: str) -> Callable[..., Method]:
        """The function of this name.

        Args:
            name: A method's or modifier's name.

        Raises:
            RecipeError: There is none of this name; the message has the nearest ones.
        """
        if (file := self._file(name)) is not None:
            return file.load()
        if name in self.own_names():
            return getattr(import_module(f"{self.package}.{name}"), name)  # type: ignore[no-any-return]
        third_parties = self._third_parties()
        if name in third_parties:
            return third_parties[name].load()  # type: ignore[no-any-return]
        raise self._unknown(name)

    def written_hints(self, name: str) -> dict[str, Any] | None:
        """The types of a function's parameters, read from its source.

        Args:
            name: A method's or modifier's name.

        Returns:
            The types, `Any` for one that the source takes from elsewhere; None for a third party's function or one in a
            file, whose source is not looked at.

        Raises:
            RecipeError: There is none of this name; the message has the nearest ones.
        """
        if name not in self.own_names():
            if (file := self._file(name)) is not None:
                file.hash()  # it is there
                return None
            if name in self._third_parties():
                return None
            raise self._unknown(name)
        source = (files(self.package) / f"{name}.py").read_text(encoding="utf-8")
        (function,) = (
            node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name
        )
        return {argument.arg: _written_type(argument.annotation) for argument in function.args.kwonlyargs}

    def _unknown(self, name: str) -> RecipeError:
        return RecipeError(f"There is no {self.kind} {shown(name)}. {nearest(name, self.names())}")

    def _file(self, name: str) -> MethodFile | None:
        return MethodFile.of(name) if self.kind == "method" else None

    def own_names(self) -> list[str]:
        """The package's names; nothing is imported."""
        return sorted(
            file.name.removesuffix(".py")
            for file in files(self.package).iterdir()
            if file.name.endswith(".py") and file.name != "__init__.py"
        )

    def _third_parties(self) -> dict[str, EntryPoint]:
        return _entry_points(self.package)


def _written_type(annotation: ast.expr | None) -> Any:
    """The type that an annotation of nacre's own source stands for; `Any` if it uses a name from elsewhere."""
    try:
        return eval(ast.unparse(annotation), {"Literal": Literal, "PerTask": PerTask}) if annotation else Any
    except NameError:
        return Any


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    """By name; read once, because every installed package is looked through."""
    return {point.name: point for point in entry_points(group=group)}


METHODS = Registry("method", "nacre.methods")
MODIFIERS = Registry("modifier", "nacre.modifiers")


def build_method(name: str, parameters: Mapping[str, Any] | None = None, *, instead: Collection[str] = ()) -> Method:
    """The method of this name, with these parameters.

    Args:
        name: As in `seq_lora`, `seq_lora+migu`, `./mine.py` or `./mine.py:name+migu`.
        parameters: The method's own by name; a modifier's under the modifier's name, `{"migu": {"threshold": 0.5}}`.
        instead: Other keys that could stand where the parameters came from; one of them may be suggested for an unknown
            one.

    Raises:
        RecipeError: A method, modifier or parameter is unknown or of the wrong type.
        NacreError: A value is out of range, or the parts do not go together.
    """
    base, own, theirs = _spelled(name, parameters, instead, _hints)
    method = METHODS.function(base)(**own)
    if (file := MethodFile.of(base)) is not None:
        complete = file.complete()
        method = replace(method, name=f"{complete.path}:{complete.function}")
    for modifier, values in theirs.items():
        method = MODIFIERS.function(modifier)(method, **values)
    return method


def check_spelling(name: str, parameters: Mapping[str, Any] | None = None, *, instead: Collection[str] = ()) -> None:
    """Refuse what `build_method` would refuse by name or type, without importing any method, and so without torch.

    Types that the source defines elsewhere, and parameters of third parties, are left to `build_method`.

    Args:
        name: As in `seq_lora` or `seq_lora+migu`.
        parameters: As for `build_method`.
        instead: As for `build_method`.

    Raises:
        RecipeError: A method, modifier or parameter is unknown or of the wrong type.
    """
    _spelled(name, parameters, instead, Registry.written_hints)


def parameters_of(function: Callable[..., Method]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a method or modifier function: the vocabulary of `--set`."""
    return {
        key: parameter
        for key, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def per_task_parameters(method: Method) -> dict[str, PerTask]:
    """The parameters that may differ from task to task, by the keys that `--set` takes.

    Args:
        method: A method. One that was put together by hand has no name, and nothing is returned.
    """
    if not method.name:
        return {}
    base, *modifiers = method.name.split("+")
    settings = _per_task(METHODS.function(base), method.parameters)
    for modifier in modifiers:
        values = _per_task(MODIFIERS.function(modifier), method.parameters[modifier])
        settings |= {f"{modifier}.{key}": value for key, value in values.items()}
    return settings


def _per_task(function: Callable[..., Method], values: Mapping[str, Any]) -> dict[str, PerTask]:
    hints = get_type_hints(function)
    return {key: values[key] for key in parameters_of(function) if tuple[float, ...] in get_args(hints[key])}


def _spelled(
    name: str,
    parameters: Mapping[str, Any] | None,
    instead: Collection[str],
    hints: Callable[[Registry, str], Mapping[str, Any] | None],
) -> tuple[str, dict[str, Any], dict[str, dict[str, Any]]]:
    """The method's name and checked parameters, and those of each modifier."""
    base, *modifiers = name.split("+")
    for number, modifier in enumerate(modifiers):
        if modifier in modifiers[:number]:
            raise RecipeError(
                f"The modifier {shown(modifier)} stands twice in the method's name; a method takes it once."
            )
    known = {modifier: hints(MODIFIERS, modifier) for modifier in modifiers}
    own, known_own = dict(parameters or {}), hints(METHODS, base)
    theirs = {modifier: _mapping(modifier, own.pop(modifier, {})) for modifier in modifiers}
    unknown = own.keys() - known_own.keys() if known_own is not None else ()
    for key, modifier in ((key, modifier) for key in sorted(unknown) for modifier in modifiers):
        if key in (known[modifier] or ()):
            raise RecipeError(f"Method '{base}' has no parameter '{key}'; for the modifier, write {modifier}.{key}.")
    settings = {
        modifier: _checked(f"Modifier '{modifier}'", modifier, known[modifier], theirs[modifier], ())
        for modifier in modifiers
    }
    return base, _checked(f"Method '{base}'", base, known_own, own, instead), settings


def _hints(registry: Registry, name: str) -> dict[str, Any]:
    """The types of a function's parameters."""
    function = registry.function(name)
    hints = get_type_hints(function)
    return {key: hints[key] for key in parameters_of(function)}


def _checked(
    who: str, prefix: str, hints: Mapping[str, Any] | None, given: Mapping[str, Any], instead: Collection[str]
) -> dict[str, Any]:
    if hints is None:
        return dict(given)
    for key in given:
        if key not in hints:
            choice = nearest(key, hints, instead) if hints else "It has no parameters."
            raise RecipeError(f"{who} has no parameter {shown(key)}. {choice}")
    return {key: checked(f"{prefix}: {key}", value, hints[key]) for key, value in given.items()}


def _mapping(modifier: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(
            f"{modifier} = {shown(value)}: a modifier's parameters have names, such as --set {modifier}.KEY=VALUE."
        )
    return value
