"""Images made for tests: every layout of pixels that the internal storage format has to keep.

Sizes are odd and values fill their range, so that padding, signs and bytes that change places show.
"""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from lenticular.archive import InstanceKey
from lenticular.elements import EncodableElement, encode_data_set, encode_element
from lenticular.part10 import file_head
from lenticular.transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN, TransferSyntax

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.2"
STUDY = "1.2.826.0.1.55"


@dataclass(frozen=True)
class Image:
    """What a native image file is made from; `pixels` are its cells in little endian."""

    name: str
    bits_allocated: int
    bits_stored: int
    pixels: bytes
    rows: int = 61
    columns: int = 83
    signed: bool = False
    photometric_interpretation: str = "MONOCHROME2"
    planar_configuration: int | None = None
    frames: int = 1
    modality: str = "OT"
    uid: str = f"{STUDY}.1.1"
    more: tuple[EncodableElement, ...] = field(default=())
    tail: bytes = b""

    @property
    def samples_per_pixel(self) -> int:
        return 1 if self.planar_configuration is None else 3

    def data_set(self, syntax: TransferSyntax = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
        """Encode it natively, in little endian or big."""
        order = "little" if syntax.little_endian else "big"

        def us(value: int) -> bytes:
            return value.to_bytes(2, "little" if order == "little" else "big")

        planar = self.planar_configuration
        elements: list[EncodableElement] = [
            (0x00080016, "UI", SECONDARY_CAPTURE.encode()),
            (0x00080018, "UI", self.uid.encode()),
            (0x00080060, "CS", self.modality.encode()),
            (0x00100010, "PN", b"Forms^Kept"),
            (0x00100020, "LO", b"P55"),
            (0x0020000D, "UI", STUDY.encode()),
            (0x0020000E, "UI", f"{STUDY}.1".encode()),
            (0x00280002, "US", us(self.samples_per_pixel)),
            (0x00280004, "CS", self.photometric_interpretation.encode()),
            *([] if planar is None else [(0x00280006, "US", us(planar))]),
            (0x00280008, "IS", str(self.frames).encode()),
            (0x00280010, "US", us(self.rows)),
            (0x00280011, "US", us(self.columns)),
            (0x00280100, "US", us(self.bits_allocated)),
            (0x00280101, "US", us(self.bits_stored)),
            (0x00280102, "US", us(self.bits_stored - 1)),
            (0x00280103, "US", us(int(self.signed))),
            *self.more,
        ]
        encoding = {"explicit": syntax.explicit, "little_endian": syntax.little_endian}
        vr = "OB" if self.bits_allocated == 8 and syntax.explicit else "OW"
        pixels = self.pixels + bytes(len(self.pixels) % 2)
        if vr == "OW" and not syntax.little_endian:
            pixels = np.frombuffer(pixels, "<u2").astype(">u2").tobytes()
        value = encode_element(0x7FE00010, vr, pixels, **encoding)
        return encode_data_set(elements, **encoding) + value + self.tail

    def file(self, syntax: TransferSyntax = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
        """Write its file as the gateway does."""
        return file_head(SECONDARY_CAPTURE, self.uid, syntax.uid) + self.data_set(syntax)

    def key(self, syntax: TransferSyntax = EXPLICIT_VR_LITTLE_ENDIAN) -> str:
        """Name its object."""
        digest = hashlib.sha256(self.file(syntax)).hexdigest()
        return str(InstanceKey(STUDY, f"{STUDY}.1", self.uid, digest))


def _cells(kind: str, low: int, high: int, *shape: int) -> bytes:
    """Return a gradient with noise from `low` to `high`, both of which occur."""
    generator = np.random.default_rng(5)
    gradient = np.linspace(low, high, int(np.prod(shape)))
    noisy = gradient + generator.normal(0, (high - low) / 50, gradient.shape)
    values = np.clip(np.rint(noisy), low, high).astype(np.int64)
    values[:4] = low, high, low, high
    return values.astype(kind).tobytes()


_SHAPE = (61, 83)
_COLOUR = (*_SHAPE, 3)

GREY = (
    Image("u8", 8, 8, _cells("<u1", 0, 255, *_SHAPE)),
    Image("s8", 8, 8, _cells("<i1", -128, 127, *_SHAPE), signed=True),
    Image("u10", 16, 10, _cells("<u2", 0, 1023, *_SHAPE)),
    Image("u12", 16, 12, _cells("<u2", 0, 4095, *_SHAPE)),
    Image("s12", 16, 12, _cells("<i2", -2048, 2047, *_SHAPE), signed=True),
    Image("u16", 16, 16, _cells("<u2", 0, 65535, *_SHAPE)),
    Image("s16", 16, 16, _cells("<i2", -32768, 32767, *_SHAPE), signed=True),
    Image(
        "palette", 8, 8, _cells("<u1", 0, 255, *_SHAPE),
        photometric_interpretation="PALETTE COLOR",
    ),
    Image(
        "mono1", 16, 12, _cells("<u2", 0, 4095, *_SHAPE),
        photometric_interpretation="MONOCHROME1",
    ),
    Image("frames", 16, 12, _cells("<u2", 0, 4095, 5, *_SHAPE), frames=5),
    Image("odd-frames", 8, 8, _cells("<u1", 0, 255, 3, *_SHAPE), frames=3),
    Image("row", 16, 16, _cells("<u2", 0, 65535, 1, 83), rows=1),
    Image("column", 8, 8, _cells("<u1", 0, 255, 61, 1), columns=1),
)  # fmt: skip
#: Cells with something in the bits that Bits Stored does not count.
HIGH_BITS = (
    Image("overlay-in-high-bits", 16, 12, _cells("<u2", 0, 65535, *_SHAPE)),
    Image(
        "sign-not-extended", 16, 12,
        (np.frombuffer(_cells("<i2", -2048, 2047, *_SHAPE), "<u2") & 0x0FFF).tobytes(),
        signed=True,
    ),
    Image("8-in-16", 16, 8, _cells("<u2", 0, 255, *_SHAPE)),
)  # fmt: skip
COLOUR = (
    Image(
        "rgb", 8, 8, _cells("<u1", 0, 255, *_COLOUR),
        photometric_interpretation="RGB", planar_configuration=0,
    ),
    Image(
        "rgb-planar", 8, 8, _cells("<u1", 0, 255, *_COLOUR),
        photometric_interpretation="RGB", planar_configuration=1,
    ),
    Image(
        "ybr-full", 8, 8, _cells("<u1", 0, 255, *_COLOUR),
        photometric_interpretation="YBR_FULL", planar_configuration=0,
    ),
    Image(
        "rgb16", 16, 16, _cells("<u2", 0, 65535, *_COLOUR),
        photometric_interpretation="RGB", planar_configuration=0,
    ),
    Image(
        "rgb-planar-frames", 8, 8, _cells("<u1", 0, 255, 3, *_COLOUR), frames=3,
        photometric_interpretation="RGB", planar_configuration=1,
    ),
)  # fmt: skip
ALL = (*GREY, *HIGH_BITS, *COLOUR)


def smooth(name: str, rows: int, columns: int, frames: int = 1, *, uid: str = "") -> Image:
    """Return a 12-bit image as compressible as a CT is."""
    y, x = np.mgrid[0:rows, 0:columns]
    generator = np.random.default_rng(rows + columns)
    wave = 2000 + 1200 * np.sin(x / 40) * np.cos(y / 55)
    cells = b"".join(
        (wave + generator.normal(0, 8, wave.shape)).clip(0, 4095).astype("<u2").tobytes()
        for _ in range(frames)
    )
    image = Image(name, 16, 12, cells, rows=rows, columns=columns, frames=frames, modality="CT")
    return replace(image, uid=uid) if uid else image
