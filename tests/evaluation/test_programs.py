"""Programs that a model has written: what they can answer, what they cannot reach, and who decides."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.command import contents
from nacre.errors import NacreError
from nacre.evaluation.base_ability import programs
from nacre.evaluation.base_ability.contained.calls import ALLOWED, ARCHITECTURES, CONDITIONS, WRITING, filter_program
from nacre.evaluation.base_ability.contained.values import read, written
from nacre.evaluation.base_ability.programs import Containment, Limits, Trial, containment, pass_at_k, run_program

QUICK = Limits(cpu_seconds=1, wall_seconds=4.0)
COMES_TO_ITS_END = "def check(candidate):\n    assert candidate() is None\n"


def trial(program: str) -> Trial:
    """A program that passes if its last line is reached."""
    return Trial(f"{program}\ndef end():\n    return None\n", "", COMES_TO_ITS_END, "end")


def asked(program: str, test: str, head: str = "") -> str:
    """What comes of a program's function `f` under a test."""
    return run_program(Trial(program, head, f"def check(candidate):\n    {test}\n", "f"), QUICK, filtered=True)


@pytest.fixture(scope="module")
def contained() -> None:
    if not containment(QUICK).filtered:
        pytest.skip("this system filters no system calls")


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the programs' folders are made; afterwards nothing may be left there, and no process."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def left_over() -> list[psutil.Process]:
    mine = (os.getpid(), 1)
    return [
        one
        for one in psutil.process_iter(["cmdline", "ppid"])
        if any("base_ability.contained" in part for part in one.info["cmdline"] or ()) and one.info["ppid"] in mine
    ]


HOSTILE = {
    "a loop": "while True: pass",
    "a loop that ignores its signal": "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass",
    "a fork bomb": "import os\nwhile True:\n    os.fork()",
    "a command": "import subprocess\nsubprocess.run(['true'], check=True)",
    "a thread": "import threading\nthreading.Thread(target=print).start()",
    "a big file": "with open('big', 'wb') as file:\n    for _ in range(10_000):\n        file.write(bytes(2**20))",
    "an empty file elsewhere": "open(ELSEWHERE + '/evil', 'w').close()",
    "a file's end": "import os\nos.truncate(ELSEWHERE + '/precious', 0)",
    "a file's death": "import os\nos.remove(ELSEWHERE + '/precious')",
    "a folder's death": "import shutil\nshutil.rmtree(ELSEWHERE)",
    "a big list": "b'a' * (10 * 2**30)",
    "endless recursion": "import sys\nsys.setrecursionlimit(10**8)\ndef f(): f()\nf()",
    "a connection": "import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=1)",
    "a signal to its parent": "import os\nos.kill(os.getppid(), 9)",
    "looser limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
    "an early end": "import os\nos._exit(0)",
    "another early end": "raise SystemExit(0)",
    "no program": "def (",
    "a packet of somebody's": "import torch",
    "words on the wire": "import os\nfor number in range(3, 10):\n    os.write(number, b'passed' * 9)",
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_programs_fail_and_leave_nothing(
    what: str, contained: None, own_temporary: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    outcome = run_program(trial(f"ELSEWHERE = {str(elsewhere)!r}\n{HOSTILE[what]}"), QUICK, filtered=True)
    assert outcome == ("timed out" if "loop" in what else outcome)
    assert outcome != "passed"
    assert contents(own_temporary) == {}
    assert left_over() == []
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_text() == "kept"


def test_without_the_filter_limits_still_hold(own_temporary: Path) -> None:
    for what in ("a loop", "a big file", "a big list", "looser limits"):
        assert run_program(trial(HOSTILE[what]), QUICK, filtered=False) != "passed"
    if os.geteuid() != 0:  # root's processes are not counted
        assert run_program(trial(HOSTILE["a fork bomb"]), QUICK, filtered=False) == "failed"
    assert run_program(trial("x = 1"), QUICK, filtered=False) == "passed"
    assert contents(own_temporary) == {}
    assert left_over() == []


def test_a_program_that_waits_is_stopped_by_the_clock() -> None:
    waiting = trial("import time\ntime.sleep(60)")
    assert run_program(waiting, Limits(wall_seconds=0.7), filtered=False) == "timed out"


def test_a_program_sees_nothing_of_this_process() -> None:
    program = (
        "import os, sys\n"
        "assert set(os.environ) <= {'PYTHONHASHSEED', 'LC_CTYPE'}, os.environ\n"
        "assert os.listdir('.') == [] and sys.stdin.read() == ''\n"
        "assert not any('site-packages' in place for place in sys.path), sys.path\n"
        "assert hash('order') == ORDER\n"
        "print('x' * 10**6)\n"
    )
    # String hashes, and with them the order of sets, are those of seed 0 in every process.
    seeded = [sys.executable, "-c", "print(hash('order'))"]
    order = subprocess.run(seeded, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True).stdout
    assert run_program(trial(f"ORDER = {order.strip()}\n{program}"), QUICK, filtered=False) == "passed"


CALL = """
import ctypes, fcntl, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if libc[name](*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
"""
ESCAPES = {
    "a signal sent by a pipe": "r, w = os.pipe(); fcntl.fcntl(r, 8, OWNER)",  # F_SETOWN
    "a signal sent to any owner": "r, w = os.pipe(); fcntl.fcntl(r, 15, struct.pack('ii', 1, OWNER))",  # F_SETOWN_EX
    "another signal by a pipe": "r, w = os.pipe(); fcntl.fcntl(r, 10, 9)",  # F_SETSIG
    "asynchronous reports": "r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)",
    "a lease": "fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), 1024, fcntl.F_RDLCK)",
    "a record lock": "fcntl.lockf(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_SH)",
    "a file lock": "fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_EX)",
    "a signal": "os.kill(OWNER, 0)",
    "a signal with a value": "call('sigqueue', OWNER, 0, None)",
    "an environment": "open(f'/proc/{OWNER}/environ', 'rb').read()",
    "a memory": "open(f'/proc/{OWNER}/mem', 'rb')",
    "descriptors": "os.listdir(f'/proc/{OWNER}/fd')",
    "its parent's parent": "open('/proc/1/environ', 'rb').read()",
    "its own memory by a file": "open('/proc/self/mem', 'rb')",
    "a secret": "open(SECRET).read()",
    "names of files": "os.listdir(os.path.dirname(SECRET))",
    "a terminal": "open('/dev/tty')",
    "the passwords": "open('/etc/passwd').read()",
    "shared memory removed": "call('shmctl', 0, 0, None)",
    "semaphores removed": "call('semctl', 0, 0, 0)",
    "a queue removed": "call('msgctl', 0, 0, None)",
    "shared memory": "call('shmget', 0, 4096, 0o1600)",
    "a semaphore moved": "call('semop', 0, None, 0)",
    "a message sent": "call('msgsnd', 0, None, 0, 0)",
    "a terminal typed into": "fcntl.ioctl(0, 0x5412, b'x')",
    "a file made immutable": "fcntl.ioctl(os.open(os.__file__, os.O_RDONLY), 0x40086602, struct.pack('l', 16))",
    "every file watched": "call('fanotify_init', 0, 0)",
    "a file watched": "call('inotify_init')",
    "the kernel's log": "call('klogctl', 3, ctypes.create_string_buffer(9), 9)",
    "another user": "call('setuid', os.getuid())",
    "rights taken": "call('capset', None, None)",
    "another's limits": "call('prlimit', OWNER, 7, struct.pack('qq', 1, 1), None)",
    "a longer life": "call('prctl', 1, 0, 0, 0, 0)",
    "another's memory read": "call('process_vm_readv', OWNER, None, 0, None, 0, 0)",
    "a trace": "call('ptrace', 16, OWNER, None, None)",
    "a descriptor taken": "call('syscall', ctypes.c_long(438), ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0))",
    "a nicer life": "os.nice(1)",
    "a namespace": "call('unshare', 0x10000000)",
    "a child": "os.fork()",
    "a socket": "call('socket', 1, 1, 0)",
    "a file": "open('file', 'w')",
    "a file in memory": "call('memfd_create', b'name', 0)",
    "a folder": "os.mkdir('folder')",
    "a pipe in a folder": "os.mkfifo('pipe')",
    "a time": "os.utime('.', (0, 0))",
    "a way out": "os.chroot('.')",
    "another folder": "os.chdir('/')",
}  # fmt: skip
ATTEMPT = """
def f():
    try:
        {escape}
    except OSError as error:
        return type(error).__name__, error.errno
    return 'it works'
"""
REFUSALS = [("PermissionError", 1), ("PermissionError", 13), ("OSError", 38)]  # EPERM, EACCES, ENOSYS


def attempt(escape: str, secret: Path) -> Trial:
    places = f"OWNER, SECRET = {os.getpid()}, {str(secret)!r}\n"
    program = CALL + places + ATTEMPT.replace("{escape}", escape)
    return Trial(program, "", f"def check(candidate):\n    assert candidate() in {REFUSALS}\n", "f")


@pytest.mark.parametrize("what", ESCAPES)
def test_every_way_out_is_refused(what: str, contained: None, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    assert run_program(attempt(ESCAPES[what], secret), QUICK, filtered=True) == "passed"


@pytest.mark.parametrize("what", ["a signal sent by a pipe", "a signal", "an environment", "a secret", "a file lock"])
def test_the_ways_out_are_real(what: str, tmp_path: Path) -> None:
    """Without the filter they work, so that the test above tests something."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("these are Linux's")
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    assert run_program(attempt(ESCAPES[what], secret), QUICK, filtered=False) == "failed"


def test_an_ordinary_user_is_contained_as_well(contained: None, tmp_path: Path) -> None:
    """All ways out again, without any of root's rights."""
    drop = shutil.which("setpriv")
    if drop is None or os.geteuid() != 0:
        pytest.skip("needs root and setpriv to take root's rights away")
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    script = (
        "import sys, test_programs as tests; from pathlib import Path\n"
        "assert open('/proc/self/status').read().split('CapEff:')[1].split()[0] == '0' * 16\n"
        "print(tests.containment(tests.QUICK))\n"
        "for what, escape in tests.ESCAPES.items():\n"
        "    print(what, tests.run_program(tests.attempt(escape, Path(sys.argv[1])), tests.QUICK, filtered=True))\n"
    )
    here = Path(__file__)
    found = subprocess.run(
        [drop, "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script, str(secret)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[1]), *sys.path])},
        check=False,
    )
    assert found.returncode == 0, found.stderr
    first, *rest = found.stdout.splitlines()
    assert first == str(Containment(True, True, True, True, True))
    assert rest == [f"{what} passed" for what in ESCAPES]


ON_EVERY_WIRE = """
import os
def f():
    for number in range(3, 20):
        try:
            os.write(number, {words})
        except OSError:
            pass
    return 0
"""
FORGERIES = {
    "words on every wire": ON_EVERY_WIRE.replace("{words}", "b'passed'") + "f()\nos._exit(0)",
    "nonsense on the wire": ON_EVERY_WIRE.replace("{words}", "b'nonsense\\n' * 9"),
    "depth on the wire": ON_EVERY_WIRE.replace("{words}", "b'[' * 50000 + b'\\n'"),
    "frames and all objects": """
import gc, sys
right = ''.join(['ze', 'bra'])
frame, values = sys._getframe(), gc.get_objects()
while frame:
    values += [*frame.f_locals.values(), *frame.f_globals.values()]
    frame = frame.f_back
found = any(isinstance(value, str) and right in value and value is not right for value in values)
def f():
    return right if found else 0
""",
    "an answer that equals everything": """
class Any(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
def f():
    return Any(0)
""",
    "another answer that equals everything": """
class Any:
    def __eq__(self, other): return True
def f():
    return Any()
""",
    "no assertions": "import builtins\nbuiltins.AssertionError = Exception\ndef f():\n    return 0",
    "another check": "def check(candidate): pass\ndef f():\n    return 0",
    "an error instead": "def f():\n    raise SystemExit(0)",
    "another error": "def f():\n    raise KeyboardInterrupt",
    "no function": "x = 1",
}


@pytest.mark.parametrize("what", FORGERIES)
def test_no_program_decides_about_itself(what: str, contained: None) -> None:
    """The right answer is known to the test alone."""
    assert asked(FORGERIES[what], "assert candidate() == 'zebra'") == "failed"


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 10**4000, 0.1, -0.0, math.inf, "", "ä\ud800\n\"", b"\x00\xff", 1 + 2j, [], [[1], (2, "a")],
        (), (1,), set(), {1, (2, 3)}, frozenset({1}), {}, {1: [2], "a": {(1, 2): None}}, range(2, 9, 3),
    ],
    ids=lambda value: str(type(value).__name__),
)  # fmt: skip
def test_values_come_back_as_they_were(value: Any) -> None:
    line = written(value)
    assert line.count(b"\n") == 1
    again = read(line)
    assert again == value
    assert repr(again) == repr(value)


def test_values_of_other_kinds() -> None:
    assert math.isnan(read(written(math.nan)))
    assert list(read(written(x for x in (1, (2,))))) == [1, (2,)]
    with pytest.raises(TypeError, match="Fraction cannot leave"):
        written([Fraction(1, 2)])


SOLVED = {
    "arguments": ("def f(a, *b, c):\n    return a, b, c", "assert candidate(1, 2, 3, c={4: 5}) == (1, (2, 3), {4: 5})"),
    "a generator": ("def f():\n    yield from 'abc'", "assert ''.join(candidate()) == 'abc'"),
    "helpers": ("def helper(x):\n    return 0\ndef f(x):\n    return 2 * x", "assert helper(candidate(2)) == 5"),
    "the name": ("def f(x):\n    return 2 * x", "assert f(1) == 2"),
    "an error": (
        "def f():\n    return {}['a']",
        "try:\n        candidate()\n    except KeyError:\n        return\n    assert 0",
    ),
    "a wide number": ("def f():\n    return 10 ** 5000", "assert candidate() == 10 ** 5000"),
    "a dataclass inside": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\ndef f():\n    return A(3).x",
        "assert candidate() == 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SOLVED)
@pytest.mark.parametrize(
    "head", ["", "def helper(x):\n    return x + 1\n\ndef f(x):\n", "def helper(x):\n  return x + 1\n"]
)
def test_right_programs_pass(what: str, head: str, contained: None) -> None:
    program, test = SOLVED[what]
    if what == "helpers" and not head:
        pytest.skip("a head without helpers")
    assert asked(program, test, head) == "passed"


def test_arguments_are_passed_by_value(contained: None) -> None:
    program = "def f(x):\n    x.append(1)\n    return len(x)"
    assert asked(program, "x = []\n    assert candidate(x) == 1\n    assert x == []") == "passed"


def test_what_holds_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(
        filters: bool = True, works: bool = True, forks: bool = False, reads: bool = False, user: int = 0
    ) -> None:
        def fake(trial: Trial, limits: Limits, *, filtered: bool) -> str:
            if not works or (filtered and not filters):
                return "failed"
            escaped = ("  starts_another()" in trial.program and forks) or ("  reads()" in trial.program and reads)
            return "failed" if escaped else "passed"

        monkeypatch.setattr(programs, "run_program", fake)
        monkeypatch.setattr(os, "geteuid", lambda: user)

    machine()
    assert containment() == Containment(True, True, True, True, True)
    machine(reads=True, user=1000)
    assert containment() == Containment(True, True, True, False, True)
    for weak in ({"filters": False, "forks": True}, {"reads": True}):
        machine(**weak)
        with pytest.raises(NacreError, match="as root a program could start others without end here, or read"):
            containment()
    machine(works=False)
    with pytest.raises(NacreError, match="a harmless program fails in the process made for it"):
        containment()
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(NacreError, match="on Linux and macOS only"):
        containment()


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_says_what_it_should_on_every_architecture(machine: str) -> None:
    """Its instructions, carried out by hand for every call there is."""
    column, architecture = ARCHITECTURES[machine]

    def verdict(number: int, *arguments: int, arch: int = architecture) -> str:
        seen = {0: number, 4: arch} | dict.fromkeys(range(16, 64, 4), 0)
        for index, argument in enumerate(arguments):
            seen |= {16 + 8 * index: argument & 0xFFFFFFFF, 20 + 8 * index: argument >> 32}
        place, value, program = 0, 0, filter_program(column, architecture)
        while True:
            operation, if_true, if_false, operand = program[place]
            if operation == 0x20:
                value = seen[operand]
            elif operation == 0x06:
                return {0x7FFF0000: "allowed", 0x80000000: "killed"}.get(operand, f"refused {operand & 0xFFFF}")
            else:
                true = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
                place += if_true if true else if_false
            place += 1

    allowed = {numbers[column] for numbers in ALLOWED.values()} - {None}
    conditions = {one.numbers[column]: one for one in CONDITIONS.values() if one.numbers[column] is not None}
    assert not allowed & set(conditions)
    for number in range(424):
        if number in conditions:
            continue
        assert verdict(number) == ("allowed" if number in allowed else "refused 1"), number
    for number, condition in conditions.items():
        before = [7] * condition.argument
        for value in [*range(2048), *(1 << bit for bit in range(32)), 0x5401, 0x5412, 0x40086602]:
            right = not value & WRITING if condition.no_bit else value in condition.values
            assert verdict(number, *before, value) == ("allowed" if right else "refused 1"), (number, value)
    assert verdict(CONDITIONS["prlimit64"].numbers[column], 0, 0, 1 << 32) == "refused 1", "a pointer's upper half"
    assert verdict(435) == "refused 38", "clone3, and whatever came later"
    assert verdict(0x40000000 + 2) == "killed"
    assert verdict(56, arch=0x40000003) == "killed", "another architecture's calls have other numbers"


def test_pass_at_k_is_the_chance_that_one_of_k_is_right() -> None:
    for n in (1, 5, 12):
        for c in range(n + 1):
            for k in range(1, n + 1):
                assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)
    assert 0 < pass_at_k(10_000, 1, 1) < 1.1e-4
    with pytest.raises(ValueError, match="must hold"):
        pass_at_k(1, 2, 1)
