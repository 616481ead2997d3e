"""Instances to send, made here, and what the bucket must hold of each."""

import hashlib
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from lenticular.part10 import file_head

#: Must never be found in a log.
PATIENT_NAME: Final = "Geheimrat^Eusebius"
PATIENT_ID: Final = "PID-SECRET-4711"

_COLUMNS: Final = 512
_ROWS: Final = 512
_CHUNK_BYTES: Final = 1 << 20
#: PS3.5 7.1.2: tag, VR, two reserved bytes, length.
_PIXEL_DATA: Final = struct.Struct("<HH2s2xL")


@dataclass(frozen=True)
class Instance:
    """A file to send, in Explicit VR Little Endian so that no client has to change a byte."""

    path: Path
    data_set_offset: int
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str

    @cached_property
    def kept_sha256(self) -> str:
        """The SHA-256 of the file that must be kept: our head, and the data set as it was sent."""
        digest = hashlib.sha256(
            file_head(CTImageStorage, self.sop_instance_uid, ExplicitVRLittleEndian)
        )
        with self.path.open("rb") as file:
            file.seek(self.data_set_offset)
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    @property
    def key(self) -> str:
        """The object that must keep it."""
        return (
            f"instances/{self.study_instance_uid}/{self.series_instance_uid}/"
            f"{self.sop_instance_uid}/{self.kept_sha256}.dcm"
        )


def study(folder: Path, count: int, *, size: int = 32 << 10) -> list[Instance]:
    """Write the instances of a new study, each with some `size` bytes of pixels."""
    folder.mkdir(exist_ok=True)
    study_uid, series_uid = generate_uid(None), generate_uid(None)
    return [_written(folder, study_uid, series_uid, generate_uid(None), size) for _ in range(count)]


def altered(instance: Instance, folder: Path) -> Instance:
    """Write an instance with the UIDs of another and other pixels."""
    folder.mkdir(exist_ok=True)
    return _written(
        folder,
        instance.study_instance_uid,
        instance.series_instance_uid,
        instance.sop_instance_uid,
        instance.path.stat().st_size,
    )


def _written(folder: Path, study_uid: str, series_uid: str, uid: str, size: int) -> Instance:
    rows = max(1, min(_ROWS, size // 2 // _COLUMNS))
    frame_bytes = rows * _COLUMNS * 2
    frames = max(1, size // frame_bytes)
    data_set = Dataset()
    for keyword, value in {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": uid,
        "StudyDate": "20260105",
        "Modality": "CT",
        "PatientName": PATIENT_NAME,
        "PatientID": PATIENT_ID,
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": series_uid,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "NumberOfFrames": frames,
        "Rows": rows,
        "Columns": _COLUMNS,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }.items():
        setattr(data_set, keyword, value)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{uid}.dcm"
    data_set.save_as(path, enforce_file_format=True)
    # Preamble, prefix and (0002,0000), which says how long the rest of the meta information is.
    offset = 128 + 4 + 12 + int(read_file_meta_info(path)[0x00020000].value)
    with path.open("ab") as file:
        file.write(_PIXEL_DATA.pack(0x7FE0, 0x0010, b"OW", frames * frame_bytes))
        file.writelines(_noise(frames * frame_bytes))
    return Instance(path, offset, study_uid, series_uid, uid)


def _noise(length: int) -> Iterator[bytes]:
    chunk = random.randbytes(min(length, _CHUNK_BYTES))  # noqa: S311 - pixels, not secrets
    for _ in range(length // len(chunk)):
        yield chunk
    yield chunk[: length % len(chunk)]
