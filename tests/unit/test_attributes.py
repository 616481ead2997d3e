"""The catalogue holds the keys that are required and agrees with the standard's dictionary."""

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from lenticular.attributes import (
    BY_KEYWORD,
    BY_QUERY_RETRIEVE_LEVEL,
    BY_TAG,
    CATALOGUE,
    COMPUTED,
    UNIQUE_KEY,
    Attribute,
    Level,
    computed_of_level,
    of_level,
)

# Tag, VR, level, keyword: of each key that every archive answers.
REQUIRED = """
(0010,0010) PN PATIENT  PatientName
(0010,0020) LO PATIENT  PatientID
(0010,0030) DA PATIENT  PatientBirthDate
(0010,0040) CS PATIENT  PatientSex
(0020,000D) UI STUDY    StudyInstanceUID
(0020,0010) SH STUDY    StudyID
(0008,0020) DA STUDY    StudyDate
(0008,0030) TM STUDY    StudyTime
(0008,0050) SH STUDY    AccessionNumber
(0008,0090) PN STUDY    ReferringPhysicianName
(0008,1030) LO STUDY    StudyDescription
(0020,000E) UI SERIES   SeriesInstanceUID
(0020,0011) IS SERIES   SeriesNumber
(0008,0060) CS SERIES   Modality
(0008,0070) LO SERIES   Manufacturer
(0008,0080) LO SERIES   InstitutionName
(0008,1090) LO SERIES   ManufacturerModelName
(0008,103E) LO SERIES   SeriesDescription
(0018,0015) CS SERIES   BodyPartExamined
(0018,1030) LO SERIES   ProtocolName
(0018,5100) CS SERIES   PatientPosition
(0018,0060) DS INSTANCE KVP
(0018,0050) DS INSTANCE SliceThickness
(0018,1120) DS INSTANCE GantryDetectorTilt
(0018,1150) IS INSTANCE ExposureTime
(0018,1151) IS INSTANCE XRayTubeCurrent
(0018,0023) CS INSTANCE MRAcquisitionType
(0018,0080) DS INSTANCE RepetitionTime
(0018,0081) DS INSTANCE EchoTime
(0018,0091) IS INSTANCE EchoTrainLength
(0008,0018) UI INSTANCE SOPInstanceUID
(0008,0016) UI INSTANCE SOPClassUID
(0008,0008) CS INSTANCE ImageType
(0020,0013) IS INSTANCE InstanceNumber
(0020,0032) DS INSTANCE ImagePositionPatient
(0020,0037) DS INSTANCE ImageOrientationPatient
(0020,0052) UI SERIES   FrameOfReferenceUID
(0020,1041) DS INSTANCE SliceLocation
(0028,0002) US INSTANCE SamplesPerPixel
(0028,0004) CS INSTANCE PhotometricInterpretation
(0028,0006) US INSTANCE PlanarConfiguration
(0028,0008) IS INSTANCE NumberOfFrames
(0028,0010) US INSTANCE Rows
(0028,0011) US INSTANCE Columns
(0028,0030) DS INSTANCE PixelSpacing
(0028,0100) US INSTANCE BitsAllocated
(0028,0101) US INSTANCE BitsStored
(0028,0102) US INSTANCE HighBit
(0028,0103) US INSTANCE PixelRepresentation
(0028,1050) DS INSTANCE WindowCenter
(0028,1051) DS INSTANCE WindowWidth
(0028,1052) DS INSTANCE RescaleIntercept
(0028,1053) DS INSTANCE RescaleSlope
"""


def _required() -> list[tuple[int, str, str, str]]:
    rows = []
    for line in REQUIRED.strip().splitlines():
        tag, vr, level, keyword = line.split()
        number = int(tag[1:5] + tag[6:10], 16)
        rows.append((number, vr, level, keyword))
    return rows


@pytest.mark.parametrize(("tag", "vr", "level", "keyword"), _required())
def test_a_required_attribute_is_catalogued_with_its_tag_and_level(
    tag: int, vr: str, level: str, keyword: str
) -> None:
    attribute = BY_KEYWORD[keyword]

    assert attribute is BY_TAG[tag]
    assert attribute.vr == vr
    assert attribute.level is Level[level]


def test_all_53_required_rows_are_checked() -> None:
    assert len(_required()) == 53


@pytest.mark.parametrize("attribute", [*CATALOGUE, *COMPUTED], ids=lambda each: each.keyword)
def test_tag_and_vr_are_the_dictionarys(attribute: Attribute) -> None:
    assert tag_for_keyword(attribute.keyword) == attribute.tag
    assert dictionary_VR(attribute.tag) == attribute.vr


def test_the_catalogue_is_in_tag_order_without_repetition() -> None:
    tags = [attribute.tag for attribute in CATALOGUE]

    assert tags == sorted(set(tags))


def test_the_levels_share_the_catalogue_out() -> None:
    shared_out = [attribute for level in Level for attribute in of_level(level)]

    assert sorted(shared_out, key=lambda each: each.tag) == list(CATALOGUE)


def test_nothing_is_both_catalogued_and_computed() -> None:
    assert not BY_TAG.keys() & {attribute.tag for attribute in COMPUTED}


@pytest.mark.parametrize("level", Level)
def test_each_level_has_a_unique_key_and_says_where_its_entities_are(level: Level) -> None:
    assert UNIQUE_KEY[level].level is level
    assert 0x00080054 in computed_of_level(level)
    assert 0x00080056 in computed_of_level(level)


def test_instances_are_called_image_in_a_query() -> None:
    assert BY_QUERY_RETRIEVE_LEVEL["IMAGE"] is Level.INSTANCE
    assert list(BY_QUERY_RETRIEVE_LEVEL) == ["PATIENT", "STUDY", "SERIES", "IMAGE"]
    assert Level.PATIENT < Level.STUDY < Level.SERIES < Level.INSTANCE
