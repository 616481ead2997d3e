"""Small CT files for tests, made by pydicom."""

from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian


def ct_file(
    folder: Path, study: str, series: str, instance: str, *, rows: int = 16, **attributes: str
) -> Path:
    """Write a CT image of these UIDs and attributes, in Latin-1, and return its path."""
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 100"
    data_set.SOPClassUID = CTImageStorage
    data_set.SOPInstanceUID = instance
    data_set.StudyInstanceUID = study
    data_set.SeriesInstanceUID = series
    data_set.Modality = "CT"
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    data_set.SamplesPerPixel = 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    data_set.Rows = data_set.Columns = rows
    data_set.BitsAllocated = data_set.BitsStored = 16
    data_set.HighBit = 15
    data_set.PixelRepresentation = 0
    data_set.PixelData = bytes(2 * rows * rows)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{instance}.dcm"
    data_set.save_as(path, enforce_file_format=True)
    return path
