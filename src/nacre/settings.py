"""Settings that people write, in recipes, on command lines and in Python: checked, and refused in one sentence."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Strict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from nacre.documents import shown, shown_text
from nacre.errors import RecipeError, nearest

AS_LIST = Strict(False)
"""Marks a tuple that files write as a list."""

LARGEST = 3.4e38
"""The largest 32-bit float: parameters of methods are computed with in this precision."""

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)

_WANTED = {
    "float": "a number",
    "int": "a whole number",
    "string": "a string",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a group of keys and values",
    "model": "a group of keys and values",
    "none": "null",
}


class Settings(BaseModel, ABC):
    """A group of settings. A string is never taken for a number, and every number is finite.

    Raises:
        RecipeError: A value is not what its setting takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, **_STRICT)

    def __init__(self, **values: Any) -> None:
        """Takes the settings by name."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise RecipeError(f"{type(self).__name__}: {sentence(error, type(self))}") from None

    # Without this mark pydantic would call __init__ for a group in a recipe, and the sentence would lack its place.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def checked(where: str, value: Any, annotation: Any) -> Any:
    """A parameter of a method, as its annotation has it.

    Args:
        where: What a message calls the parameter.
        value: What was given; lists stand for tuples.
        annotation: The parameter's type.

    Raises:
        RecipeError: The value is of another type, or not finite.
    """
    try:
        result = TypeAdapter(annotation, config=_STRICT).validate_python(_with_tuples(value))
    except ValidationError as error:
        raise RecipeError(f"{where} = {shown(value)}: {_phrase(error, None)}.") from None
    if any(isinstance(number, float) and abs(number) > LARGEST for number in _flat(result)):
        raise RecipeError(f"{where} = {shown(value)}: a number is expected that 32 bits can hold.")
    return result


def sentence(error: ValidationError, kind: type[BaseModel], also: Collection[str] = ()) -> str:
    """What is wrong with settings: the key, its value, and what would be right.

    Args:
        error: From pydantic.
        kind: The group that was given these values.
        also: Further keys that could have been meant.
    """
    details = _deepest(error)
    keys, group, field = _place(details["loc"], kind)
    where = ".".join(keys)
    if details["type"] == "extra_forbidden":
        unknown = str(details["loc"][-1])
        name = shown(".".join([*keys, unknown]) if not keys or keys[-1] != unknown else where)
        return f"there is no key {name}. {nearest(unknown, [*keys_of(group), *also])}"
    if details["type"] == "missing":
        return f"'{shown_text(where)}' is missing."
    return f"{shown_text(where)} = {shown(details['input'])}: {_phrase(error, field)}."


def complaint(error: ValidationError) -> str:
    """What is wrong with a file of nacre's own: the place, if it has one, and pydantic's first complaint.

    Args:
        error: From pydantic.
    """
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def keys_of(kind: type[BaseModel]) -> list[str]:
    """The keys of a group as they are written."""
    return [field.alias or name for name, field in kind.model_fields.items()]


def group_in(field: FieldInfo) -> type[BaseModel] | None:
    """The group of settings that a field holds; None for a plain value."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _place(loc: tuple[int | str, ...], kind: type[BaseModel]) -> tuple[list[str], type[BaseModel], FieldInfo | None]:
    """Keys and positions without the members of unions, which pydantic adds; the innermost group; the last field."""
    keys: list[str] = []
    field: FieldInfo | None = None
    for part in loc:
        fields = {each.alias or name: each for name, each in kind.model_fields.items()}
        inner = None if field is None else group_in(field)
        if inner is not None:
            kind, fields = inner, {each.alias or name: each for name, each in inner.model_fields.items()}
        if isinstance(part, int):
            keys.append(str(part))
        elif part in fields and (field is None or inner is not None):
            keys.append(part)
            field = fields[part]
        elif field is None or get_origin(field.annotation) is dict:
            keys.append(part)
    inner = None if field is None else group_in(field)
    return keys, inner or kind, field


def _deepest(error: ValidationError) -> Any:
    """Of the members of a union, each of which has its own complaint, the one that fits the value best."""

    def fit(details: Any) -> tuple[int, bool]:
        of_a_list = isinstance(details["input"], (list, tuple)) and "tuple" in str(details["loc"][-1:])
        return len(details["loc"]), of_a_list or details["type"] == "too_short"

    return max(error.errors(include_url=False), key=fit)


def _phrase(error: ValidationError, field: FieldInfo | None) -> str:
    details = _deepest(error)
    kind, context = details["type"], details.get("ctx", {})
    bounds = {
        "greater_than": "greater than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
    }
    if kind in bounds:
        return f"it must be {bounds[kind].format(**context)}"
    if kind == "literal_error":
        return f"{context['expected']} is expected"
    if kind == "finite_number":
        return f"a finite number is expected{_or_null(field)}"
    if kind in ("too_short", "string_too_short"):
        return "it must not be empty"
    if kind == "too_long":
        return f"at most {context['max_length']} values are expected"
    if kind == "missing":
        return "a value is missing"
    wanted = _WANTED.get(kind.partition("_")[0])
    return f"{wanted} is expected" if wanted and "type" in kind else shown_text(str(details["msg"]))


def _or_null(field: FieldInfo | None) -> str:
    """What stands for "none at all", which people write as infinity elsewhere."""
    _, _, meaning = (field.description or "").partition("None: ") if field is not None else ("", "", "")
    return f"; write null (None in Python) for: {meaning}" if meaning else ""


def _with_tuples(value: Any) -> Any:
    return tuple(_with_tuples(entry) for entry in value) if isinstance(value, list) else value


def _flat(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def check_positive(name: str, value: float) -> None:
    """Raise a `RecipeError` unless a setting is positive."""
    if not value > 0:
        raise RecipeError(f"{name}: {value:g} is not positive.")
