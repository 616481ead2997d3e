"""dcmjs-dimse and Orthanc retrieve; dcmjs-dimse, Orthanc and dcmqrscp are sent to."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from tests.cloud.deadline import eventually
from tests.cloud.standin import offline_cloud
from tests.peers import dcmjs_dimse, dcmtk, orthanc
from tests.peers.archived import archive, data_set_of, image
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

pytestmark = pytest.mark.peers

STUDY = "1.2.826.0.1.93"
UIDS = [f"{STUDY}.{series}.{number}" for series in (1, 2) for number in (1, 2)]


@dataclass(frozen=True)
class Site:
    """A gateway with a study, and where each destination listens."""

    gateway: Gateway
    ports: dict[str, int]
    files: dict[str, bytes]

    def data_set(self, uid: str) -> bytes:
        """Return an instance's data set as it is stored."""
        return data_set_of(self.files[uid])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Fill an archive and run a gateway over it that knows everyone."""
    folder = tmp_path_factory.mktemp("site")
    ports = {aet: free_port() for aet in (orthanc.AET, "DCMQRSCP", "DCMJS")}
    nodes = nodes_file(folder, ports)
    files = {
        # Without private elements, of which dcmjs complains.
        uid: image(STUDY, uid.rpartition(".")[0], uid, private=False, PatientID="P93")
        for uid in UIDS
    }
    with offline_cloud() as cloud:
        stores = Stores.in_cloud(cloud)
        archive(stores, *files.values())
        settings = {"LENTICULAR_NODES_FILE": str(nodes)}
        with running_gateway(folder / "gateway.log", stores, settings) as gateway:
            yield Site(gateway, ports, files)


def test_dcmjs_dimse_finds_moves_and_gets(site: Site, tmp_path: Path) -> None:
    got, moved = tmp_path / "got", tmp_path / "moved"
    got.mkdir()
    moved.mkdir()
    with dcmjs_dimse.server(port=site.ports["DCMJS"], folder=moved) as server:
        events = dcmjs_dimse.run(
            site.gateway,
            {"type": "find", "level": "STUDY", "keys": {"StudyInstanceUID": STUDY}},
            {"type": "move", "destination": "DCMJS", "study": STUDY},
            {"type": "get", "study": STUDY, "series": f"{STUDY}.2"},
            folder=got,
        )
        eventually(lambda: server.of("association"))
    assert [each["status"] for each in dcmjs_dimse.responses(events, 0)] == [0xFF00, 0]
    *pending, final = dcmjs_dimse.responses(events, 1)
    assert [each["remaining"] for each in pending] == [4, 3, 2, 1]
    assert (final["status"], final["completed"], final["failures"]) == (0, 4, 0)
    assert {path.stem for path in moved.iterdir()} == set(UIDS)
    final = dcmjs_dimse.responses(events, 2)[-1]
    assert (final["status"], final["completed"], final["failures"]) == (0, 2, 0)
    assert {path.stem for path in got.iterdir()} == set(UIDS[2:])
    # It writes what it has understood, so it is read again.
    for path in (*moved.iterdir(), *got.iterdir()):
        assert bytes(pydicom.dcmread(path).PixelData) == bytes(range(256)) * 2


def test_orthanc_finds_and_has_what_it_found_sent_to_itself(site: Site, tmp_path: Path) -> None:
    with orthanc.running_orthanc(
        tmp_path / "orthanc", site.gateway, port=site.ports[orthanc.AET]
    ) as peer:
        query = peer.post(
            f"/modalities/{orthanc.NODE}/query",
            {"Level": "Series", "Query": {"StudyInstanceUID": STUDY, "SeriesInstanceUID": ""}},
        )["ID"]
        assert len(peer.get(f"/queries/{query}/answers")) == 2
        job = peer.post(
            f"/queries/{query}/retrieve", {"TargetAet": orthanc.AET, "Synchronous": True}
        )
        assert job["Query"]
        assert _data_sets(peer) == {site.data_set(uid) for uid in UIDS}


def test_orthanc_is_sent_to(site: Site, tmp_path: Path) -> None:
    with orthanc.running_orthanc(tmp_path / "orthanc", port=site.ports[orthanc.AET]) as peer:
        output = dcmtk.move(site.gateway, orthanc.AET, "STUDY", f"StudyInstanceUID={STUDY}")
        assert "0x0000: Success" in output.rpartition("C-MOVE RSP")[2], output[-3000:]
        assert _data_sets(peer) == {site.data_set(uid) for uid in UIDS}


def _data_sets(peer: orthanc.Orthanc) -> set[bytes]:
    names = peer.get("/instances")
    return {data_set_of(peer.download(f"/instances/{name}/file")) for name in names}


@contextmanager
def dcmqrscp(folder: Path, port: int) -> Iterator[Path]:
    """Run DCMTK's archive on a port; yield the folder it keeps files in."""
    storage = folder / "storage"
    storage.mkdir(parents=True)
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMQRSCP {storage} RW (9, 1024mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen(
        ["dcmqrscp", "-c", str(configuration)],
        env=dcmtk.ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: dcmtk.listens(port))
        yield storage
    finally:
        process.terminate()
        process.wait(10)


def test_dcmqrscp_is_sent_to(site: Site, tmp_path: Path) -> None:
    with dcmqrscp(tmp_path / "dcmqrscp", site.ports["DCMQRSCP"]) as storage:
        output = dcmtk.move(site.gateway, "DCMQRSCP", "STUDY", f"StudyInstanceUID={STUDY}")
        assert "0x0000: Success" in output.rpartition("C-MOVE RSP")[2], output[-3000:]
        found = {
            str(data_set.SOPInstanceUID): data_set
            for data_set in map(pydicom.dcmread, storage.glob("*.dcm"))
        }
    assert set(found) == set(UIDS)
    for uid, data_set in found.items():
        stored = pydicom.dcmread(BytesIO(site.files[uid]))
        assert data_set == stored
