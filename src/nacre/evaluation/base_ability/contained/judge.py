"""The process that decides whether a program passes: it has the tests, and asks the program's process for answers.

Standard input holds the job. The verdict, one word on standard output, is this process's own.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from contextlib import suppress
from typing import Any

from nacre.evaluation.base_ability.contained import PASSED
from nacre.evaluation.base_ability.contained.confinement import confine, silence
from nacre.evaluation.base_ability.contained.values import read, written


class Candidate:
    """A function that lives in another process. Arguments and answers are plain values, passed by value."""

    def __init__(self, calls: int, answers: int) -> None:
        """Descriptors on which calls are written and answers read."""
        self._calls, self._answers = os.fdopen(calls, "wb", buffering=0), os.fdopen(answers, "rb")

    def send(self, line: bytes) -> None:
        """Write a line to the program's process."""
        self._calls.write(line)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """Ask for an answer; an error of Python's own kinds is raised here again."""
        self.send(written((positional, named)))
        if not (line := self._answers.readline()):
            raise EOFError("the program's process has ended")
        outcome, answer = read(line)
        if outcome == "value":
            return answer
        kind = getattr(builtins, str(answer), None)
        raise kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError(answer)


def main() -> None:
    """Run the tests, and write the verdict if all of them pass."""
    job = json.loads(sys.stdin.buffer.read())
    verdict, candidate = os.dup(1), Candidate(*map(int, sys.argv[-2:]))
    silence()
    confine(job["limits"], filtered=job["filtered"])
    names = ("program", "entry_point", "limits", "filtered")
    candidate.send(json.dumps({name: job[name] for name in names}).encode() + b"\n")
    space = _helpers(job["head"])
    space[job["entry_point"]] = candidate
    exec(compile(job["test"], "test", "exec"), space)
    space["check"](candidate)
    os.write(verdict, PASSED)
    os._exit(0)


def _helpers(head: str) -> dict[str, Any]:
    """What a problem's head defines for its tests: imports, and whole functions before the one that is to be written.

    The last function has no body yet, or its docstring alone.
    """
    for text in (head, f"{head}    pass\n"):
        with suppress(SyntaxError):
            space: dict[str, Any] = {}
            exec(compile(text, "head", "exec"), space)
            return space
    return {}
