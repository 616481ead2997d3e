"""Files put into a node's bucket and index as they would be had a sender brought them."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from lenticular.archive import Archive, FormKey, InstanceKey
from lenticular.forms import FormStore
from lenticular.index import Index
from lenticular.indexing import index_objects
from lenticular.part10 import data_set_offset, file_head
from lenticular.placement import place
from lenticular.transcoding import Transcoder
from lenticular.transcoding_policy import TranscodingPolicy
from tests.peers.gateway_process import Stores


def image(  # noqa: PLR0913 - what tests let differ
    study: str,
    series: str,
    instance: str,
    *,
    sop_class: str = CTImageStorage,
    syntax: str = ExplicitVRLittleEndian,
    pixels: bytes = b"",
    private: bool = True,
    rows: int = 16,
    **attributes: object,
) -> bytes:
    """Make the file of a small signed image, or of one whose encoded `pixels` are given."""
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 100"
    data_set.SOPClassUID = sop_class
    data_set.SOPInstanceUID = instance
    data_set.StudyInstanceUID = study
    data_set.SeriesInstanceUID = series
    data_set.Modality = "CT"
    data_set.PatientName = "Müller^Jürgen"
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "P5-08100", "SRT"
    data_set.ProcedureCodeSequence = [code]
    if private:
        block = data_set.private_block(0x0029, "LENTICULAR TEST", create=True)
        block.add_new(0x01, "LO", "private")
    data_set.SamplesPerPixel = 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    data_set.Rows = data_set.Columns = rows
    data_set.BitsAllocated = data_set.BitsStored = 16
    data_set.HighBit = 15
    data_set.PixelRepresentation = 1
    data_set.add_new(0x00280120, "SS", -2000)
    data_set.add_new(0x7FE00010, "OW", pixels or bytes(range(256)) * (rows * rows // 128))
    if pixels:
        data_set["PixelData"].VR = "OB"
        data_set["PixelData"].is_undefined_length = True
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def data_set_of(file: bytes) -> bytes:
    """Return what follows a file's meta information."""
    return file[data_set_offset(file) :]


def key_of(file: bytes) -> tuple[str, bytes]:
    """Return where the gateway keeps a file, and what it keeps: its own head and the data set."""
    data_set = data_set_of(file)
    meta = dcmread(BytesIO(file), specific_tags=[], stop_before_pixels=True).file_meta
    facts = {
        "sop_class_uid": str(meta.MediaStorageSOPClassUID),
        "sop_instance_uid": str(meta.MediaStorageSOPInstanceUID),
        "transfer_syntax_uid": str(meta.TransferSyntaxUID),
    }
    kept = file_head(*facts.values()) + data_set
    return place(memoryview(data_set), **facts).key(hashlib.sha256(kept).hexdigest()), kept


def archive(stores: Stores, *files: bytes | Path) -> list[str]:
    """Put files into the bucket and make the index hold them; return the keys."""
    s3: Any = stores.cloud.clients.s3
    keys = []
    for file in files:
        key, kept = key_of(file if isinstance(file, bytes) else file.read_bytes())
        s3.put_object(Bucket=stores.bucket, Key=key, Body=kept)
        keys.append(key)
    dynamodb: Any = stores.cloud.clients.dynamodb
    assert index_objects(Archive(s3, stores.bucket), Index(dynamodb, stores.table), keys) == []
    return keys


def transcode(
    stores: Stores, key: str, policy: str = "jpeg-lossless", *, retire: bool = False
) -> str:
    """Make a form of an original, retire that or not, and return the form's key."""
    s3: Any = stores.cloud.clients.s3
    dynamodb: Any = stores.cloud.clients.dynamodb
    outcome = Transcoder(
        Archive(s3, stores.bucket),
        FormStore(s3, stores.bucket),
        Index(dynamodb, stores.table),
        TranscodingPolicy.parse(policy),
        retire_originals=retire,
    ).transcode(key)
    original = InstanceKey.parse(key)
    assert outcome is not None
    assert original is not None
    assert outcome.transfer_syntax_uid is not None
    assert outcome.retired == retire
    return str(FormKey(original, outcome.transfer_syntax_uid))
