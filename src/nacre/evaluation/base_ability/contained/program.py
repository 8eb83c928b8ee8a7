"""The process of one generated program: it executes the program and then answers calls of its function.

The first line on standard input is the job (the program, its function's name, the limits); every further one is a call.
Whether the answers are right is decided in another process (`judge`), which this one cannot reach: nothing here knows
the tests, and nothing that the program says or finds in its own memory makes it pass.
"""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from nacre.evaluation.base_ability.contained.confinement import confine, silence
from nacre.evaluation.base_ability.contained.values import read, written


def main() -> None:
    """Serve calls until there are no more."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    job = json.loads(calls.readline())
    silence()
    confine(job["limits"], filtered=job["filtered"])
    module = types.ModuleType("program")
    sys.modules["program"] = module  # where dataclasses and pickle look for it
    exec(compile(job["program"], "program", "exec"), module.__dict__)
    function = module.__dict__[job["entry_point"]]
    for line in calls:
        answers.write(_answer(function, line))
    os._exit(0)  # without whatever the program has left to be done at the end


def _answer(function: Callable[..., Any], line: bytes) -> bytes:
    """One call's answer as a line: the value, or the name of the error."""
    positional, named = read(line)
    try:
        return written(("value", function(*positional, **named)))
    except Exception as error:
        return written(("error", type(error).__name__))
