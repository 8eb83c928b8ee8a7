"""What makes a run the one it is, as a hash: its stages are bound to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nacre.files import hash_of
from nacre.records.plain import NO_RESULT
from nacre.runs.recipe import Recipe, places, probe_settings


def identity_of(recipe: Recipe, protocol: Mapping[str, Any]) -> str:
    """Hash everything that a stage's tensors and scores depend on.

    Settings at their defaults are left out, so that a run does not become another one because a later version knows
    more settings. Where things lie is left out too: the protocol holds rows and model by content.

    Args:
        recipe: The run's, with every default and place written out.
        protocol: The run's.
    """
    left_out = {*(key for key in places() if "." not in key), *probe_settings(), *NO_RESULT}
    settings = recipe.model_dump(by_alias=True, mode="json", exclude_defaults=True, exclude=left_out)
    return hash_of({"recipe": settings, "protocol": dict(protocol)})
