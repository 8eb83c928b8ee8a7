"""Whether a folder holds a whole model, before anything of it is loaded."""

from __future__ import annotations

from pathlib import Path

from nacre.errors import ModelError

ADAPTER = "adapter_config.json"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of weights that are read by running what is written in them."""


def check_model_folder(name: str, folder: Path) -> None:
    """Check that a folder holds a configuration and weights that can be read without running anything.

    Args:
        name: What the user called the folder.
        folder: Where it lies.

    Raises:
        ModelError: If it holds a PEFT adapter, no configuration, pointers in place of files, or pickled weights only.
    """
    config = folder / "config.json"
    if (folder / ADAPTER).is_file():
        beside = "a PEFT adapter beside its base model" if config.is_file() else "a PEFT adapter, not a model"
        raise ModelError(
            f"Model folder '{name}' holds {beside}: merge the two and save the result, with "
            "AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW)."
        )
    if not config.is_file():
        raise ModelError(f"Model folder '{name}' has no config.json: it is not a Hugging Face model folder.")
    files = sorted(file for file in folder.iterdir() if file.is_file())
    if pointers := [file.name for file in files if _is_pointer(file)]:
        raise ModelError(
            f"Model folder '{name}': {pointers[0]} is a git-lfs pointer, not the file itself: run 'git lfs pull' there."
        )
    pickles = [file.name for file in files if file.suffix in PICKLES]
    if pickles and not any(file.suffix == ".safetensors" for file in files):
        raise ModelError(
            f"Model folder '{name}' has pickled weights only ({pickles[0]}). Reading a pickle can run any code, so "
            "nacre reads safetensors: load the model where you trust it, and save_pretrained() it again."
        )


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER
