"""Every SOP class that is required can be stored, and every one of the current standard."""

import pytest
from pydicom._uid_dict import UID_dictionary
from pynetdicom import sop_class as pynetdicom_sop_class

from lenticular import sop_classes
from lenticular.identifiers import is_uid
from lenticular.sop_classes import STORAGE, SOPClass

# UID, what is special about it, name in the registry.
REQUIRED = """
1.2.840.10008.5.1.4.1.1.1 - Computed Radiography Image Storage
1.2.840.10008.5.1.4.1.1.2 - CT Image Storage
1.2.840.10008.5.1.4.1.1.4 - MR Image Storage
1.2.840.10008.5.1.4.1.1.4.1 - Enhanced MR Image Storage
1.2.840.10008.5.1.4.1.1.4.2 - MR Spectroscopy Storage
1.2.840.10008.5.1.4.1.1.4.3 - Enhanced MR Color Image Storage
1.2.840.10008.5.1.4.1.1.6.1 - Ultrasound Image Storage
1.2.840.10008.5.1.4.1.1.6 retired Ultrasound Image Storage
1.2.840.10008.5.1.4.1.1.3.1 - Ultrasound Multi-frame Image Storage
1.2.840.10008.5.1.4.1.1.3 retired Ultrasound Multi-frame Image Storage
1.2.840.10008.5.1.4.1.1.6.2 - Enhanced US Volume Storage
1.2.840.10008.5.1.4.1.1.7 - Secondary Capture Image Storage
1.2.840.10008.5.1.4.1.1.7.1 - Multi-frame Single Bit Secondary Capture Image Storage
1.2.840.10008.5.1.4.1.1.7.2 - Multi-frame Grayscale Byte Secondary Capture Image Storage
1.2.840.10008.5.1.4.1.1.7.3 - Multi-frame Grayscale Word Secondary Capture Image Storage
1.2.840.10008.5.1.4.1.1.7.4 - Multi-frame True Color Secondary Capture Image Storage
1.2.840.10008.5.1.4.1.1.9.1.1 - 12-lead ECG Waveform Storage
1.2.840.10008.5.1.4.1.1.9.1.2 - General ECG Waveform Storage
1.2.840.10008.5.1.4.1.1.9.1.3 - Ambulatory ECG Waveform Storage
1.2.840.10008.5.1.4.1.1.9.2.1 - Hemodynamic Waveform Storage
1.2.840.10008.5.1.4.1.1.9.3.1 - Cardiac Electrophysiology Waveform Storage
1.2.840.10008.5.1.4.1.1.9.4.1 - Basic Voice Audio Waveform Storage
1.2.840.10008.5.1.4.1.1.9.4.2 - General Audio Waveform Storage
1.2.840.10008.5.1.4.1.1.9.5.1 - Arterial Pulse Waveform Storage
1.2.840.10008.5.1.4.1.1.9.6.1 - Respiratory Waveform Storage
1.2.840.10008.5.1.4.1.1.11.1 - Grayscale Softcopy Presentation State Storage
1.2.840.10008.5.1.4.1.1.11.2 - Color Softcopy Presentation State Storage
1.2.840.10008.5.1.4.1.1.11.3 - Pseudo-Color Softcopy Presentation State Storage
1.2.840.10008.5.1.4.1.1.11.4 - Blending Softcopy Presentation State Storage
1.2.840.10008.5.1.4.1.1.11.5 - XA/XRF Grayscale Softcopy Presentation State Storage
1.2.840.10008.5.1.4.1.1.12.1 - X-Ray Angiographic Image Storage
1.2.840.10008.5.1.4.1.1.12.1.1 - Enhanced XA Image Storage
1.2.840.10008.5.1.4.1.1.12.2 - X-Ray Radiofluoroscopic Image Storage
1.2.840.10008.5.1.4.1.1.12.2.1 - Enhanced XRF Image Storage
1.2.840.10008.5.1.4.1.1.13.1.1 - X-Ray 3D Angiographic Image Storage
1.2.840.10008.5.1.4.1.1.13.1.2 - X-Ray 3D Craniofacial Image Storage
1.2.840.10008.5.1.4.1.1.13.1.3 - Breast Tomosynthesis Image Storage
1.2.840.10008.5.1.4.1.1.1.1 - Digital X-Ray Image Storage - For Presentation
1.2.840.10008.5.1.4.1.1.1.1.1 - Digital X-Ray Image Storage - For Processing
1.2.840.10008.5.1.4.1.1.1.2 - Digital Mammography X-Ray Image Storage - For Presentation
1.2.840.10008.5.1.4.1.1.1.2.1 - Digital Mammography X-Ray Image Storage - For Processing
1.2.840.10008.5.1.4.1.1.1.3 - Digital Intra-Oral X-Ray Image Storage - For Presentation
1.2.840.10008.5.1.4.1.1.1.3.1 - Digital Intra-Oral X-Ray Image Storage - For Processing
1.2.840.10008.5.1.4.1.1.481.1 - RT Image Storage
1.2.840.10008.5.1.4.1.1.481.2 - RT Dose Storage
1.2.840.10008.5.1.4.1.1.481.3 - RT Structure Set Storage
1.2.840.10008.5.1.4.1.1.481.4 - RT Beams Treatment Record Storage
1.2.840.10008.5.1.4.1.1.481.5 - RT Plan Storage
1.2.840.10008.5.1.4.1.1.481.6 - RT Brachy Treatment Record Storage
1.2.840.10008.5.1.4.1.1.481.7 - RT Treatment Summary Record Storage
1.2.840.10008.5.1.4.1.1.481.8 - RT Ion Plan Storage
1.2.840.10008.5.1.4.1.1.481.9 - RT Ion Beams Treatment Record Storage
1.2.840.10008.5.1.4.1.1.128 - Positron Emission Tomography Image Storage
1.2.840.10008.5.1.4.1.1.130 - Enhanced PET Image Storage
1.2.840.10008.5.1.4.1.1.77.1.1 - VL Endoscopic Image Storage
1.2.840.10008.5.1.4.1.1.77.1.1.1 - Video Endoscopic Image Storage
1.2.840.10008.5.1.4.1.1.77.1.2 - VL Microscopic Image Storage
1.2.840.10008.5.1.4.1.1.77.1.2.1 - Video Microscopic Image Storage
1.2.840.10008.5.1.4.1.1.77.1.3 - VL Slide-Coordinates Microscopic Image Storage
1.2.840.10008.5.1.4.1.1.77.1.4 - VL Photographic Image Storage
1.2.840.10008.5.1.4.1.1.77.1.4.1 - Video Photographic Image Storage
1.2.840.10008.5.1.4.1.1.77.1.5.1 - Ophthalmic Photography 8 Bit Image Storage
1.2.840.10008.5.1.4.1.1.77.1.5.2 - Ophthalmic Photography 16 Bit Image Storage
1.2.840.10008.5.1.4.1.1.77.1.5.3 - Stereometric Relationship Storage
1.2.840.10008.5.1.4.1.1.77.1.5.4 - Ophthalmic Tomography Image Storage
1.2.840.10008.5.1.4.1.1.77.1.6 - VL Whole Slide Microscopy Image Storage
1.2.840.10008.5.1.4.1.1.77.2 retired VL Multi-frame Image Storage - Trial
1.2.840.10008.5.1.4.1.1.78.1 - Lensometry Measurements Storage
1.2.840.10008.5.1.4.1.1.78.2 - Autorefraction Measurements Storage
1.2.840.10008.5.1.4.1.1.78.3 - Keratometry Measurements Storage
1.2.840.10008.5.1.4.1.1.78.4 - Subjective Refraction Measurements Storage
1.2.840.10008.5.1.4.1.1.78.5 - Visual Acuity Measurements Storage
1.2.840.10008.5.1.4.1.1.78.6 - Spectacle Prescription Report Storage
1.2.840.10008.5.1.4.1.1.78.7 - Ophthalmic Axial Measurements Storage
1.2.840.10008.5.1.4.1.1.78.8 - Intraocular Lens Calculations Storage
1.2.840.10008.5.1.4.1.1.79.1 - Macular Grid Thickness and Volume Report Storage
1.2.840.10008.5.1.4.1.1.80.1 - Ophthalmic Visual Field Static Perimetry Measurements Storage
1.2.840.10008.5.1.4.1.1.88.11 - Basic Text SR Storage
1.2.840.10008.5.1.4.1.1.88.22 - Enhanced SR Storage
1.2.840.10008.5.1.4.1.1.88.33 - Comprehensive SR Storage
1.2.840.10008.5.1.4.1.1.88.40 - Procedure Log Storage
1.2.840.10008.5.1.4.1.1.88.50 - Mammography CAD SR Storage
1.2.840.10008.5.1.4.1.1.88.59 - Key Object Selection Document Storage
1.2.840.10008.5.1.4.1.1.88.65 - Chest CAD SR Storage
1.2.840.10008.5.1.4.1.1.88.67 - X-Ray Radiation Dose SR Storage
1.2.840.10008.5.1.4.1.1.88.69 - Colon CAD SR Storage
1.2.840.10008.5.1.4.1.1.88.70 - Implantation Plan SR Storage
1.2.840.10008.5.1.4.1.1.104.1 - Encapsulated PDF Storage
1.2.840.10008.5.1.4.1.1.104.2 - Encapsulated CDA Storage
1.2.840.10008.5.1.4.1.1.66 - Raw Data Storage
1.2.840.10008.5.1.4.1.1.66.1 - Spatial Registration Storage
1.2.840.10008.5.1.4.1.1.66.2 - Spatial Fiducials Storage
1.2.840.10008.5.1.4.1.1.66.3 - Deformable Spatial Registration Storage
1.2.840.10008.5.1.4.1.1.66.4 - Segmentation Storage
1.2.840.10008.5.1.4.1.1.66.5 - Surface Segmentation Storage
1.3.12.2.1107.5.9.1 private Siemens CSA Non-Image Storage
1.2.840.10008.5.1.4.1.1.20 - Nuclear Medicine Image Storage
1.2.840.10008.5.1.4.1.1.5 retired Nuclear Medicine Image Storage
1.2.840.10008.5.1.4.1.1.12.3 retired X-Ray Angiographic Bi-Plane Image Storage
1.2.840.10008.5.1.4.1.1.8 retired Standalone Overlay Storage
1.2.840.10008.5.1.4.1.1.9 retired Standalone Curve Storage
1.2.840.10008.5.1.4.1.1.10 retired Standalone Modality LUT Storage
1.2.840.10008.5.1.4.1.1.11 retired Standalone VOI LUT Storage
1.2.840.10008.5.1.4.1.1.129 retired Standalone PET Curve Storage
"""

SERVICES = {
    "VERIFICATION": "Verification",
    "STORAGE_COMMITMENT_PUSH": "StorageCommitmentPushModel",
    "STORAGE_COMMITMENT_PUSH_INSTANCE": "StorageCommitmentPushModelInstance",
    "MODALITY_PERFORMED_PROCEDURE_STEP": "ModalityPerformedProcedureStep",
    "MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE": "ModalityPerformedProcedureStepRetrieve",
    "PATIENT_ROOT_FIND": "PatientRootQueryRetrieveInformationModelFind",
    "PATIENT_ROOT_MOVE": "PatientRootQueryRetrieveInformationModelMove",
    "PATIENT_ROOT_GET": "PatientRootQueryRetrieveInformationModelGet",
    "STUDY_ROOT_FIND": "StudyRootQueryRetrieveInformationModelFind",
    "STUDY_ROOT_MOVE": "StudyRootQueryRetrieveInformationModelMove",
    "STUDY_ROOT_GET": "StudyRootQueryRetrieveInformationModelGet",
    "PATIENT_STUDY_ONLY_FIND": "PatientStudyOnlyQueryRetrieveInformationModelFind",
    "PATIENT_STUDY_ONLY_MOVE": "PatientStudyOnlyQueryRetrieveInformationModelMove",
    "PATIENT_STUDY_ONLY_GET": "PatientStudyOnlyQueryRetrieveInformationModelGet",
}


def _required() -> list[tuple[str, str, str]]:
    rows = []
    for line in REQUIRED.strip().splitlines():
        uid, special, name = line.split(maxsplit=2)
        rows.append((uid, special, name))
    return rows


@pytest.mark.parametrize(("uid", "special", "name"), _required())
def test_a_required_class_can_be_stored(uid: str, special: str, name: str) -> None:
    sop_class = STORAGE[uid]

    assert sop_class.name == name
    assert sop_class.retired is (special == "retired")
    assert sop_class.private is (special == "private")


def test_all_required_rows_are_checked() -> None:
    # Verification is one more: the services are below.
    assert len(_required()) == 104


def test_every_storage_class_of_the_current_standard_can_be_stored() -> None:
    current = set(pynetdicom_sop_class._STORAGE_CLASSES.values())

    assert current - STORAGE.keys() == set()


@pytest.mark.parametrize("sop_class", STORAGE.values(), ids=lambda each: each.uid)
def test_what_the_registry_knows_is_named_as_there(sop_class: SOPClass) -> None:
    assert is_uid(sop_class.uid)
    if sop_class.uid in UID_dictionary:
        name, _, _, retired, _ = UID_dictionary[sop_class.uid]
        assert sop_class.name == name.removesuffix(" SOP Class")
        assert sop_class.retired is bool(retired)
        assert not sop_class.private


@pytest.mark.parametrize(("constant", "keyword"), SERVICES.items())
def test_a_service_has_the_uid_of_the_registry(constant: str, keyword: str) -> None:
    registered = {entry[4]: uid for uid, entry in UID_dictionary.items()}
    assert getattr(sop_classes, constant) == registered[keyword]


def test_verification_is_not_storage() -> None:
    assert sop_classes.VERIFICATION not in STORAGE


@pytest.mark.parametrize(
    ("uid", "may"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True),
        ("1.2.840.10008.5.1.4.1.1.9999", True),  # the next edition's
        ("1.2.840.113619.4.30", True),
        ("1.3.12.2.1107.5.99.3.11", True),
        ("1.2.840.10008.1.1", False),
        ("1.2.840.10008.5.1.4.1.2.2.1", False),
        ("1.2.840.10008.5.1.4.31", False),
        ("1.2.840.10008.5.1.4.1.1.201.2", False),  # Inventory - FIND
        ("1.2.840.10008.5.1.4.1.1.200.6", False),  # Protocol Approval Information Model - GET
        ("", False),
        ("1.2.3/../4", False),
        ("1.2.3\0", False),
        ("1." * 33 + "1", False),
    ],
)
def test_what_may_be_a_storage_class(uid: str, may: bool) -> None:
    assert sop_classes.may_be_storage(uid) is may


def test_no_class_of_another_service_may_be_a_storage_class() -> None:
    may = {uid for uid in UID_dictionary if sop_classes.may_be_storage(uid)}

    # The registry lost the names of the two retired ones.
    nameless = {"1.2.840.10008.5.1.4.1.1.12.77", "1.2.840.10008.5.1.4.1.1.40"}
    assert may - STORAGE.keys() == nameless
