"""nacre: continual learning for language models, exact and composable.

    from nacre import Learner, build_method, load_host

    learner = Learner(load_host("t5-small"), build_method("am_lora+migu", {"rank": 4}))

The names below are loaded when they are first used, so that ``nacre --help`` needs neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Decoding",
    "Host",
    "Learner",
    "Method",
    "NacreError",
    "Optim",
    "ProgressBar",
    "Row",
    "Task",
    "Template",
    "build_method",
    "load_host",
    "load_model",
    "load_tasks",
    "masking",
    "run",
]

if TYPE_CHECKING:
    from nacre.errors import NacreError
    from nacre.evaluation.settings import Decoding
    from nacre.export.package import load_model
    from nacre.interop.masking import masking
    from nacre.learning.learner import Learner
    from nacre.learning.settings import Optim
    from nacre.method import Method
    from nacre.models.host import Host
    from nacre.models.loading import load_host
    from nacre.progress import ProgressBar
    from nacre.registry import build_method
    from nacre.runs.python import run
    from nacre.tasks.reading.sources import load_tasks
    from nacre.tasks.task import Row, Task
    from nacre.tasks.template import Template

_HOMES = {
    "Decoding": "nacre.evaluation.settings",
    "Host": "nacre.models.host",
    "Learner": "nacre.learning.learner",
    "Method": "nacre.method",
    "NacreError": "nacre.errors",
    "Optim": "nacre.learning.settings",
    "ProgressBar": "nacre.progress",
    "Row": "nacre.tasks.task",
    "Task": "nacre.tasks.task",
    "Template": "nacre.tasks.template",
    "build_method": "nacre.registry",
    "load_host": "nacre.models.loading",
    "load_model": "nacre.export.package",
    "load_tasks": "nacre.tasks.reading.sources",
    "masking": "nacre.interop.masking",
    "run": "nacre.runs.python",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nacre' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
