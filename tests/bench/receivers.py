"""The C-STORE receivers that are measured side by side: ours, and those of others.

Each is started in an empty folder, with PDUs of 128 KiB where it can be told, and says on which
port it listens. A server of ours takes a free port itself; DCMTK and Orthanc get one that was free,
and listen on every address because they cannot be told otherwise.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.ports import free_port

from .processes import PYTHON_PATH, first_line, server, wait_for_port

_MAX_PDU_BYTES: Final = 128 * 1024
_MAX_ASSOCIATIONS: Final = 128
_WORKERS: Final = 2
_BUCKET: Final = "bench"
#: AE title of whoever instances are moved to.
DESTINATION: Final = "DISCARDS"
#: Debian has it where only root's PATH leads.
_SEARCH_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])


@dataclass(frozen=True, slots=True)
class Site:
    """What receivers are given.

    `folder` is empty; `aws` and `table` are the gateway's. S3 takes `put_seconds` for each PUT,
    `get_seconds` for each GET, and keeps the bytes where `keep` is. `destination_port` is where
    DESTINATION listens, if it does.
    """

    folder: Path
    aws: Mapping[str, str]
    table: str
    put_seconds: float = 0.0
    get_seconds: float = 0.0
    keep: bool = False
    destination_port: int | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A receiver that takes associations; its CPU time is that of `pid` and its children.

    `environment` is how our own commands reach the bucket and the table behind it; `spool` is
    where instances wait that were acknowledged and are not in the bucket yet.
    """

    port: int
    aet: str
    pid: int
    environment: Mapping[str, str] = field(default_factory=dict)
    spool: Path | None = None


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver that may be there; `program` is None for what comes with this project."""

    name: str
    what: str
    start: Callable[[Site], AbstractContextManager[Running]]
    program: str | None = None
    package: str | None = None

    @property
    def absence(self) -> str | None:
        """Say why it cannot be measured, if so."""
        if self.program is None or found(self.program):
            return None
        return (
            f"{self.name} is skipped: {self.program} is not installed "
            f"(Debian has it in the package {self.package})."
        )


def found(program: str) -> str | None:
    """Return the path of an installed program."""
    return shutil.which(program, path=_SEARCH_PATH)


@contextmanager
def sink(site: Site) -> Iterator[dict[str, str]]:
    """Run the sink that stands for S3; yield the variables by which AWS SDKs find it."""
    log = site.folder / "sink.log"
    command = [
        sys.executable, "-m", "tests.bench.sink",
        f"--put-seconds={site.put_seconds}", f"--get-seconds={site.get_seconds}",
    ]  # fmt: skip
    if site.keep:
        command.append("--keep")
    with server(command, log, {"PYTHONPATH": PYTHON_PATH}) as process:
        port = first_line(process, log)["port"]
        yield {**site.aws, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}


@contextmanager
def _gateway(site: Site, workers: int = 1) -> Iterator[Running]:
    settings = {"LENTICULAR_WORKERS": str(workers)}
    with sink(site) as aws, _python(site, "gateway", (), {**aws, **settings}) as running:
        yield running


@contextmanager
def _gateway_with_spool(site: Site) -> Iterator[Running]:
    spool = site.folder / "spool"
    spool.mkdir()
    settings = {"LENTICULAR_CUSTODY": "spool", "LENTICULAR_SPOOL_DIR": str(spool)}
    with sink(site) as aws, _python(site, "gateway", (), {**aws, **settings}) as running:
        yield replace(running, spool=spool)


@contextmanager
def _gateway_into_files(site: Site, *options: str) -> Iterator[Running]:
    files = site.folder / "files"
    files.mkdir()
    arguments = (str(files), *options)
    with _python(site, "tests.bench.file_gateway", arguments, dict(site.aws)) as running:
        yield running


def _gateway_of_workers(site: Site) -> AbstractContextManager[Running]:
    return _gateway(site, _WORKERS)


def _gateway_as_storescp(site: Site) -> AbstractContextManager[Running]:
    return _gateway_into_files(site, "--as-storescp")


def _gateway_of_workers_as_storescp(site: Site) -> AbstractContextManager[Running]:
    return _gateway_into_files(site, "--as-storescp", "--workers", str(_WORKERS))


@contextmanager
def _pynetdicom(site: Site) -> Iterator[Running]:
    module = "tests.bench.pynetdicom_receiver"
    with sink(site) as aws, _python(site, module, (_BUCKET,), aws) as running:
        yield running


@contextmanager
def _python(
    site: Site, module: str, arguments: tuple[str, ...], aws: Mapping[str, str]
) -> Iterator[Running]:
    environment = {
        **aws,
        "PYTHONPATH": PYTHON_PATH,
        "LENTICULAR_BUCKET": _BUCKET,
        "LENTICULAR_TABLE": site.table,
        "LENTICULAR_AE_TITLE": "LENTICULAR",
        "LENTICULAR_ACCESS": "open",
        "LENTICULAR_BIND": "127.0.0.1",
        "LENTICULAR_PORT": "0",
        "LENTICULAR_MAX_ASSOCIATIONS": str(_MAX_ASSOCIATIONS),
        "LENTICULAR_MAX_PDU_BYTES": str(_MAX_PDU_BYTES),
    }
    if site.destination_port is not None:
        nodes = site.folder / "nodes.yaml"
        nodes.write_text(
            f"nodes: [{{aet: {DESTINATION}, address: 127.0.0.1, port: {site.destination_port}}}]"
        )
        environment["LENTICULAR_NODES_FILE"] = str(nodes)
    log = site.folder / "receiver.log"
    with server([sys.executable, "-m", module, *arguments], log, environment) as process:
        ready = first_line(process, log)
        yield Running(ready["port"], ready["aet"], process.pid, environment)


@contextmanager
def _storescp(site: Site, *options: str) -> Iterator[Running]:
    port = free_port()
    log = site.folder / "receiver.log"
    path = found("storescp")
    assert path is not None
    command = [path, "--fork", "-aet", "STORESCP", "-pdu", str(_MAX_PDU_BYTES), *options, str(port)]
    # Where it was built to read this variable, it switches Nagle's algorithm off.
    with server(command, log, {"TCP_NODELAY": "1"}) as process:
        wait_for_port(port, process, log)
        yield Running(port, "STORESCP", process.pid)


def _storescp_into_files(site: Site) -> AbstractContextManager[Running]:
    files = site.folder / "files"
    files.mkdir()
    return _storescp(site, "+B", "-od", str(files))


def _storescp_ignoring(site: Site) -> AbstractContextManager[Running]:
    return _storescp(site, "--ignore")


@contextmanager
def _discarder(site: Site) -> Iterator[Running]:
    with _python(site, "tests.bench.discarder", (), {}) as running:
        yield running


@contextmanager
def _orthanc(site: Site) -> Iterator[Running]:
    port, http_port = free_port(), free_port()
    storage = site.folder / "orthanc"
    storage.mkdir()
    modalities = {}
    if site.destination_port is not None:
        modalities[DESTINATION] = [DESTINATION, "127.0.0.1", site.destination_port]
    configuration = site.folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "Name": "Bench",
                "StorageDirectory": str(storage),
                "IndexDirectory": str(storage),
                "StorageCompression": False,
                "OverwriteInstances": True,
                "StableAge": 60,
                "SaveJobs": False,
                "MetricsEnabled": False,
                "Plugins": [],
                "DicomServerEnabled": True,
                "DicomAet": "ORTHANC",
                "DicomPort": port,
                "DicomCheckCalledAet": False,
                "DicomModalities": modalities,
                "DicomAlwaysAllowStore": True,
                "DicomAlwaysAllowFind": True,
                "DicomAlwaysAllowMove": True,
                "DicomAlwaysAllowGet": True,
                "UnknownSopClassAccepted": True,
                "MaximumPduLength": _MAX_PDU_BYTES,
                "HttpServerEnabled": True,
                "HttpPort": http_port,
                "HttpBindAddresses": ["127.0.0.1"],
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "TcpNoDelay": True,
            }
        )
    )
    log = site.folder / "receiver.log"
    path = found("Orthanc")
    assert path is not None
    with server([path, f"--logfile={site.folder / 'orthanc.log'}", str(configuration)], log) as (
        process
    ):
        wait_for_port(port, process, log)
        yield Running(port, "ORTHANC", process.pid)


@contextmanager
def _dcmqrscp(site: Site) -> Iterator[Running]:
    port = free_port()
    storage = site.folder / "dcmqrscp"
    storage.mkdir()
    configuration = site.folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"""
NetworkTCPPort = {port}
MaxPDUSize = {_MAX_PDU_BYTES}
MaxAssociations = {_MAX_ASSOCIATIONS}
HostTable BEGIN
destination = ({DESTINATION}, 127.0.0.1, {site.destination_port or 0})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
DCMQRSCP {storage} RW (100, 4096mb) ANY
AETable END
"""
    )
    log = site.folder / "receiver.log"
    path = found("dcmqrscp")
    assert path is not None
    with server([path, "-c", str(configuration)], log, {"TCP_NODELAY": "1"}) as process:
        wait_for_port(port, process, log)
        yield Running(port, "DCMQRSCP", process.pid)


OURS: Final = Receiver("lenticular", "whole path, objects PUT into the sink", _gateway)
OURS_OF_WORKERS: Final = Receiver(
    f"lenticular, {_WORKERS} workers", "the same by worker processes", _gateway_of_workers
)
SPOOLING: Final = Receiver(
    "lenticular, spool", "each on disk by fsync, then PUT into the sink", _gateway_with_spool
)
STORESCP: Final = Receiver(
    "storescp --fork", "a file per instance", _storescp_into_files, "storescp", "dcmtk"
)
DISCARDER: Final = Receiver("a discarder that acknowledges at once", "nothing is kept", _discarder)
ORTHANC: Final = Receiver(
    "Orthanc", "a file per instance, and indexed in SQLite", _orthanc, "Orthanc", "orthanc"
)
RECEIVERS: Final = (
    OURS,
    OURS_OF_WORKERS,
    SPOOLING,
    Receiver(
        "lenticular, files",
        "a file in the place of each PUT, hashed all the same",
        _gateway_into_files,
    ),
    Receiver(
        "lenticular as storescp",
        "a file per instance, not hashed and not looked at",
        _gateway_as_storescp,
    ),
    Receiver(
        f"lenticular as storescp, {_WORKERS} workers",
        "the same by worker processes",
        _gateway_of_workers_as_storescp,
    ),
    STORESCP,
    Receiver("storescp --ignore", "nothing is kept", _storescp_ignoring, "storescp", "dcmtk"),
    ORTHANC,
    Receiver("pynetdicom + boto3", "stock, objects PUT into the sink", _pynetdicom),
)
#: Servers that can send on what they have received, by C-MOVE.
ARCHIVES: Final = (
    OURS,
    ORTHANC,
    Receiver("dcmqrscp", "a file per instance, and an index file", _dcmqrscp, "dcmqrscp", "dcmtk"),
)
