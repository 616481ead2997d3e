"""The CT slices that the benchmark stores: synthetic, so that anyone has the same ones."""

from array import array
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from .sender import CT_IMAGE_STORAGE, PLACEHOLDER

_ROWS: Final = 512
_COLUMNS: Final = 512
_RADIUS: Final = 220


def encoded_slice() -> bytes:
    """Return the data set of a slice of some 525 KB in Explicit VR Little Endian.

    Its study, series and SOP Instance UID are the sender's placeholders.
    """
    encoded = DicomBytesIO()
    encoded.is_little_endian = True
    encoded.is_implicit_VR = False
    write_dataset(encoded, _slice())
    return encoded.getvalue()


def _slice() -> Dataset:
    data_set = Dataset()
    for keyword, value in {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CT_IMAGE_STORAGE,
        "SOPInstanceUID": PLACEHOLDER.instance,
        "StudyDate": "20260105",
        "SeriesDate": "20260105",
        "AcquisitionDate": "20260105",
        "ContentDate": "20260105",
        "StudyTime": "101500",
        "SeriesTime": "101620",
        "AcquisitionTime": "101622.5",
        "ContentTime": "101623",
        "AccessionNumber": "BENCH1",
        "Modality": "CT",
        "Manufacturer": "Lenticular",
        "InstitutionName": "Nowhere",
        "ReferringPhysicianName": "Nobody^Anna",
        "StationName": "BENCH",
        "StudyDescription": "Thorax",
        "SeriesDescription": "Thorax 1.0 B30f",
        "ManufacturerModelName": "Phantom",
        "PatientName": "Phantom^Water",
        "PatientID": "BENCH",
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "PatientAge": "056Y",
        "PatientWeight": "70",
        "BodyPartExamined": "CHEST",
        "SliceThickness": "1.0",
        "KVP": "120",
        "DataCollectionDiameter": "500",
        "SoftwareVersions": "1",
        "ProtocolName": "Thorax",
        "ReconstructionDiameter": "360",
        "GantryDetectorTilt": "0",
        "TableHeight": "150",
        "RotationDirection": "CW",
        "ExposureTime": "500",
        "XRayTubeCurrent": "200",
        "Exposure": "100",
        "FilterType": "0",
        "GeneratorPower": "24",
        "FocalSpots": ["1.2"],
        "ConvolutionKernel": "B30f",
        "PatientPosition": "HFS",
        "StudyInstanceUID": PLACEHOLDER.study,
        "SeriesInstanceUID": PLACEHOLDER.series,
        "StudyID": "1",
        "SeriesNumber": "2",
        "AcquisitionNumber": "1",
        "InstanceNumber": "1",
        "ImagePositionPatient": ["-180", "-180", "-500"],
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        "FrameOfReferenceUID": f"{PLACEHOLDER.root}.4",
        "PositionReferenceIndicator": "",
        "SliceLocation": "-500",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": _ROWS,
        "Columns": _COLUMNS,
        "PixelSpacing": ["0.703125", "0.703125"],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": "1064",
        "WindowWidth": "400",
        "RescaleIntercept": "-1024",
        "RescaleSlope": "1",
    }.items():
        setattr(data_set, keyword, value)
    data_set.ProcedureCodeSequence = [_code("P5-08100", "SRT", "CT of thorax")]
    data_set.add_new("PixelData", "OW", _disc())
    return data_set


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = scheme
    code.CodeMeaning = meaning
    return code


def _disc() -> bytes:
    """Draw a disc of water in air with a little texture; little endian whatever the machine is."""
    pixels = array("H", bytes(2 * _ROWS * _COLUMNS))
    for row in range(_ROWS):
        for column in range(_COLUMNS):
            x, y = column - _COLUMNS // 2, row - _ROWS // 2
            if x * x + y * y < _RADIUS * _RADIUS:
                pixels[row * _COLUMNS + column] = 1024 + (row * 31 + column * 17) % 61
    if array("H", [1]).tobytes() != b"\1\0":
        pixels.byteswap()
    return pixels.tobytes()
