"""SOP classes: everything that can be stored, and the services this node speaks. PS3.6 annex A.

`STORAGE` is every storage class of the standard that belongs to a study, the retired ones that
archives still hold, DICOS and DICONDE, and Siemens' private one, which many archives hold. The
Non-Patient Object classes (hanging protocols, colour palettes, implant templates, procedure
protocols; PS3.4 GG) are left out: they have no Study Instance UID, so no query of this node could
ever find them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .identifiers import is_uid

VERIFICATION: Final = "1.2.840.10008.1.1"

STORAGE_COMMITMENT_PUSH: Final = "1.2.840.10008.1.20.1"
#: The one SOP instance every storage commitment request names, PS3.4 J.3.5.
STORAGE_COMMITMENT_PUSH_INSTANCE: Final = "1.2.840.10008.1.20.1.1"

MODALITY_PERFORMED_PROCEDURE_STEP: Final = "1.2.840.10008.3.1.2.3.3"
MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE: Final = "1.2.840.10008.3.1.2.3.4"

PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
# Retired in 2004 and still what some viewers ask first.
PATIENT_STUDY_ONLY_FIND: Final = "1.2.840.10008.5.1.4.1.2.3.1"
PATIENT_STUDY_ONLY_MOVE: Final = "1.2.840.10008.5.1.4.1.2.3.2"
PATIENT_STUDY_ONLY_GET: Final = "1.2.840.10008.5.1.4.1.2.3.3"
#: Those of each operation; one of another operation is no context for it.
FIND: Final = (PATIENT_ROOT_FIND, STUDY_ROOT_FIND, PATIENT_STUDY_ONLY_FIND)
MOVE: Final = (PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE, PATIENT_STUDY_ONLY_MOVE)
GET: Final = (PATIENT_ROOT_GET, STUDY_ROOT_GET, PATIENT_STUDY_ONLY_GET)


@dataclass(frozen=True, slots=True)
class SOPClass:
    """A storage SOP class by its name in the registry; `private` ones are in no registry."""

    uid: str
    name: str
    retired: bool = False
    private: bool = False


_STORAGE: Final[tuple[SOPClass, ...]] = (
    SOPClass("1.2.840.10008.5.1.1.27", "Stored Print Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.1.29", "Hardcopy Grayscale Image Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.1.30", "Hardcopy Color Image Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.1", "Computed Radiography Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.1.1", "Digital X-Ray Image Storage - For Presentation"),
    SOPClass("1.2.840.10008.5.1.4.1.1.1.1.1", "Digital X-Ray Image Storage - For Processing"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.1.2",
        "Digital Mammography X-Ray Image Storage - For Presentation",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.1.2.1",
        "Digital Mammography X-Ray Image Storage - For Processing",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.1.3",
        "Digital Intra-Oral X-Ray Image Storage - For Presentation",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.1.3.1",
        "Digital Intra-Oral X-Ray Image Storage - For Processing",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.2", "CT Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.2.1", "Enhanced CT Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.2.2", "Legacy Converted Enhanced CT Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.3", "Ultrasound Multi-frame Image Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.3.1", "Ultrasound Multi-frame Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.4", "MR Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.4.1", "Enhanced MR Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.4.2", "MR Spectroscopy Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.4.3", "Enhanced MR Color Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.4.4", "Legacy Converted Enhanced MR Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.5", "Nuclear Medicine Image Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.6", "Ultrasound Image Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.6.1", "Ultrasound Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.6.2", "Enhanced US Volume Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.6.3", "Photoacoustic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.7", "Secondary Capture Image Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.7.1",
        "Multi-frame Single Bit Secondary Capture Image Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.7.2",
        "Multi-frame Grayscale Byte Secondary Capture Image Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.7.3",
        "Multi-frame Grayscale Word Secondary Capture Image Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.7.4",
        "Multi-frame True Color Secondary Capture Image Storage",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.8", "Standalone Overlay Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.9", "Standalone Curve Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.1", "Waveform Storage - Trial", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.1.1", "12-lead ECG Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.1.2", "General ECG Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.1.3", "Ambulatory ECG Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.1.4", "General 32-bit ECG Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.2.1", "Hemodynamic Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.3.1", "Cardiac Electrophysiology Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.4.1", "Basic Voice Audio Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.4.2", "General Audio Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.5.1", "Arterial Pulse Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.6.1", "Respiratory Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.6.2", "Multi-channel Respiratory Waveform Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.9.7.1",
        "Routine Scalp Electroencephalogram Waveform Storage",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.7.2", "Electromyogram Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.7.3", "Electrooculogram Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.7.4", "Sleep Electroencephalogram Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.8.1", "Body Position Waveform Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.100.1", "Waveform Presentation State Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.9.100.2", "Waveform Acquisition Presentation State Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.10", "Standalone Modality LUT Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.11", "Standalone VOI LUT Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.11.1", "Grayscale Softcopy Presentation State Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.11.2", "Color Softcopy Presentation State Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.11.3", "Pseudo-Color Softcopy Presentation State Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.11.4", "Blending Softcopy Presentation State Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.11.5",
        "XA/XRF Grayscale Softcopy Presentation State Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.11.6",
        "Grayscale Planar MPR Volumetric Presentation State Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.11.7",
        "Compositing Planar MPR Volumetric Presentation State Storage",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.11.8", "Advanced Blending Presentation State Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.11.9",
        "Volume Rendering Volumetric Presentation State Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.11.10",
        "Segmented Volume Rendering Volumetric Presentation State Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.11.11",
        "Multiple Volume Rendering Volumetric Presentation State Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.11.12",
        "Variable Modality LUT Softcopy Presentation State Storage",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.12.1", "X-Ray Angiographic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.12.1.1", "Enhanced XA Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.12.2", "X-Ray Radiofluoroscopic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.12.2.1", "Enhanced XRF Image Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.12.3",
        "X-Ray Angiographic Bi-Plane Image Storage",
        retired=True,
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.13.1.1", "X-Ray 3D Angiographic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.13.1.2", "X-Ray 3D Craniofacial Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.13.1.3", "Breast Tomosynthesis Image Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.13.1.4",
        "Breast Projection X-Ray Image Storage - For Presentation",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.13.1.5",
        "Breast Projection X-Ray Image Storage - For Processing",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.14.1",
        "Intravascular Optical Coherence Tomography Image Storage - For Presentation",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.14.2",
        "Intravascular Optical Coherence Tomography Image Storage - For Processing",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.20", "Nuclear Medicine Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.30", "Parametric Map Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.66", "Raw Data Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.66.1", "Spatial Registration Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.66.2", "Spatial Fiducials Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.66.3", "Deformable Spatial Registration Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.66.4", "Segmentation Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.66.5", "Surface Segmentation Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.66.6", "Tractography Results Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.66.7", "Label Map Segmentation Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.66.8", "Height Map Segmentation Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.67", "Real World Value Mapping Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.68.1", "Surface Scan Mesh Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.68.2", "Surface Scan Point Cloud Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1", "VL Image Storage - Trial", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.1", "VL Endoscopic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.1.1", "Video Endoscopic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.2", "VL Microscopic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.2.1", "Video Microscopic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.3", "VL Slide-Coordinates Microscopic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.4", "VL Photographic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.4.1", "Video Photographic Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.5.1", "Ophthalmic Photography 8 Bit Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.5.2", "Ophthalmic Photography 16 Bit Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.5.3", "Stereometric Relationship Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.5.4", "Ophthalmic Tomography Image Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.77.1.5.5",
        "Wide Field Ophthalmic Photography Stereographic Projection Image Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.77.1.5.6",
        "Wide Field Ophthalmic Photography 3D Coordinates Image Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.77.1.5.7",
        "Ophthalmic Optical Coherence Tomography En Face Image Storage",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.77.1.5.8",
        "Ophthalmic Optical Coherence Tomography B-scan Volume Analysis Storage",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.6", "VL Whole Slide Microscopy Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.7", "Dermoscopic Photography Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.8", "Confocal Microscopy Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.1.9", "Confocal Microscopy Tiled Pyramidal Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.77.2", "VL Multi-frame Image Storage - Trial", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.78.1", "Lensometry Measurements Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.78.2", "Autorefraction Measurements Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.78.3", "Keratometry Measurements Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.78.4", "Subjective Refraction Measurements Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.78.5", "Visual Acuity Measurements Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.78.6", "Spectacle Prescription Report Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.78.7", "Ophthalmic Axial Measurements Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.78.8", "Intraocular Lens Calculations Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.79.1", "Macular Grid Thickness and Volume Report Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.80.1",
        "Ophthalmic Visual Field Static Perimetry Measurements Storage",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.81.1", "Ophthalmic Thickness Map Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.82.1", "Corneal Topography Map Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.1", "Text SR Storage - Trial", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.2", "Audio SR Storage - Trial", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.3", "Detail SR Storage - Trial", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.4", "Comprehensive SR Storage - Trial", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.11", "Basic Text SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.22", "Enhanced SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.33", "Comprehensive SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.34", "Comprehensive 3D SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.35", "Extensible SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.40", "Procedure Log Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.50", "Mammography CAD SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.59", "Key Object Selection Document Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.65", "Chest CAD SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.67", "X-Ray Radiation Dose SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.68", "Radiopharmaceutical Radiation Dose SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.69", "Colon CAD SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.70", "Implantation Plan SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.71", "Acquisition Context SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.72", "Simplified Adult Echo SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.73", "Patient Radiation Dose SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.74", "Planned Imaging Agent Administration SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.75", "Performed Imaging Agent Administration SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.76", "Enhanced X-Ray Radiation Dose SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.88.77", "Waveform Annotation SR Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.90.1", "Content Assessment Results Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.91.1", "Microscopy Bulk Simple Annotations Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.104.1", "Encapsulated PDF Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.104.2", "Encapsulated CDA Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.104.3", "Encapsulated STL Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.104.4", "Encapsulated OBJ Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.104.5", "Encapsulated MTL Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.128", "Positron Emission Tomography Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.128.1", "Legacy Converted Enhanced PET Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.129", "Standalone PET Curve Storage", retired=True),
    SOPClass("1.2.840.10008.5.1.4.1.1.130", "Enhanced PET Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.131", "Basic Structured Display Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.200.2", "CT Performed Procedure Protocol Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.200.8", "XA Performed Procedure Protocol Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.1", "RT Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.2", "RT Dose Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.3", "RT Structure Set Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.4", "RT Beams Treatment Record Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.5", "RT Plan Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.6", "RT Brachy Treatment Record Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.7", "RT Treatment Summary Record Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.8", "RT Ion Plan Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.9", "RT Ion Beams Treatment Record Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.10", "RT Physician Intent Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.11", "RT Segment Annotation Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.12", "RT Radiation Set Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.13", "C-Arm Photon-Electron Radiation Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.14", "Tomotherapeutic Radiation Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.15", "Robotic-Arm Radiation Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.16", "RT Radiation Record Set Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.17", "RT Radiation Salvage Record Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.18", "Tomotherapeutic Radiation Record Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.19", "C-Arm Photon-Electron Radiation Record Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.20", "Robotic Radiation Record Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.21", "RT Radiation Set Delivery Instruction Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.22", "RT Treatment Preparation Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.23", "Enhanced RT Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.481.24", "Enhanced Continuous RT Image Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.481.25",
        "RT Patient Position Acquisition Instruction Storage",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.501.1", "DICOS CT Image Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.501.2.1",
        "DICOS Digital X-Ray Image Storage - For Presentation",
    ),
    SOPClass(
        "1.2.840.10008.5.1.4.1.1.501.2.2",
        "DICOS Digital X-Ray Image Storage - For Processing",
    ),
    SOPClass("1.2.840.10008.5.1.4.1.1.501.3", "DICOS Threat Detection Report Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.501.4", "DICOS 2D AIT Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.501.5", "DICOS 3D AIT Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.501.6", "DICOS Quadrupole Resonance (QR) Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.601.1", "Eddy Current Image Storage"),
    SOPClass("1.2.840.10008.5.1.4.1.1.601.2", "Eddy Current Multi-frame Image Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.34.1",
        "RT Beams Delivery Instruction Storage - Trial",
        retired=True,
    ),
    SOPClass("1.2.840.10008.5.1.4.34.7", "RT Beams Delivery Instruction Storage"),
    SOPClass(
        "1.2.840.10008.5.1.4.34.10",
        "RT Brachy Application Setup Delivery Instruction Storage",
    ),
    SOPClass("1.3.12.2.1107.5.9.1", "Siemens CSA Non-Image Storage", private=True),
)

STORAGE: Final[Mapping[str, SOPClass]] = MappingProxyType({each.uid: each for each in _STORAGE})
#: What they hold is mostly a video stream, which there is no way to have uncompressed.
VIDEO: Final = frozenset(each.uid for each in _STORAGE if each.name.startswith("Video "))

#: The root of every UID of the standard, PS3.5 9.
_DICOM_ROOT: Final = "1.2.840.10008."
#: The arc in which PS3.6 registers storage classes, and what it registers there beside them:
#: procedure protocols and their approval (FIND, MOVE and GET too), inventories.
_STORAGE_ARC: Final = "1.2.840.10008.5.1.4.1.1."
_OTHER_ARCS: Final = ("1.2.840.10008.5.1.4.1.1.200.", "1.2.840.10008.5.1.4.1.1.201.")


def may_be_storage(uid: str) -> bool:
    """Tell whether a class can be one for storage: known, private, or newer than this table.

    Of the standard's own classes only those of the storage arc can; another service's cannot.
    """
    if uid in STORAGE:
        return True
    if uid.startswith(_STORAGE_ARC):
        return is_uid(uid) and not uid.startswith(_OTHER_ARCS)
    return is_uid(uid) and not uid.startswith(_DICOM_ROOT)
