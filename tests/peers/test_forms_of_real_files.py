"""Real files through every syntax and back, and DCMTK and GDCM as judges of what we decode."""

import hashlib
import io
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from lenticular.byte_ranges import InMemory
from lenticular.codecs import CODECS
from lenticular.decoding import native_data_set
from lenticular.errors import CannotUnderstand
from lenticular.part10 import file_head
from lenticular.splice import LeftAlone, Reason, restored_sha256, write_form
from lenticular.transfer_syntaxes import BY_UID
from tests.peers import dcmtk
from tests.peers.corpus import CorpusFile, corpus_files, data_set_of

pytestmark = [
    pytest.mark.peers,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]

EXPLICIT = "1.2.840.10008.1.2.1"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
WRITTEN = [uid for uid, codec in CODECS.items() if codec.encode]
#: What decodes a syntax for us to compare with; GDCM where DCMTK has no decoder.
JUDGES = {
    **dict.fromkeys(
        ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57",
         JPEG_LOSSLESS),
        ("dcmdjpeg",),
    ),
    **dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), ("dcmdjpls",)),
    **dict.fromkeys(
        ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"), ("gdcmconv", "-w")
    ),
    "1.2.840.10008.1.2.5": ("dcmdrle",),
}  # fmt: skip
#: They say RGB and hold a JFIF stream, which is YCbCr: DCMTK shows the wrong colours of them.
WRONG_LABELS = {"GH195.dcm", "layer9.dcm"}


def as_kept(file: CorpusFile) -> bytes:
    """Return a file as the gateway would write it."""
    head = file_head(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid)
    return head + data_set_of(file.path)


def readable(*transfer_syntaxes: str) -> list[CorpusFile]:
    return [
        each
        for each in corpus_files()
        if each.transfer_syntax_uid in transfer_syntaxes and not each.hostile
    ]


@pytest.mark.parametrize("uid", WRITTEN)
def test_every_real_file_is_restored_to_the_last_byte_or_left_alone(uid: str) -> None:
    became: Counter[str] = Counter()
    for each in corpus_files():
        if each.transfer_syntax_uid not in BY_UID:
            continue
        if each.hostile:
            continue
        original = as_kept(each)
        out = io.BytesIO()
        try:
            write_form(InMemory(original), BY_UID[uid], out)
        except LeftAlone as left_alone:
            became[left_alone.reason] += 1
            continue
        form = InMemory(out.getbuffer())
        assert restored_sha256(form) == hashlib.sha256(original).hexdigest(), each.path
        became["restored"] += 1
    assert became["restored"] >= 45
    # What has been compressed, by whomever, is not touched.
    assert became[Reason.LOSSY] >= 35
    assert became[Reason.ENCAPSULATED] >= 45
    assert became[Reason.MISLABELLED] == 1
    assert became[Reason.NO_PIXELS] >= 25


def test_what_dcmtk_and_gdcm_decode_we_decode_to_the_same_pixels(tmp_path: Path) -> None:
    compared = 0
    for each in readable(*JUDGES):
        assert each.transfer_syntax_uid in CODECS
        judged = tmp_path / "judged.dcm"
        judged.unlink(missing_ok=True)
        judge = JUDGES[each.transfer_syntax_uid]
        source = [*judge, *(["-i"] if judge[0] == "gdcmconv" else []), str(each.path)]
        target = [*(["-o"] if judge[0] == "gdcmconv" else []), str(judged)]
        done = subprocess.run([*source, *target], capture_output=True, check=False)
        try:
            data_set = b"".join(native_data_set(InMemory(as_kept(each))))
        except CannotUnderstand:
            data_set = None
        if done.returncode or not judged.exists() or each.path.name in WRONG_LABELS:
            continue
        theirs = pydicom.dcmread(judged, force=True)
        if pydicom.dcmread(each.path, force=True).BitsAllocated == 1:
            continue  # JPEG 2000 of one bit, which we leave to others
        assert data_set is not None, each.path
        head = file_head(each.sop_class_uid, each.sop_instance_uid, EXPLICIT)
        ours = pydicom.dcmread(io.BytesIO(head + data_set))
        # GDCM takes Bits Stored from the stream; what the file says decides.
        assert cells(ours, ours.BitsStored) == cells(theirs, ours.BitsStored), each.path
        for keyword in ("PhotometricInterpretation", "PlanarConfiguration"):
            assert ours.get(keyword) == theirs.get(keyword), each.path
        compared += 1
    assert compared >= 70


def cells(image: pydicom.Dataset, bits_stored: int) -> bytes:
    """Return the pixels without the bits that are not stored ones."""
    if image.BitsAllocated != 16:
        return bytes(image.PixelData)
    mask = (1 << bits_stored) - 1
    masked: bytes = (np.frombuffer(image.PixelData, "<u2") & mask).tobytes()
    return masked


def test_dcmtk_reads_what_we_decode_icons_included(tmp_path: Path) -> None:
    for each in readable(*JUDGES):
        try:
            data_set = b"".join(native_data_set(InMemory(as_kept(each))))
        except CannotUnderstand:
            continue
        path = tmp_path / "native.dcm"
        path.write_bytes(file_head(each.sop_class_uid, each.sop_instance_uid, EXPLICIT) + data_set)
        dump = dcmtk.run("dcmdump", "-q", "+P", "7fe0,0010", path, check=False)
        assert "PixelSequence" not in dump, each.path
