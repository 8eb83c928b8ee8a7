"""Whether every weight of a model was found in its files. transformers draws at random what it does not find."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from nacre.errors import ModelError
from nacre.models.roles import layer_of

WRAPPERS = {
    "_orig_mod.": "torch.compile: save model._orig_mod",
    "module.": "DataParallel: save model.module",
    "base_model.model.": "PEFT: save model.merge_and_unload()",
}
"""What wrapping a model puts in front of its tensors' names, and how to save it without."""


def check_found_weights(name: str, model: nn.Module, loading: Mapping[str, Any], drawn: Iterable[str] = ()) -> None:
    """Check that a model is what its files hold.

    Args:
        name: What the user called the model.
        model: As it was loaded.
        loading: What transformers says of it (`output_loading_info`); tied tensors are not among the missing ones.
        drawn: Names of parameters that may be missing, because nacre draws them itself.

    Raises:
        ModelError: If parameters are missing, have another shape, or belong to layers that the configuration lacks.
    """
    unexpected = sorted(loading["unexpected_keys"])
    parameters = {parameter for parameter, _ in model.named_parameters()}
    if missing := sorted(parameters & set(loading["missing_keys"]) - set(drawn)):
        raise ModelError(
            f"Model '{name}': {len(missing)} of {len(parameters)} parameters are not in its files "
            f"({_first(missing)}), and would be random.{_found_instead(missing, unexpected)}"
        )
    for tensor, there, here in sorted(loading["mismatched_keys"]):
        raise ModelError(
            f"Model '{name}': {tensor} has the shape {list(there)} in its files and {list(here)} by its config.json, "
            "which is of another model."
        )
    modules = {module for module, _ in model.named_modules()}
    layers = {layer_of(module) for module in modules}
    surplus = [key for key in unexpected if (layer := layer_of(key)) and layer[0] in modules and layer not in layers]
    if surplus:
        raise ModelError(
            f"Model '{name}': its files hold layers that its config.json does not have ({_first(surplus)}): "
            "it would run as a part of itself."
        )


def _found_instead(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """What the files hold in place of what is missing, and by which wrapper they were saved."""
    if not unexpected:
        return ""
    for prefix, wrapper in WRAPPERS.items():
        if any(prefix + key in unexpected for key in missing):
            return f" They are there under '{prefix}', as written by {wrapper}."
    return f" They hold others that the model does not have ({_first(unexpected)})."


def _first(names: Sequence[str], most: int = 2) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
