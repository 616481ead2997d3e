"""pynetdicom's own tests of its query/retrieve application, run against a node.

They come with its wheel, in apps/tests. Theirs is what is asked and what must be answered; ours is
what is around it: their launcher starts qrscp on port 11112 for each test, ours one node on any
port for all of them.

Their application answers once for each instance, whatever the level. A node answers once for each
entity, so each of their instances is given a patient, a study and a series of its own: then both
must answer the same. Two of those patients have one Patient ID, from two issuers.
"""

import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynetdicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.apps.tests import test_qrscp_find, test_qrscp_get, test_qrscp_move

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.node_process import Node, running_node
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

pytestmark = [
    pytest.mark.peers,
]

FILES = Path(pynetdicom.__file__).parent / "tests/dicom_files"
MODULES = (test_qrscp_find, test_qrscp_get, test_qrscp_move)
INSTANCES = 5
#: What their tests take for granted.
NODE_PORT, DESTINATION_PORT = 11112, 11113
NODE_AET, DESTINATION_AET = "QRSCP", "STORESCP"


class Launched:
    """What their launcher returns; the node outlives each of their tests."""

    def terminate(self) -> None:
        """Leave the node running."""

    def kill(self) -> None:
        """Leave the node running."""

    def wait(self, timeout: float | None = None) -> None:
        """Leave the node running."""


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, int]]:
    """Run a node that holds their instances; yield the ports in use for those they name."""
    folder = tmp_path_factory.mktemp("qrscp")
    destination_port = free_port()
    nodes = nodes_file(folder, {DESTINATION_AET: destination_port})
    with running_node(folder / "node.log", "--aet", NODE_AET, "--nodes", str(nodes)) as node:
        store_instances(node, folder)
        yield {NODE_PORT: node.port, DESTINATION_PORT: destination_port}


def store_instances(node: Node, folder: Path) -> None:
    """Store their instances by their storescu, as their tests do, and wait for the index."""
    instances: dict[str, Dataset] = {}
    for path in sorted(FILES.glob("*.dcm")):
        data_set = dcmread(path, force=True)
        instances.setdefault(data_set.SOPInstanceUID, data_set)
    sent = folder / "sent"
    sent.mkdir()
    for number, instance in enumerate(instances.values()):
        instance.IssuerOfPatientID = f"ISSUER{number}"
        instance.StudyInstanceUID = generate_uid(None)
        instance.SeriesInstanceUID = generate_uid(None)
        instance.save_as(sent / f"{number}.dcm")
    subprocess.run(
        [sys.executable, "-m", "pynetdicom", "storescu", node.host, str(node.port), sent, "-cx"],
        check=True,
    )
    eventually(
        lambda: dcmtk.find(node, "STUDY", "StudyInstanceUID"),
        until=lambda answers: len(answers) == INSTANCES,
    )


@pytest.fixture
def redirected(ports: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have their modules speak to the node, which holds their instances already."""

    class Redirected(AE):
        """Their clients and servers, on the ports in use."""

        def associate(self, addr: str, port: int, **options: Any) -> Any:  # type: ignore[override]
            # They give a node 5 s for each, which a busy machine may take.
            self.acse_timeout = self.dimse_timeout = self.network_timeout = 60
            return super().associate(addr, ports[port], **options)

        def start_server(self, address: tuple[str, int], **options: Any) -> Any:  # type: ignore[override]
            host, port = address
            return super().start_server((host, ports[port]), **options)

    for module in MODULES:
        monkeypatch.setattr(module, "AE", Redirected)
        monkeypatch.setattr(module, "_send_datasets", lambda: None)


def theirs() -> Iterator[tuple[Any, str]]:
    """Yield each of their tests: an object of its class, and the name of the method."""
    for module in MODULES:
        for name, found in vars(module).items():
            if isinstance(found, type) and name.endswith("SCPBase"):
                for method in sorted(vars(found)):
                    if method.startswith("test_"):
                        yield found(), method


@pytest.mark.usefixtures("redirected")
def test_all_thirteen_of_theirs_are_run_and_pass(
    subtests: pytest.Subtests, caplog: pytest.LogCaptureFixture
) -> None:
    passed = []
    for suite, name in theirs():
        with subtests.test(name):
            caplog.clear()
            suite.setup_method()
            # Their launcher would start qrscp and wait for it.
            suite.func, suite.startup = (lambda _arguments: Launched()), 0
            method = getattr(suite, name)
            wants_log = "caplog" in inspect.signature(method).parameters
            try:
                method(**({"caplog": caplog} if wants_log else {}))
            finally:
                suite.teardown_method()
                # They leave these to the garbage collector, which warns.
                suite.tfile.close()
                suite.instance_location.cleanup()
            passed.append(f"{type(suite).__name__}.{name}")
    assert Counter(each.partition(".")[0] for each in passed) == {
        "FindSCPBase": 11,
        "GetSCPBase": 1,
        "MoveSCPBase": 1,
    }
