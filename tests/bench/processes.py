"""Servers in processes of their own: started, waited for, their CPU time read, ended."""

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from infra.local import tether

ROOT: Final = Path(__file__).resolve().parents[2]
#: The project's own modules, as `make` puts them on the path.
PYTHON_PATH: Final = os.pathsep.join([str(ROOT), str(ROOT / "layers/core")])

_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 20.0
_LOOK_AGAIN_SECONDS: Final = 0.02
_LOG_TAIL_CHARACTERS: Final = 2000
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat behind the name, proc(5): ppid is the 4th, utime the 14th, rss the 24th.
_PPID: Final = 1
_TIMES: Final = slice(11, 15)
_RSS: Final = 21


class ServerFailed(Exception):
    """A server did not start; the message says what it left in its log."""


@contextmanager
def server(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run a command until the block is left, SIGTERM first; its children end with it.

    It also ends when this process is killed. What it prints on stderr goes to `log`.
    """
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(tether.__file__), str(os.getpid()), *command],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)
        if process.stdout is not None:
            process.stdout.close()


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # The session is its own, so this reaches what it forked and nobody else.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def first_line(process: "subprocess.Popen[str]", log: Path) -> dict[str, Any]:
    """Wait for the JSON line by which one of our own servers says that it is ready."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], _START_SECONDS)[0]:
        raise ServerFailed(f"a server does not get ready: {_tail(log)}")
    line = process.stdout.readline()
    if not line:
        raise ServerFailed(f"a server ended before it was ready: {_tail(log)}")
    said: dict[str, Any] = json.loads(line)
    return said


def wait_for_port(port: int, process: "subprocess.Popen[str]", log: Path) -> None:
    """Wait until a server takes connections."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with suppress(ConnectionError):
            socket.create_connection(("127.0.0.1", port), timeout=_START_SECONDS).close()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed(f"a server does not listen on its port {port}: {_tail(log)}")
        time.sleep(_LOOK_AGAIN_SECONDS)


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-_LOG_TAIL_CHARACTERS:]


def tree_cpu_seconds(pid: int) -> float:
    """Return the CPU time, user and system, of a process and all it ever started.

    A child's time counts whether it runs, is a zombie, or has been waited for.
    """
    ticks = sum(sum(map(int, fields[_TIMES])) for fields in _tree(pid))
    return ticks / _TICKS_PER_SECOND


def tree_resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its children; what they share counts twice."""
    return sum(int(fields[_RSS]) for fields in _tree(pid)) * resource.getpagesize()


def _tree(pid: int) -> list[list[str]]:
    """Return the fields behind the name in /proc/PID/stat, of a process and all its children."""
    stats: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):
            stats[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
    parents = {each: int(fields[_PPID]) for each, fields in stats.items()}
    return [fields for each, fields in stats.items() if _is_of_tree(each, pid, parents)]


def _is_of_tree(pid: int, root: int, parents: Mapping[int, int]) -> bool:
    while pid != root:
        pid = parents.get(pid, 0)
        if pid == 0:
            return False
    return True
