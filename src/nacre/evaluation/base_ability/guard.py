"""The process in which one generated program runs: a script, started by ``generated_code``, that uses nothing of nacre.

It reads its job from standard input (JSON: the program, a token, the limits), gives up what it does not need, executes
the program and, if that came to its end without an error, writes the token to standard output. Everything the program
itself prints goes nowhere.

What is given up: processor time, memory, files and other processes by resource limits; and, on Linux, by a filter of
system calls, whatever starts a process or a thread, reaches a network or another process, opens a file for writing, or
changes a folder or the machine. Files can be read. The filter lists what is refused; what it does not list is allowed.
This contains mistakes and the usual mischief. It is no sandbox: a program made to break out of it may.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
import types

# Call: (number on x86_64, on aarch64), from linux/unistd.h; None where the architecture has no such call.
PROCESSES = {
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "unshare": (272, 97), "setns": (308, 268),
}  # fmt: skip
NETWORK = {"socket": (41, 198), "socketpair": (53, 199)}
OTHER_PROCESSES = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "prlimit64": (302, 261), "setrlimit": (160, 164), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186),
    "mq_open": (240, 180), "mq_unlink": (241, 181),
}  # fmt: skip
FILES = {
    "creat": (85, None), "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None),
    "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "memfd_create": (319, 279), "open_by_handle_at": (304, 265),
}  # fmt: skip
MACHINE = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "reboot": (169, 142), "sethostname": (170, 161),
    "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "personality": (135, 92),
}  # fmt: skip
REFUSED = {**PROCESSES, **NETWORK, **OTHER_PROCESSES, **FILES, **MACHINE}
OPEN = {"open": (2, None), "openat": (257, 56)}
OPEN_FLAGS = {"open": 1, "openat": 2}  # which argument says how the file is opened
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# From here on every architecture has the same numbers: io_uring, the new mount calls, clone3, openat2 and later ones.
# "No such call" makes libraries fall back on the older ones, which the filter knows.
NEW_CALLS = 424
X32 = 0x40000000  # x86_64's second numbering of the same calls

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, name in linux/audit.h

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000  # linux/seccomp.h; a refusal carries its error number
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # where they lie in what the filter sees


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    verdict = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    limit(job["cpu_seconds"], job["memory_bytes"])
    if job["filtered"]:
        refuse_calls()
    module = types.ModuleType("program")
    sys.modules["program"] = module  # where dataclasses and pickle look for it
    exec(compile(job["program"], "program", "exec"), module.__dict__)
    os.write(verdict, job["token"].encode())
    os._exit(0)  # without whatever the program has left to be done at the end


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


def refuse_calls() -> None:
    """Install the filter for the rest of this process's life; ``OSError`` if this system has none."""
    column, architecture = ARCHITECTURES[platform.machine()]
    instructions = filter_program(column, architecture)
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(packed, len(packed))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    system = ctypes.CDLL(None, use_errno=True)
    program = Program(len(instructions), ctypes.addressof(code))
    no_new_privileges, death_signal, set_filter, by_program = 38, 1, 22, 2  # linux/prctl.h, linux/seccomp.h
    for arguments in (
        (death_signal, int(signal.SIGKILL), 0, 0, 0),  # if nacre is killed, so is this
        (no_new_privileges, 1, 0, 0, 0),
        (set_filter, by_program, ctypes.byref(program), 0, 0),
    ):
        if system.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def filter_program(column: int, architecture: int) -> list[tuple[int, int, int, int]]:
    """The filter for one architecture: (operation, lines to skip if true, if false, operand)."""
    refuse = (RETURN, 0, 0, REFUSE | errno.EPERM)
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
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            program += [(EQUAL, 0, 1, number), refuse]
    for name, numbers in OPEN.items():
        if (number := numbers[column]) is not None:
            flags = ARGUMENTS + 8 * OPEN_FLAGS[name]  # its lower half, which comes first on both architectures
            program += [(EQUAL, 0, 4, number), (LOAD, 0, 0, flags), (ANY_BIT, 0, 1, WRITING), refuse]
            program += [(RETURN, 0, 0, ALLOW)]
    return [*program, (RETURN, 0, 0, ALLOW)]


if __name__ == "__main__":
    main()
