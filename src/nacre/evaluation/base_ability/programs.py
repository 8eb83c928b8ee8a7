"""Running programs that a model has written.

Generated programs are hostile input, and nothing here runs unless somebody has asked for it by name
(``run_generated_code``). Each program gets a fresh process, in a session and an empty folder of its own, with limits on
processor time, wall-clock time, memory, processes and files. Its tests run in another fresh process, which asks the
first one for answers and alone gives the verdict: a program that reads or changes all of its own memory has nothing
there that would make it pass. On Linux both keep few system calls and few files (``contained``); ``containment`` finds
out by trying what holds on a machine. This is containment, and no sandbox: a program made to break out of it may. Where
that matters, run nacre in a virtual machine or a container without anything in it that you would miss.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nacre.errors import NacreError, RecipeError
from nacre.evaluation.base_ability.contained import PASSED

Outcome = Literal["passed", "failed", "timed out"]


@dataclass(frozen=True)
class Trial:
    """A program and what it must do.

    Attributes:
        program: What the model has written, behind the problem's head.
        head: What the problem gives; its whole functions help the tests.
        test: The source of `check(candidate)`, which raises an error unless the function does what it must.
        entry_point: The function's name in the program.
    """

    program: str
    head: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class Limits:
    """Limits of each of the two processes.

    Processor time is what stops a loop, the same on a busy machine and on an idle one; wall-clock time is for programs
    that wait. The published harness (openai/human-eval) allows 3 seconds by the clock.
    """

    cpu_seconds: int = 3
    wall_seconds: float = 15.0
    memory_bytes: int = 2**30


LIMITS = Limits()


@dataclass(frozen=True)
class Containment:
    """What was found to hold on this machine, by trying it.

    Attributes:
        filtered: System calls are filtered.
        network_cut: No connection can be made.
        files_kept: No file can be written or deleted.
        files_hidden: No file can be read but Python's own; so no other process can be looked into.
        processes_kept: No other process can be sent a signal.
    """

    filtered: bool
    network_cut: bool
    files_kept: bool
    files_hidden: bool
    processes_kept: bool


_HARMLESS = """
import bisect, collections, copy, datetime, functools, hashlib, heapq, itertools, math, random, re, typing
def attempt():
    return True
"""
_ATTEMPTS = """
import os, socket
def starts_another():
    if os.fork() == 0:
        os._exit(0)
def connects():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.connect(("127.0.0.1", 9))
def writes():
    with open("file", "w") as file:
        file.write("a")
def reads():
    with open(OTHER) as file:
        file.read()
def signals():
    os.kill(OWNER, 0)
def attempt():
    try:
        {attempt}()
    except OSError:
        return True
    return False
"""
_HOLDS = "def check(candidate):\n    assert candidate() is True\n"


def check_consent(names: Sequence[str], run_generated_code: bool) -> None:
    """Raise ``RecipeError`` if programs would have to be run that nobody has allowed to run."""
    if "humaneval" in names and not run_generated_code:
        raise RecipeError(
            "base_ability: humaneval runs programs that the model has written, on this machine, contained but in no "
            "sandbox. Set base_ability.run_generated_code=true to allow it, or leave humaneval out of the tasks."
        )


def containment(limits: Limits = LIMITS) -> Containment:
    """Try what holds here.

    Args:
        limits: Of each try.

    Raises:
        NacreError: Programs cannot be run, or cannot be kept from starting others or from reading their tests.
    """
    if os.name != "posix":
        raise NacreError("run_generated_code: programs can be contained on Linux and macOS only; leave humaneval out.")

    def holds(program: str, *, filtered: bool) -> bool:
        return run_program(Trial(program, "", _HOLDS, "attempt"), limits, filtered=filtered) == "passed"

    filtered = holds(_HARMLESS, filtered=True)
    if not filtered and not holds(_HARMLESS, filtered=False):
        raise NacreError(
            f"run_generated_code: a harmless program fails in the process made for it ({sys.executable}, "
            f"{limits.memory_bytes / 2**20:.0f} MiB); leave humaneval out."
        )

    def refuses(attempt: str) -> bool:
        with tempfile.NamedTemporaryFile() as other:
            places = f"OTHER, OWNER = {other.name!r}, {os.getpid()}\n"
            return holds(places + _ATTEMPTS.replace("{attempt}", attempt), filtered=filtered)

    hidden = refuses("reads")
    if not refuses("starts_another") or (os.geteuid() == 0 and not hidden):
        raise NacreError(
            "run_generated_code: as root a program could start others without end here, or read its tests in another "
            "process's memory: run nacre as an ordinary user, or leave humaneval out."
        )
    return Containment(
        filtered=filtered,
        network_cut=refuses("connects"),
        files_kept=refuses("writes"),
        files_hidden=hidden,
        processes_kept=refuses("signals"),
    )


def run_program(trial: Trial, limits: Limits = LIMITS, *, filtered: bool) -> Outcome:
    """Run one program and its tests to their end.

    Args:
        trial: The program and its tests.
        limits: Of each process.
        filtered: Whether system calls are filtered too; a system without a filter then fails everything.

    Returns:
        `passed` if the tests came to their end without an error.
    """
    deadline = time.monotonic() + limits.wall_seconds
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as job:
        job.write(json.dumps({**asdict(trial), "limits": asdict(limits), "filtered": filtered}).encode())
        job.seek(0)
        with ExitStack() as started:
            with _pipe() as calls, _pipe() as answers:
                program = started.enter_context(_process("program", folder, stdin=calls.out, stdout=answers.into))
                judge = started.enter_context(
                    _process("judge", folder, calls.into, answers.out, stdin=job, stdout=subprocess.PIPE)
                )
            assert judge.stdout is not None
            with judge.stdout as verdict:
                said = _read(verdict.fileno(), len(PASSED) + 1, deadline)
            in_time = _ended(judge, deadline)
            _ended(program, min(deadline, time.monotonic() + GRACE))
    if said == PASSED and in_time and judge.returncode == 0:
        return "passed"
    stopped = {judge.returncode, program.returncode} & {-signal.SIGXCPU, -signal.SIGKILL}
    return "timed out" if stopped else "failed"


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that one of k programs is right, if ``correct`` of ``samples`` were: 1 - C(n-c, k) / C(n, k).

    As the product 1 - prod_{i=n-c+1..n} (1 - k/i), which never leaves the range of floats.
    Source: Chen et al. 2021, arXiv 2107.03374, Eq. 1 and figure 3.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"0 <= correct ({correct}) <= samples ({samples}) and 1 <= k ({k}) <= samples must hold.")
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


GRACE = 2.0
"""Seconds in which a program's process, which is asked nothing more, ends by itself or shows why it has ended."""

_LAUNCH = """
import sys
sys.path.append(sys.argv[1])
from nacre.evaluation.base_ability.contained import {role}
sys.path.pop()
{role}.main()
"""


@dataclass(frozen=True)
class _Pipe:
    out: int
    into: int


@contextmanager
def _pipe() -> Iterator[_Pipe]:
    """A pipe that is closed here once both processes have it."""
    out, into = os.pipe()
    try:
        yield _Pipe(out, into)
    finally:
        os.close(out)
        os.close(into)


@contextmanager
def _process(role: str, folder: str, *descriptors: int, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A fresh process in one of the two roles; at the end it is killed, with its group, if it is still there.

    Its environment is empty but for the seed of string hashes, so that a program's sets have the same order every time.
    Hence not -I, which would ignore it: -P -s -S keep the folder, the user's and the installed packages out.
    """
    home = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-P", "-s", "-S", "-B", "-c", _LAUNCH.format(role=role), home, *map(str, descriptors)],
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"PYTHONHASHSEED": "0"},
        start_new_session=True,
        pass_fds=descriptors,
        **streams,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    """What the process says, until it has ended, has said more than it should, or is late."""
    said = b""
    while len(said) < size and (left := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left)[0]:
            break
        if not (part := os.read(descriptor, size - len(said))):
            break
        said += part
    return said


def _ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Whether the process ends by itself before the deadline."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
    return process.returncode is not None
