"""The gateway alone in its own process, on a cloud that lives on when the gateway is killed."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.cloud.standin import OfflineCloud
from tests.peers.dimse import RawPeer
from tests.peers.node_process import ROOT, Node

_STOP_SECONDS: Final = 60
_PREFIXES_OF_OURS: Final = ("AWS_", "LENTICULAR_")


@dataclass(frozen=True)
class Stores:
    """The bucket and the table of a stack of the template."""

    cloud: OfflineCloud
    bucket: str
    table: str

    @classmethod
    def in_cloud(cls, cloud: OfflineCloud) -> Self:
        """Create them under names of their own."""
        stack = cloud.stack(ROOT / "template.yaml", BucketPrefix=f"t{uuid.uuid4().hex[:20]}")
        return cls(cloud, stack.name("ArchiveBucket"), stack.name("Table"))


class Gateway(Node):
    """A gateway that may be killed, and what Linux says of its process.

    Attributes:
        ready: its ready line
    """

    ready: dict[str, Any]

    def connect(self, *, host: str = "") -> RawPeer:
        """Connect to its plain port, as another `host` if wanted, and send nothing."""
        ours = (host, 0) if host else None
        return RawPeer(socket.create_connection((self.host, self.port), 10, ours))

    def kill(self) -> None:
        """End it as the kernel does when memory runs out: at once, nothing tidied up."""
        self.process.kill()
        self.process.wait(_STOP_SECONDS)

    def terminate(self) -> None:
        """Ask it to drain, and return at once."""
        self.process.send_signal(signal.SIGTERM)

    def lines(self, **facts: object) -> list[dict[str, Any]]:
        """Return the log lines that have these facts."""
        # The last line may be half written.
        whole = [line for line in self.log.read_text("utf-8").splitlines(keepends=True)
                 if line.endswith("\n")]  # fmt: skip
        return [
            line for line in map(json.loads, whole)
            if all(line.get(name) == fact for name, fact in facts.items())
        ]  # fmt: skip

    def workers(self) -> list[int]:
        """Return the IDs of its worker processes, those that have ended left out."""
        children = self._proc(f"task/{self.process.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if is_running(pid)]

    def threads(self) -> int:
        """Count its threads."""
        return len(list(self._proc("task").iterdir()))

    def open_files(self) -> list[str]:
        """Say what its file descriptors lead to."""
        found = []
        for descriptor in self._proc("fd").iterdir():
            # One that is closed while we look is not open.
            try:
                found.append(str(descriptor.readlink()))
            except FileNotFoundError:
                continue
        return found

    def resources(self) -> tuple[int, int, int]:
        """Count threads, connections of peers and open files; those to S3 are kept for reuse."""
        here, listening = f":{self.port:04X}", "0A"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # One that the gateway has closed belongs to no process and has no inode.
        peers = [each for each in lines if each[1].endswith(here) and each[3] != listening]
        files = [file for file in self.open_files() if not file.startswith("socket:")]
        return self.threads(), sum(each[9] != "0" for each in peers), len(files)

    def peak_bytes(self) -> int:
        """Return the most memory it ever held."""
        return self._status_bytes("VmHWM")

    def resident_bytes(self) -> int:
        """Return the memory it holds."""
        return self._status_bytes("VmRSS")

    def _status_bytes(self, name: str) -> int:
        status = self._proc("status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith(f"{name}:")]
        return int(line.split()[1]) * 1024

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self.process.pid}/{name}")


def is_running(pid: int) -> bool:
    """Tell whether a process is there and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def ask(gateway: Gateway, path: str) -> tuple[int, str]:
    """Ask for its health; return the status and what it says."""
    connection = http.client.HTTPConnection(gateway.host, gateway.ready["health_port"], timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode().strip()
    finally:
        connection.close()


@contextmanager
def running_gateway(
    log: Path, stores: Stores, settings: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """Start a gateway on a free port, open to anyone; kill it at the end if it still runs.

    `settings` are environment variables, AWS's own too.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES_OF_OURS)
    }
    environment = {
        **inherited,
        **stores.cloud.environment,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "layers/core")]),
        "LENTICULAR_BUCKET": stores.bucket,
        "LENTICULAR_TABLE": stores.table,
        "LENTICULAR_BIND": "127.0.0.1",
        "LENTICULAR_PORT": "0",
        "LENTICULAR_ACCESS": "open",
        **(settings or {}),
    }
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            line = process.stdout.readline()
            assert line, f"no ready line; see {log}: {log.read_text()[-2000:]}"
            ready = json.loads(line)
            gateway = Gateway(
                process, log, ready["host"], ready.get("port", 0), ready["aet"],
                stores.cloud.endpoint, stores.bucket, stores.table,
            )  # fmt: skip
            gateway.ready = ready
            yield gateway
        finally:
            process.kill()
            process.wait(_STOP_SECONDS)
