"""Becomes a command that does not outlive the process which started it: `... leashed PARENT WORDS`.

A sweep that is killed with SIGKILL cannot end its runs. If they went on alone, the same command would meet them in
their folders. On Linux the kernel ends them; elsewhere they go on, and the sweep says that another process is there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

ANY = "any"
"""The parent's number where it is not known: whoever starts this."""

ADOPTS = 1
"""The process that becomes the parent of those whose own has ended."""

SET_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG`: it stays with the process when that becomes another program."""


def main() -> None:
    """Become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    parent, *words = sys.argv[1:]
    own = os.getppid()
    if own == ADOPTS if parent == ANY else own != int(parent):  # it was too late
        sys.exit(1)
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
