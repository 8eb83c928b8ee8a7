"""Methods by name: every file of ``nacre/methods``, and every entry point of the group ``nacre.methods``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from typing import Any, get_type_hints

from nacre.errors import RecipeError, nearest
from nacre.method import Method

GROUP = "nacre.methods"


def method_names() -> list[str]:
    """All names, without importing any method: the folder's first, then third parties'."""
    return [*_own_names(), *sorted(set(_third_parties()) - set(_own_names()))]


def method_function(name: str) -> Callable[..., Method]:
    """The function that builds the method; raises ``RecipeError`` with the nearest names if there is none."""
    if name in _own_names():
        return getattr(import_module(f"nacre.methods.{name}"), name)  # type: ignore[no-any-return]
    third_parties = _third_parties()
    if name in third_parties:
        return third_parties[name].load()  # type: ignore[no-any-return]
    raise RecipeError(f"There is no method '{name}'. {nearest(name, method_names())}")


def build_method(name: str, parameters: Mapping[str, Any] | None = None, *, instead: Collection[str] = ()) -> Method:
    """The method with these parameters, checked against its signature.

    instead: other keys that could stand where the parameters came from; one of them may be offered for an unknown one.

    Raises ``RecipeError`` naming the parameter that is unknown or of the wrong type, ``NacreError`` if a value is out
    of range.
    """
    function = method_function(name)
    signature, hints = inspect.signature(function), get_type_hints(function)
    checked = {}
    for key, value in (parameters or {}).items():
        if key not in signature.parameters:
            known = nearest(key, signature.parameters, instead) if signature.parameters else "It has no parameters."
            raise RecipeError(f"Method '{name}' has no parameter '{key}'. {known}")
        checked[key] = _typed(f"{name}: {key}", value, hints[key])
    return function(**checked)


def _typed(where: str, value: Any, annotation: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise RecipeError(f"{where} = {value!r}: {error.errors()[0]['msg']}.") from None


def _own_names() -> list[str]:
    return sorted(
        file.name.removesuffix(".py")
        for file in files("nacre.methods").iterdir()
        if file.name.endswith(".py") and file.name != "__init__.py"
    )


def _third_parties() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
