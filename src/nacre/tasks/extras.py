"""Libraries that only some data needs, imported when that data is read."""

from __future__ import annotations

import importlib
from typing import Any

from nacre.errors import NacreError


def need(module: str, purpose: str) -> Any:
    """The module, or ``NacreError`` with the command that installs it. purpose: what it is needed for, in words."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise NacreError(
            f"{purpose} needs the package '{package}', which is not installed: pip install 'nacre[data]'."
        ) from error
