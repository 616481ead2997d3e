"""The internal storage format as its users see it: a node that makes forms, and DCMTK around it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyRootGet  # type: ignore[attr-defined]

from lenticular.archive import INSTANCES, TRANSCODED, FormKey
from tests import images
from tests.cloud.deadline import eventually
from tests.commands import lenticular
from tests.images import Image
from tests.peers import dcmtk
from tests.peers.archived import data_set_of
from tests.peers.node_process import Node, running_node
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

pytestmark = pytest.mark.peers

ARCHIVE = "ARCHIVE"
IMPLICIT, JPEG_LOSSLESS, HTJ2K = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.201",
)
CT = replace(images.smooth("ct", 256, 256), uid=f"{images.STUDY}.1.1")
ENHANCED = images.smooth("frames", 128, 128, frames=7, uid=f"{images.STUDY}.1.2")
COLOUR = replace(images.COLOUR[1], uid=f"{images.STUDY}.1.3")
ONE_BIT = Image("bits", 1, 1, bytes(633), uid=f"{images.STUDY}.1.4")
WITH_A_FORM = (CT, ENHANCED, COLOUR)
EVERY = (*WITH_A_FORM, ONE_BIT)


@dataclass
class Stored:
    """A node with a study, the folder of what is done with it, and where a second node listens."""

    node: Node
    folder: Path
    archive_port: int

    def forms(self) -> list[str]:
        return [key for key in self.node.object_keys(TRANSCODED) if FormKey.parse(key)]

    def get(self, name: str, *options: str) -> dict[str, bytes]:
        """Retrieve the study with getscu; return the files by SOP Instance UID."""
        folder = self.folder / name
        folder.mkdir()
        dcmtk.run(
            "getscu", "+B", *options, "-S", "-aec", self.node.aet, "-od", folder,
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={images.STUDY}",
            self.node.host, str(self.node.port),
        )  # fmt: skip
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def get_only(self, transfer_syntax_uid: str) -> dict[str, bytes]:
        """Retrieve the study with pynetdicom in one syntax; return the data sets by UID."""
        received: dict[str, bytes] = {}

        def keep(event: evt.Event) -> int:
            request = event.request
            assert isinstance(request, C_STORE)
            assert request.DataSet is not None
            received[str(request.AffectedSOPInstanceUID)] = request.DataSet.getvalue()
            return 0x0000

        association = AE(ae_title="VIEWER").associate(
            self.node.host,
            self.node.port,
            contexts=[
                build_context(StudyRootGet),
                build_context(images.SECONDARY_CAPTURE, transfer_syntax_uid),
            ],
            ae_title=self.node.aet,
            ext_neg=[build_role(images.SECONDARY_CAPTURE, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, keep)],
        )
        assert association.is_established
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "STUDY"
        wanted.StudyInstanceUID = images.STUDY
        for _ in association.send_c_get(wanted, StudyRootGet):
            pass
        association.release()
        return received

    def form_of(self, image: Image) -> bytes:
        (key,) = (each for each in self.forms() if f"/{image.uid}/" in each)
        s3 = self.node.client("s3")
        body: bytes = s3.get_object(Bucket=self.node.bucket, Key=key)["Body"].read()
        return body


@contextmanager
def node_with(folder: Path, *parameters: str) -> Iterator[Stored]:
    """Run a node that transcodes, store every image, wait until each has a form or a reason."""
    files = []
    for image in EVERY:
        path = folder / f"{image.name}.dcm"
        path.write_bytes(image.file())
        files.append(path)
    port = free_port()
    nodes = nodes_file(folder, {ARCHIVE: port})
    options = [option for each in parameters for option in ("--set", each)]
    with running_node(folder / "node.log", "--nodes", str(nodes), *options) as node:
        stored = Stored(node, folder, port)
        assert dcmtk.store(node, *files, options=("-xe", "-R")) == [0] * len(files)
        eventually(
            lambda: len(node.object_keys(TRANSCODED)), until=lambda count: count == len(EVERY)
        )
        yield stored


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    with node_with(tmp_path_factory.mktemp("forms"), "Transcode=jpeg-lossless") as running:
        yield running


@pytest.fixture(scope="module")
def retired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    folder = tmp_path_factory.mktemp("retired")
    with node_with(folder, "Transcode=htj2k", "RetireOriginal=true") as running:
        eventually(lambda: len(running.node.object_keys(INSTANCES)), until=lambda count: count == 1)
        yield running


def test_every_image_gets_a_form_that_dcmtk_decodes_to_the_same_pixels(
    stored: Stored, tmp_path: Path
) -> None:
    assert len(stored.forms()) == len(WITH_A_FORM)
    for image in (CT, ENHANCED):
        form, native = tmp_path / f"{image.name}.dcm", tmp_path / f"{image.name}-native.dcm"
        form.write_bytes(stored.form_of(image))
        dcmtk.run("dcmdjpeg", form, native)
        assert data_set_of(native.read_bytes()) == image.data_set()


@pytest.mark.parametrize("which", ["stored", "retired"])
def test_who_takes_what_came_gets_the_original_bit_by_bit(
    which: str, request: pytest.FixtureRequest
) -> None:
    store: Stored = request.getfixturevalue(which)
    got = store.get("as-it-came")
    assert got.keys() == {image.uid for image in EVERY}
    for image in EVERY:
        assert data_set_of(got[image.uid]) == image.data_set()


@pytest.mark.parametrize("which", ["stored", "retired"])
def test_who_takes_the_compressed_syntax_alone_gets_the_form(
    which: str, request: pytest.FixtureRequest
) -> None:
    store: Stored = request.getfixturevalue(which)
    got = store.get_only(JPEG_LOSSLESS if which == "stored" else HTJ2K)
    assert got == {image.uid: data_set_of(store.form_of(image)) for image in WITH_A_FORM}


@pytest.mark.parametrize("which", ["stored", "retired"])
def test_who_takes_implicit_vr_alone_gets_the_pixels_that_came(
    which: str, request: pytest.FixtureRequest
) -> None:
    store: Stored = request.getfixturevalue(which)
    got = store.get_only(IMPLICIT)
    assert got.keys() == {image.uid for image in EVERY}
    assert got[CT.uid].endswith(CT.pixels)
    assert got[ENHANCED.uid].endswith(ENHANCED.pixels)


def test_a_move_sends_originals_that_are_retired(retired: Stored, tmp_path: Path) -> None:
    with dcmtk.receiver(tmp_path / "received", ARCHIVE, retired.archive_port) as received:
        dcmtk.move(retired.node, ARCHIVE, "STUDY", f"StudyInstanceUID={images.STUDY}")
        files = [path.read_bytes() for path in received.iterdir()]
    assert sorted(map(data_set_of, files)) == sorted(image.data_set() for image in EVERY)


def test_rebuilding_the_index_of_retired_originals_changes_nothing(retired: Stored) -> None:
    before = retired.get("before-rebuild")
    done = lenticular(retired.node.environment(), "rebuild-index")
    assert done.returncode == 0, done.stderr
    assert retired.get("after-rebuild") == before
