"""Methods and modifiers by name.

They are the files of `nacre/methods` and `nacre/modifiers`, and the entry points of third parties in the groups
`nacre.methods` and `nacre.modifiers`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from typing import Any, get_args, get_type_hints

from nacre.documents import shown
from nacre.errors import RecipeError, nearest
from nacre.method import Method
from nacre.per_task import PerTask


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
        return [*self._own(), *sorted(set(self._third_parties()) - set(self._own()))]

    def function(self, name: str) -> Callable[..., Method]:
        """The function of this name.

        Args:
            name: A method's or modifier's name.

        Raises:
            RecipeError: There is none of this name; the message has the nearest ones.
        """
        if name in self._own():
            return getattr(import_module(f"{self.package}.{name}"), name)  # type: ignore[no-any-return]
        third_parties = self._third_parties()
        if name in third_parties:
            return third_parties[name].load()  # type: ignore[no-any-return]
        raise RecipeError(f"There is no {self.kind} {shown(name)}. {nearest(name, self.names())}")

    def _own(self) -> list[str]:
        return sorted(
            file.name.removesuffix(".py")
            for file in files(self.package).iterdir()
            if file.name.endswith(".py") and file.name != "__init__.py"
        )

    def _third_parties(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.package)}


METHODS = Registry("method", "nacre.methods")
MODIFIERS = Registry("modifier", "nacre.modifiers")


def build_method(name: str, parameters: Mapping[str, Any] | None = None, *, instead: Collection[str] = ()) -> Method:
    """The method of this name, with these parameters.

    Args:
        name: As in `seq_lora` or `seq_lora+migu`.
        parameters: The method's own by name; a modifier's under the modifier's name, `{"migu": {"threshold": 0.5}}`.
        instead: Other keys that could stand where the parameters came from; one of them may be suggested for an unknown
            one.

    Raises:
        RecipeError: A method, modifier or parameter is unknown or of the wrong type.
        NacreError: A value is out of range, or the parts do not go together.
    """
    base, *modifiers = name.split("+")
    functions = [MODIFIERS.function(modifier) for modifier in modifiers]
    own = dict(parameters or {})
    theirs = {modifier: _mapping(modifier, own.pop(modifier, {})) for modifier in modifiers}
    function = METHODS.function(base)
    unknown = own.keys() - parameters_of(function).keys()
    for key, modifier in ((key, modifier) for key in sorted(unknown) for modifier in modifiers):
        if key in parameters_of(MODIFIERS.function(modifier)):
            raise RecipeError(f"Method '{base}' has no parameter '{key}'; for the modifier, write {modifier}.{key}.")
    method = function(**_known(f"Method '{base}'", function, own, instead))
    for modifier, function in zip(modifiers, functions, strict=True):
        method = function(method, **_known(f"Modifier '{modifier}'", function, theirs[modifier], ()))
    return method


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


def _known(
    who: str, function: Callable[..., Method], given: Mapping[str, Any], instead: Collection[str]
) -> dict[str, Any]:
    known = parameters_of(function)
    for key in given:
        if key not in known:
            choice = nearest(key, known, instead) if known else "It has no parameters."
            raise RecipeError(f"{who} has no parameter {shown(key)}. {choice}")
    return dict(given)


def _mapping(modifier: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(
            f"{modifier} = {shown(value)}: a modifier's parameters have names, such as --set {modifier}.KEY=VALUE."
        )
    return value
