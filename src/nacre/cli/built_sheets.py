"""Sheets from the methods and modifiers themselves, which takes torch."""

from __future__ import annotations

import inspect
from typing import Any

from nacre.cli.docstring import sheet_of
from nacre.errors import NacreError
from nacre.method import Method
from nacre.registry import METHODS, MODIFIERS, Registry, build_method, parameters_of


def built_method_sheet(name: str) -> dict[str, Any]:
    """The sheet of a method, with those of the modifiers in its name.

    Args:
        name: As in `seq_lora` or `seq_lora+migu`.
    """
    method = build_method(name)
    base, *modifiers = name.split("+")
    return {
        "name": name,
        "title": method.title,
        **_function_document(METHODS, base),
        "parameters": method.parameters,
        "learning_rate": method.adapter.learning_rate,
        "slots": slots(method),
        "traits": method.traits,
        "sources": method.sources,
        "modifiers": [{"name": modifier, **_function_document(MODIFIERS, modifier)} for modifier in modifiers],
    }


def built_modifier_sheet(name: str) -> dict[str, Any]:
    """The sheet of a modifier, which is tried with every method.

    Args:
        name: The modifier's, without "+".
    """
    document = {"name": f"+{name}", **_function_document(MODIFIERS, name)}
    fits, refusals = [], {}
    for method in METHODS.names():
        try:
            build_method(f"{method}+{name}")
            fits.append(method)
        except NacreError as error:
            refusals[method] = str(error)
    return {**document, "goes with": fits, "does not go with": refusals}


def slots(method: Method) -> dict[str, Any]:
    """The part in each slot with its settings, or None; gradient rules in the order in which they act."""
    return {
        "adapter": str(method.adapter),
        "start": str(method.start),
        "penalties": [str(part) for part in method.penalties],
        "batch terms": [str(part) for part in method.batch_terms],
        "gradient rules": [str(part) for part in method.gradient_rules],
        "memory": None if method.memory is None else str(method.memory),
        "routing": None if method.routing is None else str(method.routing),
        "readout": None if method.readout is None else str(method.readout),
        "curriculum": str(method.curriculum),
    }


def _function_document(registry: Registry, name: str) -> dict[str, Any]:
    """What the docstring and signature of a method's or modifier's function say."""
    function = registry.function(name)
    sheet, parameters = sheet_of(function), parameters_of(function)
    return {
        "does": " ".join(sheet.whole.split("\n\n")[0].split()),
        "sheet": sheet.whole,
        "text": sheet.text,
        "parameters": {key: parameter.default for key, parameter in parameters.items()},
        "types": {
            key: inspect.formatannotation(parameter.annotation).replace("typing.", "")
            for key, parameter in parameters.items()
        },
        "explained": {key: sheet.parameters[key] for key in parameters if key in sheet.parameters},
        "assumed": sheet.assumed,
    }
