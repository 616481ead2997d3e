"""Transfer syntaxes an instance may be stored in. PS3.5 annex A, PS3.6 annex A.

Left out: the JPIP ones, whose pixel data is a URL that outlives no server; SMPTE ST 2110, which
describes live streams; RFC 2557, XML and Papyrus, which never carried a DIMSE data set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """How a data set is written; `lossy` ones may hold pixels that are not the acquired ones."""

    uid: str
    name: str
    explicit: bool = True
    little_endian: bool = True
    deflated: bool = False
    encapsulated: bool = False
    lossy: bool = False
    retired: bool = False


ALL: Final[tuple[TransferSyntax, ...]] = (
    TransferSyntax("1.2.840.10008.1.2", "Implicit VR Little Endian", explicit=False),
    TransferSyntax("1.2.840.10008.1.2.1", "Explicit VR Little Endian"),
    TransferSyntax(
        "1.2.840.10008.1.2.1.98",
        "Encapsulated Uncompressed Explicit VR Little Endian",
        encapsulated=True,
    ),
    TransferSyntax("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian", deflated=True),
    TransferSyntax(
        "1.2.840.10008.1.2.2", "Explicit VR Big Endian", little_endian=False, retired=True
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.50", "JPEG Baseline (Process 1)", encapsulated=True, lossy=True
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.51", "JPEG Extended (Process 2 and 4)", encapsulated=True, lossy=True
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.52",
        "JPEG Extended (Process 3 and 5)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.53",
        "JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.54",
        "JPEG Spectral Selection, Non-Hierarchical (Process 7 and 9)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.55",
        "JPEG Full Progression, Non-Hierarchical (Process 10 and 12)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.56",
        "JPEG Full Progression, Non-Hierarchical (Process 11 and 13)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.57", "JPEG Lossless, Non-Hierarchical (Process 14)", encapsulated=True
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.58",
        "JPEG Lossless, Non-Hierarchical (Process 15)",
        encapsulated=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.59",
        "JPEG Extended, Hierarchical (Process 16 and 18)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.60",
        "JPEG Extended, Hierarchical (Process 17 and 19)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.61",
        "JPEG Spectral Selection, Hierarchical (Process 20 and 22)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.62",
        "JPEG Spectral Selection, Hierarchical (Process 21 and 23)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.63",
        "JPEG Full Progression, Hierarchical (Process 24 and 26)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.64",
        "JPEG Full Progression, Hierarchical (Process 25 and 27)",
        encapsulated=True,
        lossy=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.65",
        "JPEG Lossless, Hierarchical (Process 28)",
        encapsulated=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.66",
        "JPEG Lossless, Hierarchical (Process 29)",
        encapsulated=True,
        retired=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.70",
        "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])",
        encapsulated=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.80", "JPEG-LS Lossless Image Compression", encapsulated=True
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.81",
        "JPEG-LS Lossy (Near-Lossless) Image Compression",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.90", "JPEG 2000 Image Compression (Lossless Only)", encapsulated=True
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.91", "JPEG 2000 Image Compression", encapsulated=True, lossy=True
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.92",
        "JPEG 2000 Part 2 Multi-component Image Compression (Lossless Only)",
        encapsulated=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.93",
        "JPEG 2000 Part 2 Multi-component Image Compression",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level", encapsulated=True, lossy=True
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.100.1",
        "Fragmentable MPEG2 Main Profile / Main Level",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.101", "MPEG2 Main Profile / High Level", encapsulated=True, lossy=True
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.101.1",
        "Fragmentable MPEG2 Main Profile / High Level",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.102",
        "MPEG-4 AVC/H.264 High Profile / Level 4.1",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.102.1",
        "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.103",
        "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.103.1",
        "Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.104",
        "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.104.1",
        "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.105",
        "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.105.1",
        "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.106",
        "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.106.1",
        "Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.107",
        "HEVC/H.265 Main Profile / Level 5.1",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.108",
        "HEVC/H.265 Main 10 Profile / Level 5.1",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax("1.2.840.10008.1.2.4.110", "JPEG XL Lossless", encapsulated=True),
    TransferSyntax(
        "1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression", encapsulated=True, lossy=True
    ),
    TransferSyntax("1.2.840.10008.1.2.4.112", "JPEG XL", encapsulated=True, lossy=True),
    TransferSyntax(
        "1.2.840.10008.1.2.4.201",
        "High-Throughput JPEG 2000 Image Compression (Lossless Only)",
        encapsulated=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.202",
        "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)",
        encapsulated=True,
    ),
    TransferSyntax(
        "1.2.840.10008.1.2.4.203",
        "High-Throughput JPEG 2000 Image Compression",
        encapsulated=True,
        lossy=True,
    ),
    TransferSyntax("1.2.840.10008.1.2.5", "RLE Lossless", encapsulated=True),
    TransferSyntax("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression", encapsulated=True),
)

BY_UID: Final[Mapping[str, TransferSyntax]] = MappingProxyType({each.uid: each for each in ALL})

#: What no image codec reads.
VIDEO: Final = frozenset(each.uid for each in ALL if "MPEG" in each.name or "HEVC" in each.name)

IMPLICIT_VR_LITTLE_ENDIAN: Final = BY_UID["1.2.840.10008.1.2"]
EXPLICIT_VR_LITTLE_ENDIAN: Final = BY_UID["1.2.840.10008.1.2.1"]
ENCAPSULATED_UNCOMPRESSED: Final = BY_UID["1.2.840.10008.1.2.1.98"]
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = BY_UID["1.2.840.10008.1.2.1.99"]
EXPLICIT_VR_BIG_ENDIAN: Final = BY_UID["1.2.840.10008.1.2.2"]
JPEG_BASELINE: Final = BY_UID["1.2.840.10008.1.2.4.50"]
JPEG_EXTENDED: Final = BY_UID["1.2.840.10008.1.2.4.51"]
JPEG_SPECTRAL_SELECTION: Final = BY_UID["1.2.840.10008.1.2.4.53"]
JPEG_FULL_PROGRESSION: Final = BY_UID["1.2.840.10008.1.2.4.55"]
JPEG_LOSSLESS: Final = BY_UID["1.2.840.10008.1.2.4.57"]
JPEG_LOSSLESS_SV1: Final = BY_UID["1.2.840.10008.1.2.4.70"]
JPEG_LS_LOSSLESS: Final = BY_UID["1.2.840.10008.1.2.4.80"]
JPEG_LS_NEAR_LOSSLESS: Final = BY_UID["1.2.840.10008.1.2.4.81"]
JPEG_2000_LOSSLESS: Final = BY_UID["1.2.840.10008.1.2.4.90"]
JPEG_2000: Final = BY_UID["1.2.840.10008.1.2.4.91"]
HTJ2K_LOSSLESS: Final = BY_UID["1.2.840.10008.1.2.4.201"]
HTJ2K_LOSSLESS_RPCL: Final = BY_UID["1.2.840.10008.1.2.4.202"]
HTJ2K: Final = BY_UID["1.2.840.10008.1.2.4.203"]
RLE_LOSSLESS: Final = BY_UID["1.2.840.10008.1.2.5"]
DEFLATED_FRAMES: Final = BY_UID["1.2.840.10008.1.2.8.1"]
