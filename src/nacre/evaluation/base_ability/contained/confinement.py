"""What a process gives up, for the rest of its life, before it runs code of somebody else."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from nacre.evaluation.base_ability.contained.calls import refuse_calls

SET_DEATH_SIGNAL, SET_DUMPABLE, SET_NO_NEW_PRIVILEGES = 1, 4, 38  # linux/prctl.h
# Landlock's calls have the same numbers on every architecture, and its first version knows thirteen rights.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH = 1
ALL_RIGHTS, READ_FILE, READ_FOLDER = 2**13 - 1, 1 << 2, 1 << 3  # linux/landlock.h


def silence() -> None:
    """Point the standard streams at nothing."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def confine(limits: Mapping[str, float], *, filtered: bool) -> None:
    """Give up resources and, on Linux, files and system calls.

    Args:
        limits: Of the process.
        filtered: Whether to give up files and system calls.

    Raises:
        OSError: The system has no filter of calls.
    """
    limit(int(limits["cpu_seconds"]), int(limits["memory_bytes"]))
    sys.set_int_max_str_digits(0)  # an answer may be a large number; the processor's time is limited
    if filtered:
        system = ctypes.CDLL(None, use_errno=True)
        for setting, value in (
            (SET_DEATH_SIGNAL, int(signal.SIGKILL)),  # if nacre is killed, so is this
            (SET_DUMPABLE, 0),  # other processes of the same user cannot look into this one
            (SET_NO_NEW_PRIVILEGES, 1),
        ):
            if system.prctl(setting, value, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl")
        hide_files(system)
        refuse_calls(system)


def limit(cpu_seconds: int, memory_bytes: int) -> None:
    """Resource limits that cannot be raised again: no other process, no byte into a file, few open files."""
    for what, soft, hard in (
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),  # a signal first, then the end
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_NPROC, 0, 0),  # root is exempt: the filter has to stop it
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def hide_files(system: ctypes.CDLL) -> None:
    """Let the process open nothing but what Python itself needs (Landlock), where the kernel can do that.

    With it go memory and environment of every process outside, which are files below `/proc`.

    Args:
        system: The C library.
    """
    ruleset = _Ruleset(ALL_RIGHTS)
    rules = system.syscall(CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(ctypes.sizeof(ruleset)), 0)
    if rules < 0:
        return  # an older kernel; `programs.containment` finds out by trying
    for place in _readable():
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rule = _PathBeneath(READ_FILE | READ_FOLDER if place.is_dir() else READ_FILE, descriptor)
        if system.syscall(ADD_RULE, rules, RULE_PATH_BENEATH, ctypes.byref(rule), 0) != 0:
            raise OSError(ctypes.get_errno(), f"Landlock: {place}")
        os.close(descriptor)
    if system.syscall(RESTRICT_SELF, rules, 0) != 0:
        raise OSError(ctypes.get_errno(), "Landlock")
    os.close(rules)


def _readable() -> Iterator[Path]:
    """The standard library, what the system's loader reads for it, and the process's own empty folder."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    prefixes = [f"{prefix}/lib" for prefix in (sys.base_prefix, sys.base_exec_prefix)]
    loader = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"]
    clock = ["/etc/localtime", "/usr/share/zoneinfo"]
    places = map(Path, {*python, *prefixes, *loader, *clock, "/dev/null", "/dev/urandom", "."})
    return (place for place in places if place.exists())
