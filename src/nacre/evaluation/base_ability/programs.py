"""Running programs that a model has written.

Generated programs are hostile input, and nothing here runs unless somebody has asked for it by name
(``run_generated_code``). Each program gets a fresh process, in a session and an empty folder of its own, without this
process's environment, files or memory, with limits on processor time, wall-clock time, memory, processes and files;
on Linux system calls are filtered too (``guard`` says which). This is containment, and no sandbox: it stops
endless loops, fork bombs, full disks, deleted files and calls home, and a program made to break out of it may. Where
that matters, run nacre in a virtual machine or a container without anything in it that you would miss.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nacre.errors import NacreError

Outcome = Literal["passed", "failed", "timed out"]

GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True)
class Limits:
    """Of one program. Processor time is what stops a loop, the same on a busy machine and on an idle one; wall-clock
    time is for programs that wait. The published harness (openai/human-eval) allows 3 seconds by the clock."""

    cpu_seconds: int = 3
    wall_seconds: float = 15.0
    memory_bytes: int = 2**30


LIMITS = Limits()


@dataclass(frozen=True)
class Containment:
    """What was found to hold on this machine, by trying it. Other processes are never reached: without that nothing
    runs.

    filtered: system calls are. network_cut: no connection can be made. files_kept: no file can be written or deleted.
    """

    filtered: bool
    network_cut: bool
    files_kept: bool


_HARMLESS = "import bisect, collections, copy, datetime, functools, hashlib, heapq, itertools, math, random, re, typing"
_ATTEMPT = """
import os, socket
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
def starts_another():
    if os.fork() == 0:
        os._exit(0)
def connects():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.connect(("127.0.0.1", 9))
def writes():
    with open("file", "w") as file:
        file.write("a")
"""


def containment(limits: Limits = LIMITS) -> Containment:
    """Try what holds here. Raises ``NacreError`` if programs cannot be run, or cannot be kept from starting others."""
    if os.name != "posix":
        raise NacreError("run_generated_code: programs can be contained on Linux and macOS only; leave humaneval out.")
    filtered = run_program(_HARMLESS, limits, filtered=True) == "passed"
    if not filtered and run_program(_HARMLESS, limits, filtered=False) != "passed":
        raise NacreError(
            f"run_generated_code: a harmless program fails in the process made for it ({sys.executable}, "
            f"{limits.memory_bytes / 2**20:.0f} MiB); leave humaneval out."
        )

    def refuses(attempt: str) -> bool:
        return run_program(f"{_ATTEMPT}\nassert refused({attempt})", limits, filtered=filtered) == "passed"

    if not refuses("starts_another"):
        raise NacreError(
            "run_generated_code: here a program could start others without end (root, and no filter of system calls): "
            "run nacre as an ordinary user, or leave humaneval out."
        )
    return Containment(filtered, network_cut=refuses("connects"), files_kept=refuses("writes"))


def run_program(program: str, limits: Limits = LIMITS, *, filtered: bool) -> Outcome:
    """Run one program to its end. filtered: refuse system calls too; a system without a filter then fails everything.

    ``passed`` means that the program's last line was reached: an exit before it, whatever its code, is a failure.
    """
    token = secrets.token_hex(16)
    # An empty environment but for the seed of string hashes, so that a program's sets have the same order every time.
    # Hence not -I, which would ignore it: -P -s -S keep the folder, the user's and the installed packages out.
    command = [sys.executable, "-P", "-s", "-S", "-B", str(GUARD)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as job:
        job.write(json.dumps({"program": program, "token": token, "filtered": filtered, **asdict(limits)}).encode())
        job.seek(0)
        deadline = time.monotonic() + limits.wall_seconds
        process = subprocess.Popen(
            command,
            stdin=job,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout as verdict:
            try:
                said = _read(verdict.fileno(), len(token) + 1, deadline)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
            finally:
                late = _end(process)
    if said == token.encode() and not late:
        return "passed"
    return "timed out" if late or process.returncode in (-signal.SIGXCPU, -signal.SIGKILL) else "failed"


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


def _end(process: subprocess.Popen[bytes]) -> bool:
    """Kill the process and its group if it is still there; whether it was."""
    if process.poll() is not None:
        return False
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True
