"""What we write compressed, DCMTK and GDCM read, to the last bit of every layout of pixels."""

import io
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from lenticular.byte_ranges import InMemory
from lenticular.splice import LeftAlone, write_form
from lenticular.transfer_syntaxes import (
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_2000_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    RLE_LOSSLESS,
    TransferSyntax,
)
from tests import images
from tests.images import Image

pytestmark = pytest.mark.peers

#: A syntax and what decodes it, without turning YBR_FULL into RGB.
JUDGES = [
    (JPEG_LOSSLESS_SV1, ("dcmdjpeg", "+cn")),
    (JPEG_LOSSLESS_SV1, ("gdcmconv", "-w")),
    (JPEG_LS_LOSSLESS, ("dcmdjpls",)),
    (JPEG_2000_LOSSLESS, ("gdcmconv", "-w")),
    (RLE_LOSSLESS, ("dcmdrle",)),
]
#: GDCM changes bits that Bits Stored does not count, and wants the palette, which none here has.
NOT_FOR_GDCM = {*(image.name for image in images.HIGH_BITS), "palette"}
LARGE = [image for image in images.ALL if min(image.rows, image.columns) > 1]


def pixels_of(image: Image) -> bytes:
    """Return the cells with the samples of a pixel side by side."""
    if image.planar_configuration != 1:
        return image.pixels
    cells = np.frombuffer(image.pixels, np.uint8).reshape(image.frames, 3, -1)
    return cells.transpose(0, 2, 1).tobytes()


@pytest.mark.parametrize(
    ("syntax", "judge"), JUDGES, ids=[f"{judge[0]}-{syntax.uid}" for syntax, judge in JUDGES]
)
def test_others_decode_our_forms_to_the_same_pixels(
    syntax: TransferSyntax, judge: tuple[str, ...], tmp_path: Path
) -> None:
    judged = 0
    form, native = tmp_path / "form.dcm", tmp_path / "native.dcm"
    for image in LARGE:
        if judge[0] == "gdcmconv" and image.name in NOT_FOR_GDCM:
            continue
        out = io.BytesIO()
        try:
            write_form(InMemory(image.file(IMPLICIT_VR_LITTLE_ENDIAN)), syntax, out)
        except LeftAlone:
            continue  # Noise, which gains nothing.
        form.write_bytes(out.getvalue())
        subprocess.run([*judge, form, native], check=True, capture_output=True)
        theirs = pydicom.dcmread(native)
        assert theirs.get("PlanarConfiguration") in (None, 0)
        assert theirs.PixelData[: len(image.pixels)] == pixels_of(image), image.name
        judged += 1
    assert judged >= 7
