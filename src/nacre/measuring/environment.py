"""What numbers were computed with: versions, machine, threads, processes, device."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from nacre.launcher import launched


def environment() -> dict[str, Any]:
    """What the numbers were computed with."""
    packages = ("nacre", "torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "lm-eval")
    return {
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in packages},
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "processes": launched()[1],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
