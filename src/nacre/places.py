"""Places that people name in settings: folders, files and models, with variables of the environment."""

from __future__ import annotations

import os
import re

from nacre.documents import shown_text
from nacre.errors import RecipeError
from nacre.files import full_path, user_path


def expanded(key: str, place: str) -> str:
    """Replace `$NAME` and `${NAME}` by what the environment says.

    Args:
        key: The recipe's key that holds the place.
        place: A path or name.

    Raises:
        RecipeError: If a variable is not set; it names the variable and the key.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not (text := os.environ.get(name)):
            flag = f"--set {key}=FOLDER" if "." in key else f"--{key}"
            raise RecipeError(
                f"{key} = {shown_text(place)}: the environment variable {name} is not set; set it, or pass {flag}."
            )
        return text

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, place)


def absolute(place: str) -> str:
    """A local folder or file by its full path, so that settings work from anywhere; names stay names."""
    path = user_path(place)
    return str(full_path(path)) if path.exists() else place
