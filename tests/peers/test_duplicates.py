"""One SOP instance sent twice: what the bucket holds, what is found and what is sent on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.archived import data_set_of
from tests.peers.conftest import WORKSTATION
from tests.peers.ct_files import ct_file
from tests.peers.node_process import Node, running_node
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

pytestmark = pytest.mark.peers

SUCCESS: Final = 0x0000
STUDY: Final = "1.2.826.0.1.98"


class Site:
    """A node with a policy, and the workstation it sends to."""

    def __init__(self, node: Node, policy: str, port: int, folder: Path) -> None:
        self.node = node
        self.policy = policy
        self._port = port
        self._folder = folder

    def file(self, study: str, name: str, description: str) -> Path:
        """Write an image that differs from others of the study in its description alone."""
        folder = self._folder / name
        folder.mkdir(parents=True)
        return ct_file(
            folder, study, f"{study}.1", f"{study}.1.1",
            PatientID="P98", SeriesDescription=description,
        )  # fmt: skip

    def kept(self, study: str) -> list[bytes]:
        """Return the data sets that the bucket holds of a study; nothing may be deleted in it."""
        s3 = self.node.client("s3")
        versions = s3.list_object_versions(Bucket=self.node.bucket, Prefix=f"instances/{study}/")
        assert not versions.get("DeleteMarkers")
        return [
            data_set_of(s3.get_object(Bucket=self.node.bucket, Key=each["Key"])["Body"].read())
            for each in versions.get("Versions", [])
        ]

    def found(self, study: str) -> list[tuple[str, str]]:
        """Return description and number of instances of each series that is found."""
        return [
            (series["0008,103e"], series["0020,1209"])
            for series in dcmtk.find(
                self.node, "SERIES", f"StudyInstanceUID={study}", "SeriesDescription",
                "NumberOfSeriesRelatedInstances",
            )
        ]  # fmt: skip

    def moved(self, study: str, folder: Path) -> list[bytes]:
        """Return the data sets that the workstation gets of a study."""
        with dcmtk.receiver(folder, WORKSTATION, self._port) as received:
            dcmtk.move(self.node, WORKSTATION, "STUDY", f"StudyInstanceUID={study}")
            return [data_set_of(path.read_bytes()) for path in received.iterdir()]


@pytest.fixture(scope="module", params=["keep-both", "keep-first"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    port = free_port()
    nodes = nodes_file(folder, {WORKSTATION: port})
    with running_node(
        folder / "node.log", "--nodes", str(nodes), "--set", f"Duplicates={request.param}"
    ) as node:
        yield Site(node, request.param, port, folder)


def test_the_same_bytes_again_are_acknowledged_and_change_nothing(
    site: Site, tmp_path: Path
) -> None:
    study = f"{STUDY}.1"
    file = site.file(study, "same", "one")
    assert dcmtk.store(site.node, file, file) == [SUCCESS, SUCCESS]
    eventually(lambda: site.found(study), until=lambda found: found == [("one", "1")])
    assert dcmtk.store(site.node, file) == [SUCCESS]
    assert site.kept(study) == [data_set_of(file.read_bytes())]
    assert site.moved(study, tmp_path / "received") == [data_set_of(file.read_bytes())]
    assert site.found(study) == [("one", "1")]


def test_other_bytes_are_kept_beside_the_first_and_the_policy_says_which_is_shown(
    site: Site, tmp_path: Path
) -> None:
    study = f"{STUDY}.2"
    first, second = site.file(study, "first", "first"), site.file(study, "second", "second")
    marker = site.file(f"{STUDY}.3", "marker", "marker")
    assert dcmtk.store(site.node, first) == [SUCCESS]
    eventually(lambda: site.found(study), until=lambda found: found == [("first", "1")])
    assert dcmtk.store(site.node, second) == [SUCCESS]
    both = {data_set_of(file.read_bytes()) for file in (first, second)}
    assert len(both) == 2
    assert set(site.kept(study)) == both

    shown = second if site.policy == "keep-both" else first
    # Where nothing changes there is nothing to wait for; what came later is found by then.
    assert dcmtk.store(site.node, marker) == [SUCCESS]
    eventually(lambda: site.found(f"{STUDY}.3"))
    eventually(lambda: site.found(study), until=lambda found: found == [(shown.parent.name, "1")])
    assert site.moved(study, tmp_path / "received") == [data_set_of(shown.read_bytes())]
    assert set(site.kept(study)) == both
