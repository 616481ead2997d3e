"""Run a command that dies with the process that started it, even when that one is killed.

    python tether.py PARENT_PID COMMAND [ARGUMENT ...]

PR_SET_PDEATHSIG (prctl(2)) survives exec, so it holds for programs that know nothing of it. It
asks for a signal when the *thread* that forked ends: children are started from the main thread
only. Where there is no prctl the command runs untied.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Tie this process to its parent and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before the line above; then nobody will ever signal us.
        if os.getppid() != parent:
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main()
