"""storescu at work: what it sends, and what it hears as soon as it hears it."""

import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.peers import dcmtk
from tests.peers.instances import Instance
from tests.peers.node_process import Node

_SECONDS: Final = 120
#: A line of `storescu -d`, which dumps each message as it goes or comes.
_LINE: Final = re.compile(r"D: (Affected SOP Instance UID|DIMSE Status)\s+: (\S+)")


@dataclass(frozen=True)
class Answer:
    """A C-STORE-RSP as the client saw it."""

    association: int
    sop_instance_uid: str
    status: int


class Storing:
    """Clients that send, each its instances over one association, all at once."""

    def __init__(self, processes: Sequence["subprocess.Popen[str]"]) -> None:
        """Listen to what the clients print."""
        #: Every answer so far.
        self.answers: list[Answer] = []
        self._processes = processes
        self._heard: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._running = len(processes)
        self._listeners = [
            threading.Thread(target=self._listen, args=(number, process))
            for number, process in enumerate(processes)
        ]
        for listener in self._listeners:
            listener.start()

    def wait_for_answers(self, count: int) -> None:
        """Return the moment the clients have heard so many answers, or have all ended."""
        while len(self.answers) < count and self._running:
            self._take()

    def finish(self) -> list[int]:
        """Wait until every client has ended and return the statuses in the order they came."""
        while self._running:
            self._take()
        return [answer.status for answer in self.answers]

    def acknowledged(self) -> set[str]:
        """Return the SOP Instance UIDs that were answered with Success."""
        return {answer.sop_instance_uid for answer in self.answers if answer.status == 0}

    def close(self) -> None:
        """End the clients."""
        for process in self._processes:
            process.kill()
            process.wait()
        for listener in self._listeners:
            listener.join()

    def _take(self) -> None:
        answer = self._heard.get(timeout=_SECONDS)
        if answer is None:
            self._running -= 1
        else:
            self.answers.append(answer)

    def _listen(self, association: int, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        uid = ""
        with process.stdout:
            for line in process.stdout:
                found = _LINE.match(line)
                if found is None:
                    continue
                name, value = found.groups()
                if name == "DIMSE Status":
                    status = int(value.rstrip(":"), 16)
                    self._heard.put(Answer(association, uid, status))
                else:
                    uid = value
        self._heard.put(None)


@contextmanager
def storing(node: Node, *batches: Sequence[Instance]) -> Iterator[Storing]:
    """Send each batch over an association of its own; one that is refused does not end it."""
    program = shutil.which("storescu")
    assert program, "storescu is not installed: apt-get install dcmtk"
    clients = Storing(
        [
            subprocess.Popen(
                [program, "-d", "-nh", "-aec", node.aet, node.host, str(node.port),
                 *(str(instance.path) for instance in batch)],
                env=dcmtk.ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="latin-1",
            )
            for batch in batches
        ]
    )  # fmt: skip
    try:
        yield clients
    finally:
        clients.close()


def store(node: Node, *instances: Instance) -> list[int]:
    """Send instances over one association and return the status of each."""
    with storing(node, instances) as clients:
        return clients.finish()
