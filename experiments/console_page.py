"""Runs every command of a page, in order, and writes what it printed under it.

    python experiments/console_page.py docs/tutorial.md --place FOLDER

A block marked `console` holds commands, each behind `$ `, and behind each what it printed. Commands run in FOLDER, one
after the other, in a shell of their own; its own path is left out of what they print. How long one took stands under it
from one second on. A page is written when all of its commands have run, so that no output on it is another run's.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONGEST = 30
"""Lines of an output; those in the middle of a longer one are left out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--place", type=Path, required=True, help="the folder in which the commands run")
    chosen = parser.parse_args()
    text = chosen.page.read_text()
    chosen.page.write_text(BLOCK.sub(lambda found: f"```console\n{carried_out(found[1], chosen.place)}```", text))


def carried_out(block: str, place: Path) -> str:
    """The block's commands with what they print now."""
    return "".join(f"$ {command}\n{output_of(command, place)}" for command in commands_of(block))


def commands_of(block: str) -> list[str]:
    """The commands of a block; one whose line ends with a backslash goes on in the next."""
    found: list[str] = []
    goes_on = False
    for line in block.splitlines():
        if goes_on:
            found[-1] += f"\n{line}"
        elif line.startswith("$ "):
            found.append(line[2:])
        goes_on = (goes_on or line.startswith("$ ")) and line.endswith("\\")
    return found


def output_of(command: str, place: Path) -> str:
    """What a command prints, on both streams, and how long it took."""
    print(f"$ {command}", flush=True)
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env={**os.environ, "PATH": beside, "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.monotonic() - started
    print(f"{done.stdout}[{seconds:.0f} s]", flush=True)
    lines = [line.rstrip() for line in done.stdout.replace(f"{place.resolve()}/", "").splitlines()]
    if len(lines) > LONGEST:
        lines = [*lines[: LONGEST // 2], "...", *lines[-LONGEST // 2 :]]
    taken = [f"[{seconds:.0f} s]"] if seconds >= 1 else []
    return "".join(f"{line}\n" for line in [*lines, *taken])


if __name__ == "__main__":
    main()
