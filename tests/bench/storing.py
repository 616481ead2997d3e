"""C-STORE, receiver beside receiver: instances a second and CPU time an instance.

The machine is never the same for long, so receivers take turns: in each round every one of them is
started anew, warmed up, sent the same work and ended, and the next round begins with another one.
Ratios are made within a round and their median is reported.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from .processes import PYTHON_PATH, ROOT, tree_cpu_seconds
from .receivers import Receiver, Running, Site
from .sender import Errand

_WARM_UP_INSTANCES: Final = 5
_SETTLE_SECONDS: Final = 0.2
#: Slower than any receiver that works.
_LONGEST_SECONDS_PER_INSTANCE: Final = 2.0
_SPARE_SECONDS: Final = 60.0
_LOOK_AGAIN_SECONDS: Final = 0.02


class SendingFailed(Exception):
    """A sender could not do its errand; the message says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """Work for a receiver: some instances over some associations at a time."""

    instances: int
    associations: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What one receiver did with one load in one round.

    `instances_per_second` is until the last acknowledgement; `kept_per_second` until the bucket had
    the last one too, where they are acknowledged before.
    """

    receiver: str
    associations: int
    turn: int
    instances_per_second: float
    cpu_milliseconds: float
    kept_per_second: float


def sample(
    receivers: Sequence[Receiver], loads: Sequence[Load], rounds: int, site: Site, data_set: Path
) -> Iterator[Sample]:
    """Measure every receiver under every load in every round."""
    for turn in range(rounds):
        first = turn % len(receivers)
        for receiver in (*receivers[first:], *receivers[:first]):
            with started(receiver, site) as running:
                for load in loads:
                    yield _measure(receiver, running, load, turn, data_set)


@contextmanager
def started(receiver: Receiver, site: Site) -> Iterator[Running]:
    """Run a receiver in a folder of its own, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=site.folder))
    try:
        with receiver.start(replace(site, folder=folder)) as running:
            yield running
    finally:
        # Before the kernel has written all of it, and disturbs whoever is next.
        shutil.rmtree(folder)


def _measure(receiver: Receiver, running: Running, load: Load, turn: int, data_set: Path) -> Sample:
    send(running, replace(load, instances=_WARM_UP_INSTANCES * load.associations), data_set)
    _wait_for_spool(running, load)
    before = tree_cpu_seconds(running.pid)
    seconds = send(running, load, data_set)
    more_seconds = _wait_for_spool(running, load)
    # Threads that were given the last instance may still be at it.
    time.sleep(_SETTLE_SECONDS)
    spent = tree_cpu_seconds(running.pid) - before
    return Sample(
        receiver.name,
        load.associations,
        turn,
        load.instances / seconds,
        1000 * spent / load.instances,
        load.instances / (seconds + more_seconds),
    )


def _wait_for_spool(running: Running, load: Load) -> float:
    """Wait until nothing is in the spool any more; return the seconds that took."""
    began = time.monotonic()
    deadline = began + _SPARE_SECONDS + load.instances * _LONGEST_SECONDS_PER_INSTANCE
    while running.spool is not None and any(running.spool.glob("*/*.entry")):
        if time.monotonic() > deadline:
            raise SendingFailed("the spool does not get empty")
        time.sleep(_LOOK_AGAIN_SECONDS)
    return time.monotonic() - began


def send(running: Running, load: Load, data_set: Path) -> float:
    """Send a load; return the seconds from the first request to the last acknowledgement.

    Every association has a process of its own and a study of its own; all begin when all have been
    accepted.
    """
    share, more = divmod(load.instances, load.associations)
    limit = _SPARE_SECONDS + load.instances * _LONGEST_SECONDS_PER_INSTANCE
    with ExitStack() as stack:
        senders = [
            stack.enter_context(_sender(running, share + (number < more), data_set))
            for number in range(load.associations)
        ]
        for each in senders:
            _line(each)
        for each in senders:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        deadline = time.monotonic() + limit
        times = []
        for each in senders:
            said, complaint = _end(each, deadline)
            if each.returncode != 0:
                raise SendingFailed(complaint)
            times.append(json.loads(said))
    return float(max(each["ended"] for each in times) - min(each["began"] for each in times))


@contextmanager
def _sender(running: Running, instances: int, data_set: Path) -> Iterator["subprocess.Popen[str]"]:
    errand = Errand(
        host="127.0.0.1",
        port=running.port,
        called_aet=running.aet,
        data_set=str(data_set),
        instances=instances,
    )
    # -S: what it imports is in the standard library, and sixteen of them start at a time.
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "tests.bench.sender", errand.to_json()],
        cwd=ROOT,
        env={"PYTHONPATH": PYTHON_PATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _line(sender: "subprocess.Popen[str]") -> None:
    assert sender.stdout is not None
    if not sender.stdout.readline():
        assert sender.stderr is not None
        raise SendingFailed(sender.stderr.read().strip())


def _end(sender: "subprocess.Popen[str]", deadline: float) -> tuple[str, str]:
    try:
        return sender.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise SendingFailed("the receiver takes too long") from None
