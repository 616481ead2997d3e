"""The gateway with a folder in the place of its bucket, to be held against receivers of files.

    python -m tests.bench.file_gateway FOLDER [--as-storescp] [--workers N]

The server, its workers, the policy and the wire are the gateway's own; no other service than
C-STORE is there, and no table of nodes.

The service is the gateway's own, too: it hashes the file, looks where the instance belongs, and
names the file by the hash. `--as-storescp` puts one in its place that does what storescp +B does:
write what comes to a file named by the SOP Instance UID, look at none of it, and answer.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.acceptance import AccessPolicy
from gateway.association import Association, Limits, Service
from gateway.command_set import CommandField
from gateway.custody import Buffered, Custody
from gateway.messages import DataSetSink, Message
from gateway.offers import offers
from gateway.ports import Ports
from gateway.server import Server, Slots
from gateway.storage import StorageService
from gateway.supervisor import Supervisor
from gateway.worker import run
from lenticular.part10 import file_head

_AET: Final = "LENTICULAR"
_LIMITS: Final = Limits(max_associations=128)
_MEMORY_BYTES: Final = 16 << 20


class FolderCustody(Custody):
    """Writes a file for each instance, as storescp does: without waiting for the disk."""

    def __init__(self, folder: Path) -> None:
        """Write into a folder that is there."""
        self._scratch_dir = None
        self._folder = folder

    def keep(self, key: str, file: Buffered | bytearray, metadata: Mapping[str, str]) -> bool:  # noqa: ARG002 - a file has nowhere to keep it
        """Write a file under the SHA-256 that the key ends with."""
        with (self._folder / key.rpartition("/")[2]).open("xb", buffering=0) as out:
            out.write(file)
        return True


class _File:
    """A file that is written while its data set arrives."""

    def __init__(self, path: Path, head: bytes) -> None:
        self._out = path.open("xb", buffering=0)
        self._out.write(head)

    def write(self, view: memoryview) -> None:
        self._out.write(view)

    def complete(self) -> None:
        self._out.close()

    def discard(self) -> None:
        self._out.close()


class FolderService:
    """C-STORE as storescp +B does it."""

    failure_status = 0xA700

    def __init__(self, folder: Path) -> None:
        """Write into a folder that is there."""
        self._folder = folder

    def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002 - a `Service`
        """Open a file named by the SOP Instance UID."""
        uid = message.command.affected_sop_instance_uid or ""
        context = message.context
        head = file_head(context.abstract_syntax, uid, context.transfer_syntax)
        return _File(self._folder / uid, head)

    def handle(self, association: Association, message: Message, sink: DataSetSink | None) -> None:  # noqa: ARG002 - a `Service`
        """Answer Success."""
        association.send_response(message.context, message.command.response(0))


def _service(options: argparse.Namespace) -> Service:
    if options.as_storescp:
        return FolderService(options.folder)
    return StorageService(FolderCustody(options.folder), memory_bytes=_MEMORY_BYTES)


def _server(options: argparse.Namespace, ports: Ports, slots: Slots | None = None) -> Server:
    return Server(
        ports,
        acceptance=AccessPolicy(
            ae_title=_AET, access="open", find_node=lambda _aet: None, offers=offers()
        ),
        services={CommandField.C_STORE_RQ: _service(options)},
        limits=_LIMITS,
        slots=slots,
    )


def _supervisor(options: argparse.Namespace, ports: Ports) -> Supervisor:
    supervisor = Supervisor(
        ports,
        workers=options.workers,
        command=[sys.executable, "-m", "tests.bench.file_gateway", *sys.argv[1:]],
        max_associations=_LIMITS.max_associations,
        artim_seconds=_LIMITS.artim_seconds,
    )
    supervisor.start()
    return supervisor


def main() -> int:
    """Serve on a free port of this machine until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.file_gateway")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--as-storescp", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("worker", type=int, nargs="*", help="what a supervisor tells a worker")
    options = parser.parse_intermixed_args()
    if options.worker:
        _number, descriptor = options.worker
        return run(descriptor, lambda slots: _server(options, Ports(), slots))
    ports = Ports.open("127.0.0.1", 0)
    server = _server(options, ports) if options.workers == 1 else _supervisor(options, ports)
    print(json.dumps({"event": "ready", "aet": _AET, "port": ports.address[1]}), flush=True)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
