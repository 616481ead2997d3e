"""The node's processes: started tied to it, watched until they end.

Every child has a session of its own, so that Ctrl-C in a terminal reaches the node only and the
node decides who stops when. What happens to children, and to the node itself, comes as events
through one queue. Children must be started from the main thread, see tether.py.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import ROOT

_TETHER: Final = str(Path(__file__).with_name("tether.py"))


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A person or the system asked the node to stop."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A child can do its work; `line` is what it says about itself."""

    child: "Child"
    line: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """A child has ended with an exit status, negative when a signal ended it."""

    child: "Child"
    status: int


Event = Interrupted | Ready | Ended
# SimpleQueue, because a signal handler may put into it while the main thread takes.
Events = queue.SimpleQueue[Event]


class Child:
    """A process that can be started again after it has ended.

    Its first line on stdout is a JSON object that says it is ready; the rest of its stdout and all
    of its stderr go to our stderr.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        events: Events,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Describe a Python module to run; nothing is started yet."""
        self.name = name
        self.environment = dict(environment)
        self._arguments = ("-m", module, *arguments)
        self._events = events
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[str] | None = None
        self._started = 0.0

    @property
    def age_seconds(self) -> float:
        """How long ago the process was started."""
        return time.monotonic() - self._started

    def start(self) -> None:
        """Start the process; `Ready` and `Ended` follow as events."""
        process = subprocess.Popen(
            # -S -E: the tether needs no site-packages, and is gone again at once.
            [sys.executable, "-S", "-E", _TETHER, str(os.getpid()),
             sys.executable, *self._arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=self._pass_fds,
        )  # fmt: skip
        self._process = process
        self._started = time.monotonic()
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        threading.Thread(target=self._wait, args=(process,), daemon=True).start()

    def terminate(self) -> None:
        """Ask the process to finish."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        if process.stdout is None:
            return
        with process.stdout:
            ready = False
            for line in process.stdout:
                if not ready and (description := _description(line)) is not None:
                    ready = True
                    self._events.put(Ready(self, description))
                else:
                    sys.stderr.write(line)

    def _wait(self, process: "subprocess.Popen[str]") -> None:
        self._events.put(Ended(self, process.wait()))


def _description(line: str) -> dict[str, Any] | None:
    """Read the line by which a child says that it is ready; None when it is another one."""
    try:
        description = json.loads(line)
    except ValueError:
        return None
    if not isinstance(description, dict) or description.get("event") != "ready":
        return None
    return description
