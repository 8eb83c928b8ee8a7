"""The modules of nacre and the classes that they define."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import nacre


def modules() -> Iterator[ModuleType]:
    """Every module but those that need a package that is not installed."""
    for info in pkgutil.walk_packages(nacre.__path__, "nacre."):
        if info.name.endswith("__main__"):
            continue
        try:
            yield importlib.import_module(info.name)
        except ImportError:
            continue


def classes() -> list[type]:
    """Every class that nacre defines."""
    by_name = {}
    for module in modules():
        for each in vars(module).values():
            if inspect.isclass(each) and each.__module__.startswith("nacre."):
                by_name[f"{each.__module__}.{each.__qualname__}"] = each
    return list(by_name.values())
