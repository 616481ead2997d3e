"""What a receiver does not take as it is stored comes uncompressed, as pydicom and DCMTK judge."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    MPEG2MPML,
    MPEG4HP41,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    VideoEndoscopicImageStorage,
)

from lenticular.archive import INSTANCES
from lenticular.transfer_syntaxes import BY_UID
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.archived import archive, image, key_of
from tests.peers.corpus import CorpusFile, corpus_files
from tests.peers.destination import counts, destination, get, requestor, responses
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

pytestmark = [
    pytest.mark.peers,
    # pydicom says so of real files.
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]

STUDY = "1.2.826.0.1.91.1"
VIDEO = "1.2.826.0.1.91.2"
PRIVATE = "1.2.826.0.1.91.3"
FILM = "1.2.826.0.1.91.4"
PRIVATE_CLASS = "1.2.826.0.1.91.99"
NATIVE = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]
STORED = [*NATIVE, RLELossless]
UID_OF = {syntax: f"{STUDY}.1.{number}" for number, syntax in enumerate(STORED)}
#: What decoding changes beside the pixels: labels that were true of the stream alone.
DECODED = {"PixelData", "PhotometricInterpretation", "PlanarConfiguration"}


@dataclass(frozen=True)
class Site:
    """A gateway with one image in each syntax; it keeps little in memory."""

    gateway: Gateway
    stores: Stores
    port: int
    files: Mapping[str, bytes]
    scratch: Path


@pytest.fixture(scope="module")
def site(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Fill an archive with the same image in every syntax, and a video that is none."""
    stores = Stores.in_cloud(cloud)
    files: dict[str, bytes] = {}
    for syntax, uid in UID_OF.items():
        if syntax == RLELossless:
            whole = pydicom.dcmread(BytesIO(files[ExplicitVRLittleEndian]))
            whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = UID(uid)
            whole.compress(RLELossless, generate_instance_uid=False)
            buffer = BytesIO()
            whole.save_as(buffer)
            files[syntax] = buffer.getvalue()
        else:
            files[syntax] = image(STUDY, f"{STUDY}.1", uid, syntax=syntax)
    fragments = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x04\0\0\0\0\0\1\xb3"
    video = image(VIDEO, f"{VIDEO}.1", f"{VIDEO}.1.1", syntax=MPEG2MPML, pixels=fragments)
    film = image(
        FILM, f"{FILM}.1", f"{FILM}.1.1", syntax=MPEG4HP41, pixels=fragments,
        sop_class=VideoEndoscopicImageStorage,
    )  # fmt: skip
    private = image(PRIVATE, f"{PRIVATE}.1", f"{PRIVATE}.1.1", sop_class=PRIVATE_CLASS)
    archive(
        stores, *files.values(), video, film, image(VIDEO, f"{VIDEO}.1", f"{VIDEO}.1.2"), private
    )
    folder = tmp_path_factory.mktemp("site")
    scratch = folder / "scratch"
    scratch.mkdir()
    port = free_port()
    nodes = nodes_file(folder, {"DEST": port})
    settings = {
        "LENTICULAR_NODES_FILE": str(nodes),
        "LENTICULAR_READ_AHEAD_BYTES": str(1 << 20),
        "LENTICULAR_SCRATCH_DIR": str(scratch),
        "LENTICULAR_UNKNOWN_CLASSES": "accept",
    }
    with running_gateway(folder / "gateway.log", stores, settings) as gateway:
        yield Site(gateway, stores, port, files, scratch)


def same(received: Dataset, stored: Dataset) -> bool:
    """Tell whether all elements, and the pixels, are the same."""
    for data_set in (received, stored):
        # In Implicit VR nobody can know.
        data_set.walk(_forget_private)
    names = [each for each in stored.dir() if each not in DECODED]
    return (
        received.dir() == stored.dir()
        and all(received[name].value == stored[name].value for name in names)
        and bool((received.pixel_array == stored.pixel_array).all())
    )


def _forget_private(data_set: Dataset, element: pydicom.DataElement) -> None:
    if element.tag.is_private:
        del data_set[element.tag]


@pytest.mark.parametrize("taken", NATIVE, ids=lambda uid: uid.name)
def test_each_stored_syntax_is_got_in_each_uncompressed_one(site: Site, taken: str) -> None:
    got = get(site.gateway, STUDY, [(CTImageStorage, [taken])])
    assert (got.final.Status, counts(got.final)) == (0x0000, (-1, len(STORED), 0, 0))
    for syntax, uid in UID_OF.items():
        received = pydicom.dcmread(BytesIO(got.files[uid]))
        assert received.file_meta.TransferSyntaxUID == taken
        assert same(received, pydicom.dcmread(BytesIO(site.files[syntax]))), syntax.name
        assert received["PixelPaddingValue"].value == -2000


@pytest.mark.parametrize(
    ("option", "taken"),
    [("+xi", {ImplicitVRLittleEndian}), ("+xe", {*NATIVE} - {DeflatedExplicitVRLittleEndian})],
)
def test_storescp_gets_what_it_takes_and_dcmtk_finds_no_fault_in_it(
    site: Site, tmp_path: Path, option: str, taken: set[str]
) -> None:
    with (
        dcmtk.receiver(tmp_path / "received", "DEST", site.port, accept=option) as folder,
        requestor(site.gateway) as association,
    ):
        *_, (final, failed) = responses(association, "DEST", STUDY)
        received = list(folder.iterdir())
    assert (final.Status, failed) == (0x0000, [])
    assert len(received) == len(STORED)
    for path in received:
        assert "E: " not in dcmtk.run("dcmdump", path)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID in taken


def test_what_cannot_be_decoded_fails_and_is_listed(site: Site) -> None:
    with destination(site.port, "DEST") as receiving, requestor(site.gateway) as association:
        *_, (final, failed) = responses(association, "DEST", VIDEO)
    assert (final.Status, counts(final), failed) == (0xB000, (-1, 1, 1, 0), [f"{VIDEO}.1.1"])
    assert list(receiving.files) == [f"{VIDEO}.1.2"]
    [line] = site.gateway.lines(message="instance not converted")
    assert (line["stored"], line["wanted"]) == (MPEG2MPML, ExplicitVRLittleEndian)


def test_the_stored_syntax_is_preferred_where_it_is_taken(site: Site) -> None:
    contexts = [(CTImageStorage, [syntax]) for syntax in STORED]
    got = get(site.gateway, STUDY, contexts)
    for syntax, uid in UID_OF.items():
        assert pydicom.dcmread(BytesIO(got.files[uid])).file_meta.TransferSyntaxUID == syntax
        assert got.files[uid].endswith(site.files[syntax][-200:])


def test_a_video_is_got_where_one_context_has_its_syntax_among_others(site: Site) -> None:
    contexts = [(VideoEndoscopicImageStorage, [ExplicitVRLittleEndian, MPEG4HP41])]
    got = get(site.gateway, FILM, contexts)
    assert (got.final.Status, counts(got.final), got.failed) == (0x0000, (-1, 1, 0, 0), [])
    received = pydicom.dcmread(BytesIO(got.files[f"{FILM}.1.1"]))
    assert received.file_meta.TransferSyntaxUID == MPEG4HP41


def test_a_private_class_is_got_where_unknown_ones_are_accepted(site: Site) -> None:
    got = get(site.gateway, PRIVATE, [(PRIVATE_CLASS, [ImplicitVRLittleEndian])])
    assert (got.final.Status, list(got.files)) == (0x0000, [f"{PRIVATE}.1.1"])


def test_an_image_too_long_for_memory_is_converted_on_disk(site: Site) -> None:
    study = f"{STUDY}.9"
    large = image(study, f"{study}.1", f"{study}.1.1", Rows=1024, NumberOfFrames=4)
    data_set = pydicom.dcmread(BytesIO(large))
    data_set.Rows = data_set.Columns = 1024
    data_set.PixelData = bytes(range(256)) * (8 << 12)
    buffer = BytesIO()
    data_set.save_as(buffer)
    archive(site.stores, buffer.getvalue())
    got = get(site.gateway, study, [(CTImageStorage, [ImplicitVRLittleEndian])])
    assert got.final.Status == 0x0000
    assert same(pydicom.dcmread(BytesIO(got.files[f"{study}.1.1"])), data_set)
    assert list(site.scratch.iterdir()) == []


def _smallest_of_each_syntax(folder: Path) -> Iterator[tuple[CorpusFile, bytes]]:
    """Yield files that GDCM decodes, with the pixels it finds in them."""
    decoded = folder / "decoded.dcm"
    seen: set[str] = set()
    for file in sorted(corpus_files(), key=lambda each: each.path.stat().st_size):
        syntax = BY_UID.get(file.transfer_syntax_uid)
        if syntax is None or syntax.lossy or file.hostile:
            continue
        # Some are one instance in several syntaxes.
        if not seen.isdisjoint((syntax.uid, file.sop_instance_uid)):
            continue
        if not file.dcmtk_reads or "PixelData" not in (stored := pydicom.dcmread(file.path)):
            continue
        if not key_of(file.path.read_bytes())[0].startswith(INSTANCES):
            continue
        # Of colours each decoder has its own notion, and of less than a byte GDCM none.
        if stored.get("SamplesPerPixel") == 1 and stored.get("BitsAllocated", 0) >= 8:
            decoded.unlink(missing_ok=True)
            dcmtk.run("gdcmconv", "--raw", file.path, decoded, check=False)
            if decoded.exists():
                seen |= {syntax.uid, file.sop_instance_uid}
                yield file, pydicom.dcmread(decoded).PixelData


@pytest.mark.slow
def test_real_images_of_every_syntax_come_with_the_pixels_that_gdcm_sees(
    site: Site, tmp_path: Path
) -> None:
    files = list(_smallest_of_each_syntax(tmp_path))
    assert len(files) > 6
    archive(site.stores, *(file.path for file, _ in files))
    for file, pixels in files:
        stored = pydicom.dcmread(file.path, stop_before_pixels=True)
        got = get(
            site.gateway, stored.StudyInstanceUID, [(file.sop_class_uid, [ImplicitVRLittleEndian])]
        )
        assert (got.final.Status, got.failed) == (0x0000, []), file
        received = pydicom.dcmread(BytesIO(got.files[stored.SOPInstanceUID]))
        assert received.PixelData == pixels, file
