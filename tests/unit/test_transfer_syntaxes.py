"""Every transfer syntax that is required is known, with the properties its name implies."""

import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID

from lenticular.transfer_syntaxes import (
    ALL,
    BY_UID,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)

# UID below 1.2.840.10008 and name in the registry; every one is to be received and to be sent.
REQUIRED = """
1.2 Implicit VR Little Endian
1.2.1 Explicit VR Little Endian
1.2.2 Explicit VR Big Endian
1.2.4.50 JPEG Baseline (Process 1)
1.2.4.51 JPEG Extended (Process 2 and 4)
1.2.4.57 JPEG Lossless, Non-Hierarchical (Process 14)
1.2.4.70 JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])
1.2.5 RLE Lossless
1.2.1.99 Deflated Explicit VR Little Endian
1.2.4.80 JPEG-LS Lossless Image Compression
1.2.4.81 JPEG-LS Lossy (Near-Lossless) Image Compression
1.2.4.90 JPEG 2000 Image Compression (Lossless Only)
1.2.4.91 JPEG 2000 Image Compression
1.2.4.201 High-Throughput JPEG 2000 Image Compression (Lossless Only)
1.2.4.202 High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)
1.2.4.203 High-Throughput JPEG 2000 Image Compression
1.2.4.100 MPEG2 Main Profile / Main Level
1.2.4.101 MPEG2 Main Profile / High Level
1.2.4.102 MPEG-4 AVC/H.264 High Profile / Level 4.1
1.2.4.103 MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1
1.2.4.104 MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video
1.2.4.105 MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video
1.2.4.106 MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2
1.2.4.107 HEVC/H.265 Main Profile / Level 5.1
1.2.4.108 HEVC/H.265 Main 10 Profile / Level 5.1
"""

# JPEG XL and Deflated Image Frame Compression came into PS3.6 in 2024.
NEWER_THAN_PYDICOM = {
    "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.4.111",
    "1.2.840.10008.1.2.4.112",
    "1.2.840.10008.1.2.8.1",
}


@pytest.mark.parametrize(
    ("arc", "name"), [line.split(maxsplit=1) for line in REQUIRED.strip().splitlines()]
)
def test_a_required_syntax_is_known(arc: str, name: str) -> None:
    uid = f"1.2.840.10008.{arc}"
    assert (BY_UID[uid].uid, BY_UID[uid].name) == (uid, name)


def test_all_required_rows_are_checked() -> None:
    assert len(REQUIRED.strip().splitlines()) == 25


@pytest.mark.parametrize("syntax", ALL, ids=lambda each: each.uid)
def test_a_syntax_is_as_the_dictionary_has_it(syntax: TransferSyntax) -> None:
    uid = UID(syntax.uid)
    if syntax.uid not in UID_dictionary:  # newer than pydicom
        assert syntax.uid in NEWER_THAN_PYDICOM
        return

    name, _, _, retired, _ = UID_dictionary[syntax.uid]
    assert syntax.name == name
    assert syntax.retired is bool(retired)
    assert syntax.explicit is not uid.is_implicit_VR
    assert syntax.little_endian is uid.is_little_endian
    assert syntax.deflated is uid.is_deflated
    assert syntax.encapsulated is uid.is_encapsulated


def test_no_uid_is_listed_twice() -> None:
    assert len(BY_UID) == len(ALL)


def test_only_encapsulated_syntaxes_can_be_lossy() -> None:
    assert all(syntax.encapsulated for syntax in ALL if syntax.lossy)


@pytest.mark.parametrize(
    ("uid", "lossy"),
    [
        ("1.2.840.10008.1.2.4.50", True),
        ("1.2.840.10008.1.2.4.51", True),
        ("1.2.840.10008.1.2.4.57", False),
        ("1.2.840.10008.1.2.4.70", False),
        ("1.2.840.10008.1.2.4.80", False),
        ("1.2.840.10008.1.2.4.81", True),
        ("1.2.840.10008.1.2.4.90", False),
        ("1.2.840.10008.1.2.4.91", True),
        ("1.2.840.10008.1.2.4.102.1", True),
        ("1.2.840.10008.1.2.4.110", False),
        ("1.2.840.10008.1.2.4.201", False),
        ("1.2.840.10008.1.2.4.202", False),
        ("1.2.840.10008.1.2.4.203", True),
        ("1.2.840.10008.1.2.5", False),
        ("1.2.840.10008.1.2.8.1", False),
    ],
)
def test_a_syntax_says_whether_pixels_may_be_lost(uid: str, lossy: bool) -> None:
    assert BY_UID[uid].lossy is lossy


def test_the_four_encodings_of_a_data_set_differ_as_the_standard_says() -> None:
    assert (
        TransferSyntax("1.2.840.10008.1.2", "Implicit VR Little Endian", explicit=False)
        == IMPLICIT_VR_LITTLE_ENDIAN
    )
    assert EXPLICIT_VR_LITTLE_ENDIAN.uid == "1.2.840.10008.1.2.1"
    assert DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.deflated
    assert not EXPLICIT_VR_BIG_ENDIAN.little_endian
