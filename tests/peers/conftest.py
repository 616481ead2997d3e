"""Nodes and peers that tests of this folder share."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association

from lenticular.requesting import keep_answers
from tests.cloud.standin import OfflineCloud, offline_cloud
from tests.peers import dcmtk
from tests.peers.custody import AT_ONCE, DISK, StartGateway
from tests.peers.faulty_s3 import FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.instances import PATIENT_ID, PATIENT_NAME
from tests.peers.node_process import Node, running_node
from tests.peers.nodes_file import nodes_file
from tests.peers.retrieval_site import Site, running_site
from tests.peers.spooling import spooling
from tests.ports import free_port

WORKSTATION = "WORKSTATION"


@pytest.fixture(scope="session", autouse=True)
def _answers_are_kept() -> Iterator[None]:
    """Let no association that a test opens by pynetdicom lose an answer, as none of ours does."""
    associate = AE.associate

    def kept(ae: AE, *arguments: Any, **options: Any) -> Association:
        opened = associate(ae, *arguments, **options)
        keep_answers(opened)
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AE, "associate", kept)
        yield


@dataclass(frozen=True)
class Clinic:
    """A node, and a workstation it may send to."""

    node: Node
    workstation_port: int


@pytest.fixture(scope="session")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Run one node for all tests that do not break it; each test stores studies of its own."""
    with _running_clinic(tmp_path_factory.mktemp("clinic")) as running:
        yield running


@pytest.fixture
def empty_clinic(tmp_path: Path) -> Iterator[Clinic]:
    """Run a node for one test that looks at everything in it."""
    with _running_clinic(tmp_path) as running:
        yield running


@contextmanager
def _running_clinic(folder: Path) -> Iterator[Clinic]:
    port = free_port()
    nodes = nodes_file(folder, {WORKSTATION: port})
    with running_node(folder / "node.log", "--nodes", str(nodes)) as node:
        yield Clinic(node, port)


@pytest.fixture
def workstation(clinic: Clinic, tmp_path: Path) -> Iterator[Path]:
    """Run storescp as the workstation; yield the folder it receives into."""
    with dcmtk.receiver(tmp_path / "received", WORKSTATION, clinic.workstation_port) as folder:
        yield folder


@pytest.fixture(scope="module")
def cloud() -> Iterator[OfflineCloud]:
    """Run moto out of the gateway's reach."""
    with offline_cloud() as running:
        yield running


@pytest.fixture
def stores(cloud: OfflineCloud) -> Stores:
    """Create the template's bucket and table, empty."""
    return Stores.in_cloud(cloud)


@pytest.fixture
def s3(stores: Stores) -> Iterator[FaultyS3]:
    """Run the gateway's own way to S3."""
    with faulty_s3(stores.cloud.endpoint) as way:
        yield way


@pytest.fixture
def start(stores: Stores, s3: FaultyS3, tmp_path: Path) -> Iterator[StartGateway]:
    """Return what starts a gateway; none may have written down whose instances it got."""
    logs: list[Path] = []
    with ExitStack() as running:

        def start(settings: Mapping[str, str] = AT_ONCE) -> Gateway:
            logs.append(tmp_path / f"gateway{len(logs)}.log")
            environment = {"AWS_ENDPOINT_URL_S3": s3.endpoint, **settings}
            return running.enter_context(running_gateway(logs[-1], stores, environment))

        yield start
    for log in logs:
        text = log.read_text("utf-8")
        for secret in (PATIENT_ID, *PATIENT_NAME.split("^")):
            assert secret not in text


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return an empty folder for the spool."""
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def spool_settings(spool: Path) -> dict[str, str]:
    """Return the settings of a gateway with this spool."""
    return spooling(spool)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of its own for scratch files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    # Lazily, for the gateway ends later and may have a file open.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def whole_site(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a gateway with studies, for all tests of a module that retrieve them."""
    with running_site(cloud, tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """Mend at the end of each test what it broke."""
    yield whole_site
    whole_site.s3.heal()
    whole_site.dynamodb.heal()
