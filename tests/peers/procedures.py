"""Performed procedure steps as modalities send them, by pynetdicom and dcmjs-dimse."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.association import Association

from tests.peers import dcmjs_dimse, pynetdicom_peer
from tests.peers.node_process import Node

MPPS: Final = "1.2.840.10008.3.1.2.3.3"
MPPS_RETRIEVE: Final = "1.2.840.10008.3.1.2.3.4"
CT: Final = "1.2.840.10008.5.1.4.1.1.2"
#: Must never be found in a log.
PATIENT_NAME: Final = "Geheimrat^Eusebius"

#: Attributes by keyword; an item of a sequence is another such mapping.
Attributes = Mapping[str, Any]


def started(study_instance_uid: str, **other: Any) -> dict[str, Any]:
    """Return an N-CREATE's attributes, of a modality without a worklist; None leaves one out."""
    attributes: dict[str, Any] = {
        "ScheduledStepAttributesSequence": [
            {
                "StudyInstanceUID": study_instance_uid,
                "ReferencedStudySequence": [],
                "AccessionNumber": "ACC-1",
                "RequestedProcedureID": "",
                "RequestedProcedureDescription": "",
                "ScheduledProcedureStepID": "",
                "ScheduledProcedureStepDescription": "",
                "ScheduledProtocolCodeSequence": [],
            }
        ],
        "PatientName": PATIENT_NAME,
        "PatientID": "PID-SECRET-4711",
        "PatientBirthDate": "19620317",
        "PatientSex": "M",
        "ReferencedPatientSequence": [],
        "PerformedProcedureStepID": "STEP-1",
        "PerformedStationAETitle": "CT1",
        "PerformedStationName": "CT in room 1",
        "PerformedLocation": "",
        "PerformedProcedureStepStartDate": "20260105",
        "PerformedProcedureStepStartTime": "081500",
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "PerformedProcedureStepDescription": "",
        "PerformedProcedureTypeDescription": "",
        "ProcedureCodeSequence": [],
        "PerformedProcedureStepEndDate": "",
        "PerformedProcedureStepEndTime": "",
        "Modality": "CT",
        "StudyID": "",
        "PerformedProtocolCodeSequence": [],
        "PerformedSeriesSequence": [],
    }
    return {name: value for name, value in {**attributes, **other}.items() if value is not None}


def series(uid: str, images: Sequence[str] = (), others: Sequence[str] = ()) -> dict[str, Any]:
    """Return a performed series that made these instances, images and what is none."""

    def references(uids: Sequence[str]) -> list[dict[str, str]]:
        return [{"ReferencedSOPClassUID": CT, "ReferencedSOPInstanceUID": each} for each in uids]

    return {
        "PerformingPhysicianName": "",
        "ProtocolName": "Thorax",
        "OperatorsName": "",
        "SeriesInstanceUID": uid,
        "SeriesDescription": "",
        "RetrieveAETitle": "",
        "ReferencedImageSequence": references(images),
        "ReferencedNonImageCompositeSOPInstanceSequence": references(others),
    }


def ended(*performed: Attributes, status: str = "COMPLETED", **other: Any) -> dict[str, Any]:
    """Return the attributes of the last N-SET; None leaves one out."""
    attributes: dict[str, Any] = {
        "PerformedProcedureStepStatus": status,
        "PerformedProcedureStepEndDate": "20260105",
        "PerformedProcedureStepEndTime": "083000",
        "PerformedSeriesSequence": list(performed),
    }
    return {name: value for name, value in {**attributes, **other}.items() if value is not None}


def data_set(attributes: Attributes) -> Dataset:
    """Write attributes as pydicom has them."""
    made = Dataset()
    for keyword, value in attributes.items():
        nested = isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
        setattr(made, keyword, [data_set(item) for item in value] if nested else value)
    return made


@dataclass
class Modality:
    """An association of pynetdicom that sends steps; each method returns the response's status."""

    opened: Association
    status: Dataset
    returned: Dataset | None = None

    def create(self, uid: str | None, attributes: Attributes | Dataset) -> int | None:
        """Send N-CREATE."""
        sent = attributes if isinstance(attributes, Dataset) else data_set(attributes)
        self.status, self.returned = self.opened.send_n_create(sent, MPPS, uid)
        return self._status()

    def set(self, uid: str, modifications: Attributes | Dataset) -> int | None:
        """Send N-SET."""
        sent = modifications if isinstance(modifications, Dataset) else data_set(modifications)
        self.status, self.returned = self.opened.send_n_set(sent, MPPS, uid)
        return self._status()

    def get(self, uid: str, *keywords: str, under: str = MPPS_RETRIEVE) -> int | None:
        """Send N-GET for some attributes, or all."""
        tags: Any = [tag_for_keyword(keyword) for keyword in keywords]
        self.status, self.returned = self.opened.send_n_get(tags, under, uid)
        return self._status()

    def _status(self) -> int | None:
        # Empty when no response came.
        return int(self.status.Status) if "Status" in self.status else None


@contextmanager
def modality(
    node: Node, syntax: str = ExplicitVRLittleEndian, aet: str = "PYNETDICOM"
) -> Iterator[Modality]:
    """Open an association for performed procedure steps; release it at the end."""
    contexts = [(MPPS, syntax), (MPPS_RETRIEVE, syntax)]
    with (
        pynetdicom_peer.association(node, contexts, aet) as association,
        pynetdicom_peer.undisturbed(association) as opened,
    ):
        yield Modality(opened, Dataset())


def send_by_dcmjs(
    node: Node, uid: str, *requests: tuple[str, Attributes], calling: str = "DCMJS"
) -> list[dcmjs_dimse.Event]:
    """Send requests, `n-create` or `n-set`, on one association; return the response to each."""
    jobs = [
        {"type": kind, "sop_class": MPPS, "sop_instance": uid, "data": attributes}
        for kind, attributes in requests
    ]
    return _last_responses(node, jobs, calling)


def get_by_dcmjs(
    node: Node, uid: str, *wanted: Sequence[str], under: str = MPPS_RETRIEVE
) -> list[dcmjs_dimse.Event]:
    """Send an N-GET for each of some lists of keywords, or for all attributes; return responses."""
    jobs = [
        {"type": "n-get", "sop_class": under, "sop_instance": uid, "attributes": keywords}
        for keywords in wanted
    ]
    return _last_responses(node, jobs, "DCMJS")


def _last_responses(
    node: Node, jobs: Sequence[Attributes], calling: str
) -> list[dcmjs_dimse.Event]:
    events = dcmjs_dimse.run(node, *jobs, calling=calling)
    return [dcmjs_dimse.responses(events, number)[-1] for number in range(len(jobs))]
