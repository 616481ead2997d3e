"""Orthanc as a node's peer: not ours, from Debian. It is told what to do through its REST API."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cloud.deadline import eventually
from tests.peers.node_process import Node
from tests.ports import free_port

AET = "ORTHANC"
#: What the node is called in Orthanc's configuration.
NODE = "node"
_PROGRAM = "/usr/sbin/Orthanc"
_SECONDS = 120


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    port: int
    http_port: int
    log: Path

    def get(self, path: str) -> Any:
        """Ask the REST API."""
        return self._call("GET", path, None)

    def post(self, path: str, body: object) -> Any:
        """Have the REST API do something, and return its answer."""
        return self._call("POST", path, json.dumps(body).encode())

    def download(self, path: str) -> bytes:
        """Get a file."""
        with urllib.request.urlopen(self._url(path), timeout=_SECONDS) as answer:  # noqa: S310 - http
            data: bytes = answer.read()
            return data

    def upload(self, file: Path) -> str:
        """Give it an instance, not by DICOM; return Orthanc's name of it."""
        name: str = self._call("POST", "/instances", file.read_bytes())["ID"]
        return name

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http_port}{path}"

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(self._url(path), body, method=method)  # noqa: S310 - http
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"Orthanc: {error.read().decode()[:1000]}") from error

    def is_up(self) -> bool:
        """Tell whether it answers."""
        try:
            self.get("/system")
        except (OSError, AssertionError):
            return False
        return True


@contextmanager
def running_orthanc(
    folder: Path, node: Node | None = None, *, port: int | None = None, **options: object
) -> Iterator[Orthanc]:
    """Run an Orthanc that keeps its files in `folder` and knows `node` as `NODE`.

    `options` are those of Orthanc's configuration, beside or instead of ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = Orthanc(port or free_port(), free_port(), folder / "orthanc.log")
    modalities: Mapping[str, object] = (
        {} if node is None else {NODE: [node.aet, node.host, node.port]}
    )
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "Plugins": [],
                "DicomAet": AET,
                "DicomPort": running.port,
                "DicomCheckCalledAet": False,
                "DicomModalities": modalities,
                "DicomAlwaysAllowEcho": True,
                "DicomAlwaysAllowStore": True,
                "UnknownSopClassAccepted": True,
                "HttpPort": running.http_port,
                "HttpBindAddresses": ["127.0.0.1"],
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "TcpNoDelay": True,
                **options,
            }
        ),
        "utf-8",
    )
    process = subprocess.Popen(
        [_PROGRAM, "--verbose", f"--logfile={running.log}", str(configuration)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: running.is_up() or process.poll() is not None, within=60)
        assert process.poll() is None, f"Orthanc ended: {running.log.read_text('utf-8')[-2000:]}"
        yield running
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
