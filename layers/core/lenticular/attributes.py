"""Attributes a query may match and return: tag, VR and level of each. PS3.4 C.6.1.1, C.6.2.1.

What is in `CATALOGUE` is read from every stored instance, kept in the index as DICOM JSON and
answered from there. What is in `COMPUTED` is never read from an instance: the query works it out
from the index. Beyond the keys that every archive answers the catalogue holds the optional ones of
tables C.6-1, C.6-2 and C.6-5, and those that viewers and reading lists ask for at series and
instance level.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class Level(IntEnum):
    """A level of the query/retrieve hierarchy, the outermost lowest. PS3.4 C.6.1."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    INSTANCE = 3

    @property
    def query_retrieve_level(self) -> str:
        """Name the level as Query/Retrieve Level (0008,0052) does: instances are "IMAGE"."""
        return "IMAGE" if self is Level.INSTANCE else self.name


#: Values of Query/Retrieve Level (0008,0052), PS3.4 C.6.1.1.
BY_QUERY_RETRIEVE_LEVEL: Final[Mapping[str, Level]] = MappingProxyType(
    {level.query_retrieve_level: level for level in Level}
)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute and the level that it belongs to."""

    keyword: str
    tag: int
    vr: str
    level: Level


#: In tag order. Specific Character Set (0008,0005) is missing on purpose: it describes the encoding
#: of one data set, so it is consumed when an instance is read and chosen anew for each answer.
#: Timezone Offset From UTC belongs to the instance (PS3.3 C.12.1) but qualifies the study's dates
#: and times as well, so it is kept where every level can see it.
CATALOGUE: Final[tuple[Attribute, ...]] = (
    Attribute("ImageType", 0x00080008, "CS", Level.INSTANCE),
    Attribute("SOPClassUID", 0x00080016, "UI", Level.INSTANCE),
    Attribute("SOPInstanceUID", 0x00080018, "UI", Level.INSTANCE),
    Attribute("StudyDate", 0x00080020, "DA", Level.STUDY),
    Attribute("SeriesDate", 0x00080021, "DA", Level.SERIES),
    Attribute("AcquisitionDate", 0x00080022, "DA", Level.INSTANCE),
    Attribute("ContentDate", 0x00080023, "DA", Level.INSTANCE),
    Attribute("AcquisitionDateTime", 0x0008002A, "DT", Level.INSTANCE),
    Attribute("StudyTime", 0x00080030, "TM", Level.STUDY),
    Attribute("SeriesTime", 0x00080031, "TM", Level.SERIES),
    Attribute("AcquisitionTime", 0x00080032, "TM", Level.INSTANCE),
    Attribute("ContentTime", 0x00080033, "TM", Level.INSTANCE),
    Attribute("AccessionNumber", 0x00080050, "SH", Level.STUDY),
    Attribute("Modality", 0x00080060, "CS", Level.SERIES),
    Attribute("Manufacturer", 0x00080070, "LO", Level.SERIES),
    Attribute("InstitutionName", 0x00080080, "LO", Level.SERIES),
    Attribute("ReferringPhysicianName", 0x00080090, "PN", Level.STUDY),
    Attribute("TimezoneOffsetFromUTC", 0x00080201, "SH", Level.STUDY),
    Attribute("StationName", 0x00081010, "SH", Level.SERIES),
    Attribute("StudyDescription", 0x00081030, "LO", Level.STUDY),
    Attribute("ProcedureCodeSequence", 0x00081032, "SQ", Level.STUDY),
    Attribute("SeriesDescription", 0x0008103E, "LO", Level.SERIES),
    Attribute("InstitutionalDepartmentName", 0x00081040, "LO", Level.SERIES),
    Attribute("PerformingPhysicianName", 0x00081050, "PN", Level.SERIES),
    Attribute("NameOfPhysiciansReadingStudy", 0x00081060, "PN", Level.STUDY),
    Attribute("OperatorsName", 0x00081070, "PN", Level.SERIES),
    Attribute("AdmittingDiagnosesDescription", 0x00081080, "LO", Level.STUDY),
    Attribute("ManufacturerModelName", 0x00081090, "LO", Level.SERIES),
    Attribute("PatientName", 0x00100010, "PN", Level.PATIENT),
    Attribute("PatientID", 0x00100020, "LO", Level.PATIENT),
    Attribute("IssuerOfPatientID", 0x00100021, "LO", Level.PATIENT),
    Attribute("PatientBirthDate", 0x00100030, "DA", Level.PATIENT),
    Attribute("PatientBirthTime", 0x00100032, "TM", Level.PATIENT),
    Attribute("PatientSex", 0x00100040, "CS", Level.PATIENT),
    Attribute("OtherPatientIDs", 0x00101000, "LO", Level.PATIENT),
    Attribute("OtherPatientNames", 0x00101001, "PN", Level.PATIENT),
    Attribute("OtherPatientIDsSequence", 0x00101002, "SQ", Level.PATIENT),
    Attribute("PatientAge", 0x00101010, "AS", Level.STUDY),
    Attribute("PatientSize", 0x00101020, "DS", Level.STUDY),
    Attribute("PatientWeight", 0x00101030, "DS", Level.STUDY),
    Attribute("EthnicGroup", 0x00102160, "SH", Level.PATIENT),
    Attribute("Occupation", 0x00102180, "SH", Level.STUDY),
    Attribute("AdditionalPatientHistory", 0x001021B0, "LT", Level.STUDY),
    Attribute("PatientComments", 0x00104000, "LT", Level.PATIENT),
    Attribute("BodyPartExamined", 0x00180015, "CS", Level.SERIES),
    Attribute("MRAcquisitionType", 0x00180023, "CS", Level.INSTANCE),
    Attribute("SliceThickness", 0x00180050, "DS", Level.INSTANCE),
    Attribute("KVP", 0x00180060, "DS", Level.INSTANCE),
    Attribute("RepetitionTime", 0x00180080, "DS", Level.INSTANCE),
    Attribute("EchoTime", 0x00180081, "DS", Level.INSTANCE),
    Attribute("EchoTrainLength", 0x00180091, "IS", Level.INSTANCE),
    Attribute("ProtocolName", 0x00181030, "LO", Level.SERIES),
    Attribute("GantryDetectorTilt", 0x00181120, "DS", Level.INSTANCE),
    Attribute("ExposureTime", 0x00181150, "IS", Level.INSTANCE),
    Attribute("XRayTubeCurrent", 0x00181151, "IS", Level.INSTANCE),
    Attribute("PatientPosition", 0x00185100, "CS", Level.SERIES),
    Attribute("StudyInstanceUID", 0x0020000D, "UI", Level.STUDY),
    Attribute("SeriesInstanceUID", 0x0020000E, "UI", Level.SERIES),
    Attribute("StudyID", 0x00200010, "SH", Level.STUDY),
    Attribute("SeriesNumber", 0x00200011, "IS", Level.SERIES),
    Attribute("AcquisitionNumber", 0x00200012, "IS", Level.INSTANCE),
    Attribute("InstanceNumber", 0x00200013, "IS", Level.INSTANCE),
    Attribute("ImagePositionPatient", 0x00200032, "DS", Level.INSTANCE),
    Attribute("ImageOrientationPatient", 0x00200037, "DS", Level.INSTANCE),
    Attribute("FrameOfReferenceUID", 0x00200052, "UI", Level.SERIES),
    Attribute("Laterality", 0x00200060, "CS", Level.SERIES),
    Attribute("SliceLocation", 0x00201041, "DS", Level.INSTANCE),
    Attribute("SamplesPerPixel", 0x00280002, "US", Level.INSTANCE),
    Attribute("PhotometricInterpretation", 0x00280004, "CS", Level.INSTANCE),
    Attribute("PlanarConfiguration", 0x00280006, "US", Level.INSTANCE),
    Attribute("NumberOfFrames", 0x00280008, "IS", Level.INSTANCE),
    Attribute("Rows", 0x00280010, "US", Level.INSTANCE),
    Attribute("Columns", 0x00280011, "US", Level.INSTANCE),
    Attribute("PixelSpacing", 0x00280030, "DS", Level.INSTANCE),
    Attribute("BitsAllocated", 0x00280100, "US", Level.INSTANCE),
    Attribute("BitsStored", 0x00280101, "US", Level.INSTANCE),
    Attribute("HighBit", 0x00280102, "US", Level.INSTANCE),
    Attribute("PixelRepresentation", 0x00280103, "US", Level.INSTANCE),
    Attribute("WindowCenter", 0x00281050, "DS", Level.INSTANCE),
    Attribute("WindowWidth", 0x00281051, "DS", Level.INSTANCE),
    Attribute("RescaleIntercept", 0x00281052, "DS", Level.INSTANCE),
    Attribute("RescaleSlope", 0x00281053, "DS", Level.INSTANCE),
    Attribute("LossyImageCompression", 0x00282110, "CS", Level.INSTANCE),
    Attribute("PerformedProcedureStepStartDate", 0x00400244, "DA", Level.SERIES),
    Attribute("PerformedProcedureStepStartTime", 0x00400245, "TM", Level.SERIES),
    Attribute("PerformedProcedureStepID", 0x00400253, "SH", Level.SERIES),
    Attribute("RequestAttributesSequence", 0x00400275, "SQ", Level.SERIES),
    Attribute("ConceptNameCodeSequence", 0x0040A043, "SQ", Level.INSTANCE),
    Attribute("CompletionFlag", 0x0040A491, "CS", Level.INSTANCE),
    Attribute("VerificationFlag", 0x0040A493, "CS", Level.INSTANCE),
    Attribute("ContentLabel", 0x00700080, "CS", Level.INSTANCE),
    Attribute("ContentDescription", 0x00700081, "LO", Level.INSTANCE),
)

BY_TAG: Final[Mapping[int, Attribute]] = MappingProxyType(
    {attribute.tag: attribute for attribute in CATALOGUE}
)
BY_KEYWORD: Final[Mapping[str, Attribute]] = MappingProxyType(
    {attribute.keyword: attribute for attribute in CATALOGUE}
)

_OF_LEVEL: Final[Mapping[Level, tuple[Attribute, ...]]] = MappingProxyType(
    {level: tuple(each for each in CATALOGUE if each.level is level) for level in Level}
)


def of_level(level: Level) -> tuple[Attribute, ...]:
    """Return the catalogued attributes of one level, in tag order."""
    return _OF_LEVEL[level]


#: The key that names one entity of each level, PS3.4 C.6.1.1.2 to C.6.1.1.5.
UNIQUE_KEY: Final[Mapping[Level, Attribute]] = MappingProxyType(
    {
        Level.PATIENT: BY_KEYWORD["PatientID"],
        Level.STUDY: BY_KEYWORD["StudyInstanceUID"],
        Level.SERIES: BY_KEYWORD["SeriesInstanceUID"],
        Level.INSTANCE: BY_KEYWORD["SOPInstanceUID"],
    }
)

#: Worked out by the query, by level. Retrieve AE Title and Instance Availability describe whichever
#: entity is answered (PS3.4 C.4.1.1.3.2), so they are listed once a level.
COMPUTED: Final[tuple[Attribute, ...]] = (
    *(Attribute("RetrieveAETitle", 0x00080054, "AE", level) for level in Level),
    *(Attribute("InstanceAvailability", 0x00080056, "CS", level) for level in Level),
    Attribute("ModalitiesInStudy", 0x00080061, "CS", Level.STUDY),
    Attribute("SOPClassesInStudy", 0x00080062, "UI", Level.STUDY),
    Attribute("NumberOfPatientRelatedStudies", 0x00201200, "IS", Level.PATIENT),
    Attribute("NumberOfPatientRelatedSeries", 0x00201202, "IS", Level.PATIENT),
    Attribute("NumberOfPatientRelatedInstances", 0x00201204, "IS", Level.PATIENT),
    Attribute("NumberOfStudyRelatedSeries", 0x00201206, "IS", Level.STUDY),
    Attribute("NumberOfStudyRelatedInstances", 0x00201208, "IS", Level.STUDY),
    Attribute("NumberOfSeriesRelatedInstances", 0x00201209, "IS", Level.SERIES),
)

_COMPUTED_OF_LEVEL: Final[Mapping[Level, Mapping[int, Attribute]]] = MappingProxyType(
    {
        level: MappingProxyType({each.tag: each for each in COMPUTED if each.level is level})
        for level in Level
    }
)


def computed_of_level(level: Level) -> Mapping[int, Attribute]:
    """Return the computed attributes of one level, by tag."""
    return _COMPUTED_OF_LEVEL[level]


#: The outermost level at which an attribute can be a key, catalogued or computed, by tag.
LEVEL_OF: Final[Mapping[int, Level]] = MappingProxyType(
    {each.tag: each.level for each in (*reversed(COMPUTED), *CATALOGUE)}
)
