"""The system calls that a confined process keeps (Linux, seccomp): what it takes to compute, and to read files.

Every other call is refused, known today or not: whatever starts a process or a thread, reaches a network or another
process, sends a signal, locks a file or opens it for writing, or changes a folder or the machine.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

# Call: (number on x86_64, on aarch64), from linux/unistd.h; None where the architecture has no such call.
FILES = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "lseek": (8, 62),
    "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "access": (21, None), "faccessat": (269, 48),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents": (78, None), "getdents64": (217, 61),
    "getcwd": (79, 17), "fadvise64": (221, 223), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72), "umask": (95, 166),
}  # fmt: skip
MEMORY = {
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "madvise": (28, 233), "membarrier": (324, 283),
}  # fmt: skip
OWN_PROCESS = {
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150), "getpgrp": (111, None),
    "getpgid": (121, 155), "getsid": (124, 156), "getrlimit": (97, 163), "getrusage": (98, 165), "times": (100, 153),
    "futex": (202, 98), "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "arch_prctl": (158, None), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
MACHINE = {
    "uname": (63, 160), "sysinfo": (99, 179), "time": (201, None), "gettimeofday": (96, 169),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "getitimer": (36, 102), "setitimer": (38, 103), "alarm": (37, None), "pause": (34, None),
    "getrandom": (318, 278),
}  # fmt: skip
ALLOWED = {**FILES, **MEMORY, **OWN_PROCESS, **MACHINE}

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000  # linux/seccomp.h; a refusal carries its error number
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # where they lie in what the filter sees
SET_FILTER, BY_PROGRAM = 22, 2  # linux/prctl.h, linux/seccomp.h
REFUSED = (RETURN, 0, 0, REFUSE | errno.EPERM)

Instruction = tuple[int, int, int, int]


class Condition(NamedTuple):
    """When a call is allowed.

    Attributes:
        numbers: Of the call, as above.
        argument: Which one is looked at, from 0.
        values: Those that it may have; none if `no_bit` says it.
        no_bit: Bits of which it may have none.
    """

    numbers: tuple[int | None, int | None]
    argument: int
    values: tuple[int, ...] = ()
    no_bit: int = 0

    def instructions(self) -> list[Instruction]:
        """What follows the call's number: the end, one way or the other.

        The kernel reads these arguments as 32 bits, which come first on both architectures; a pointer's others follow.
        """
        low = ARGUMENTS + 8 * self.argument
        if self.no_bit:
            return [(LOAD, 0, 0, low), (ANY_BIT, 0, 1, self.no_bit), REFUSED, (RETURN, 0, 0, ALLOW)]
        if self.values == (0,):
            halves = [[(LOAD, 0, 0, place), (EQUAL, 1, 0, 0), REFUSED] for place in (low, low + 4)]
            return [*halves[0], *halves[1], (RETURN, 0, 0, ALLOW)]
        allow = [[(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)] for value in self.values]
        return [(LOAD, 0, 0, low), *(line for pair in allow for line in pair), REFUSED]


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CONDITIONS = {
    "open": Condition((2, None), 1, no_bit=WRITING),
    "openat": Condition((257, 56), 2, no_bit=WRITING),
    # Not F_SETOWN and F_SETSIG, which have the kernel send signals to others, nor locks.
    "fcntl": Condition((72, 25), 1, values=(0, 1, 2, 3, 1030)),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
    "ioctl": Condition((16, 29), 1, values=(0x5401, 0x5450, 0x5451)),  # TCGETS (isatty), FIONCLEX, FIOCLEX
    "prlimit64": Condition((302, 261), 2, values=(0,)),  # ask for limits, set none
}
# From here on every architecture has the same numbers: io_uring, the new mount calls, clone3, openat2 and later ones.
# "No such call" makes libraries fall back on the older ones, which the filter knows.
NEW_CALLS = 424
X32 = 0x40000000  # x86_64's second numbering of the same calls

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, name in linux/audit.h


def refuse_calls(system: ctypes.CDLL) -> None:
    """Install the filter for the rest of this process's life.

    Args:
        system: The C library.

    Raises:
        OSError: This system has none.
    """
    if platform.machine() not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter for {platform.machine()}")
    instructions = filter_program(*ARCHITECTURES[platform.machine()])
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(packed, len(packed))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    program = Program(len(instructions), ctypes.addressof(code))
    if system.prctl(SET_FILTER, BY_PROGRAM, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def filter_program(column: int, architecture: int) -> list[Instruction]:
    """The filter for one architecture.

    Args:
        column: Of the calls' numbers.
        architecture: Its name in `linux/audit.h`.

    Returns:
        Instructions: operation, lines to skip if true, if false, operand.
    """
    program = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL),
        (AT_LEAST, 0, 1, NEW_CALLS),
        (RETURN, 0, 0, REFUSE | errno.ENOSYS),
    ]
    for numbers in ALLOWED.values():
        if (number := numbers[column]) is not None:
            program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    for condition in CONDITIONS.values():
        if (number := condition.numbers[column]) is not None:
            lines = condition.instructions()
            program += [(EQUAL, 0, len(lines), number), *lines]
    return [*program, REFUSED]
