"""Libraries that only some data or some metrics need, imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

from nacre.errors import NacreError


def need(module: str, purpose: str, extra: str = "data") -> Any:
    """Import a module of an optional package.

    Args:
        module: Dotted name.
        purpose: What it is needed for: the subject of the error's sentence.
        extra: The group of nacre's optional packages that it belongs to.

    Raises:
        NacreError: The package is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        package = {"sklearn": "scikit-learn", "rouge_score": "rouge-score", "lm_eval": "lm-eval"}.get(name, name)
        raise NacreError(
            f"{purpose} needs the package '{package}', which is not installed: pip install 'nacre[{extra}]'."
        ) from error
