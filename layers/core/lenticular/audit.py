"""Audit messages, PS3.15 A.5: who did what with whose studies.

One place makes them, so that all of them have the standard's form (the schema of A.5.1): the XML
that a repository of audit records takes, and a line of JSON with that XML and, beside it, what a
person asks for: who, which study, which patient, what, when, how it ended.

Audit messages are the only thing we write that names patients. They never go where logs go.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final
from xml.etree import ElementTree as ET

#: What XML 1.0 has no way to write, which peers may send all the same.
_NOT_IN_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT: Final = "\ufffd"
#: What of a query is kept; a list of ten thousand UIDs would not go into an event of CloudWatch.
_QUERY_BYTES: Final = 64 << 10
#: "Application server process tier in a multi-tier system", A.5.1.2.1.
_APPLICATION_SERVER: Final = "4"


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value: of PS3.16 annex D, or of RFC 3881."""

    value: str
    meaning: str
    system: str = "DCM"


# Events, CID 400
APPLICATION_ACTIVITY: Final = Code("110100", "Application Activity")
BEGIN_TRANSFERRING: Final = Code("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED: Final = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED: Final = Code("110104", "DICOM Instances Transferred")
STUDY_DELETED: Final = Code("110105", "DICOM Study Deleted")
EXPORT: Final = Code("110106", "Export")
PROCEDURE_RECORD: Final = Code("110111", "Procedure Record")
QUERY: Final = Code("110112", "Query")
SECURITY_ALERT: Final = Code("110113", "Security Alert")

# Their types, CID 401
APPLICATION_START: Final = Code("110120", "Application Start")
APPLICATION_STOP: Final = Code("110121", "Application Stop")
NODE_AUTHENTICATION: Final = Code("110126", "Node Authentication")

# Roles of participants, CID 402
APPLICATION: Final = Code("110150", "Application")
DESTINATION: Final = Code("110152", "Destination Role ID")
SOURCE: Final = Code("110153", "Source Role ID")
DESTINATION_MEDIA: Final = Code("110154", "Destination Media")

# Media, CID 405
URI: Final = Code("110037", "URI")

# What the ID of an object is, CID 404
STUDY_INSTANCE_UID: Final = Code("110180", "Study Instance UID")
SOP_CLASS_UID: Final = Code("110181", "SOP Class UID")
NODE_ID: Final = Code("110182", "Node ID")
PATIENT_NUMBER: Final = Code("2", "Patient Number", "RFC-3881")

#: What a line of JSON calls who has a role.
_NAME_OF_ROLE: Final[Mapping[Code, str]] = MappingProxyType(
    {
        APPLICATION: "application",
        DESTINATION: "destination",
        DESTINATION_MEDIA: "destination",
        SOURCE: "source",
    }
)


class Action(StrEnum):
    """EventActionCode."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


class Outcome(IntEnum):
    """EventOutcomeIndicator."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


#: ParticipantObjectTypeCode and ParticipantObjectTypeCodeRole of the objects that we name.
_PATIENT: Final = ("1", "1")
_REPORT: Final = ("2", "3")  # studies, and what a query asks
_SECURITY_RESOURCE: Final = ("2", "13")


@dataclass(frozen=True, slots=True)
class Participant:
    """Who took part: an application entity, or a person; `address` is an IP address or a host name.

    The UserID of an application entity is its AE title (A.5.2.1 wants what our logs call it), or
    the address of a peer that has not told one; that of a person is `person`, as user@host; that of
    a medium, which is written to, is its URI.
    """

    ae_title: str
    address: str
    roles: tuple[Code, ...] = ()
    is_requestor: bool = False
    person: str = ""
    medium: str = ""

    @property
    def name(self) -> str:
        """What a line of JSON calls them."""
        return self.person or self.ae_title or self.medium


@dataclass(frozen=True, slots=True)
class Involved:
    """An object that was dealt with: a patient, a study, a query, a node."""

    kind: tuple[str, str]
    id: str
    id_type: Code
    query: bytes | None = None
    details: Mapping[str, bytes] = field(default_factory=dict)
    #: Instances by SOP class.
    instances: Mapping[str, int] = field(default_factory=dict)
    #: The performed procedure step by which it was dealt with.
    procedure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditMessage:
    """One message. `facts` are of the line of JSON alone."""

    event: Code
    action: Action
    source_id: str
    participants: tuple[Participant, ...]
    involved: tuple[Involved, ...] = ()
    outcome: Outcome = Outcome.SUCCESS
    event_type: Code | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def moment(self) -> str:
        """When it happened, as the XML and the line write it."""
        return self.at.isoformat(timespec="milliseconds")

    def to_xml(self) -> str:
        """Write the message by the schema of A.5.1."""
        root = ET.Element("AuditMessage")
        event = ET.SubElement(
            root,
            "EventIdentification",
            EventActionCode=self.action,
            EventDateTime=self.moment,
            EventOutcomeIndicator=str(int(self.outcome)),
        )
        _coded(event, "EventID", self.event)
        if self.event_type is not None:
            _coded(event, "EventTypeCode", self.event_type)
        for participant in self.participants:
            _add_participant(root, participant)
        source = ET.SubElement(
            root, "AuditSourceIdentification", AuditSourceID=_xml_text(self.source_id)
        )
        ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
        for each in self.involved:
            _add_object(root, each)
        return ET.tostring(root, encoding="unicode")

    def to_line(self) -> str:
        """Write a line of JSON, without its end: the facts, then the XML."""
        by_type = {each.id_type: each for each in self.involved}
        line: dict[str, object] = {
            "time": self.moment,
            "event": self.event.meaning,
            "type": None if self.event_type is None else self.event_type.meaning,
            "action": self.action,
            "outcome": int(self.outcome),
        }
        for each in self.participants:
            if each.is_requestor:
                line |= {"requestor": each.name, "requestor_address": each.address}
            line |= {_NAME_OF_ROLE[role]: each.name for role in each.roles}
        if study := by_type.get(STUDY_INSTANCE_UID):
            line["study"] = study.id
            if not study.procedure:
                line["instances"] = sum(study.instances.values())
        if patient := by_type.get(PATIENT_NUMBER):
            line["patient"] = patient.id
        # ASCII, so that no character of a peer's can end the line or hide in it.
        return json.dumps({**line, **self.facts, "xml": self.to_xml()})


@dataclass(frozen=True, slots=True)
class Study:
    """What of a study was dealt with: whose it is, and how many instances by SOP class.

    Who names a performed procedure step, `procedure`, names its SOP class too, table A.5.2-1.
    """

    study_instance_uid: str
    patient_id: str
    instances: Mapping[str, int] = field(default_factory=dict)
    procedure: str = ""

    @property
    def involved(self) -> tuple[Involved, ...]:
        """The study and its patient as objects of a message."""
        return (
            Involved(
                _REPORT,
                self.study_instance_uid,
                STUDY_INSTANCE_UID,
                instances=self.instances,
                procedure=self.procedure,
            ),
            # Also where the data set has no Patient ID: A.5.3 wants a patient, be it without an ID.
            Involved(_PATIENT, self.patient_id, PATIENT_NUMBER),
        )


@dataclass(frozen=True, slots=True)
class AuditSource:
    """This node, which makes the messages; `host` is its name or address."""

    ae_title: str
    host: str

    @property
    def itself(self) -> Participant:
        """This node as a participant."""
        return Participant(self.ae_title, self.host)

    def activity(self, event_type: Code) -> AuditMessage:
        """Tell that this application starts or stops, A.5.3.1."""
        application = replace(self.itself, roles=(APPLICATION,))
        return AuditMessage(
            event=APPLICATION_ACTIVITY,
            action=Action.EXECUTE,
            source_id=self.ae_title,
            participants=(application,),
            event_type=event_type,
        )

    def transfer_begins(
        self, study: Study, receiver: Participant, requestor: Participant
    ) -> AuditMessage:
        """Tell that instances of a study are about to be sent, A.5.3.3."""
        return AuditMessage(
            event=BEGIN_TRANSFERRING,
            action=Action.EXECUTE,
            source_id=self.ae_title,
            participants=_parties(self.itself, receiver, requestor),
            involved=study.involved,
        )

    def transferred(  # noqa: PLR0913 - what, from whom, to whom, for whom, and what came of it
        self,
        study: Study,
        *,
        sender: Participant,
        receiver: Participant,
        requestor: Participant,
        action: Action,
        outcome: Outcome,
    ) -> AuditMessage:
        """Tell that instances of a study were sent or received, or could not be, A.5.3.7."""
        return AuditMessage(
            event=INSTANCES_TRANSFERRED,
            action=action,
            source_id=self.ae_title,
            participants=_parties(sender, receiver, requestor),
            involved=study.involved,
            outcome=outcome,
        )

    def study_deleted(self, study: Study, person: str, facts: Mapping[str, object]) -> AuditMessage:
        """Tell that an operator deleted a study, A.5.3.8."""
        return AuditMessage(
            event=STUDY_DELETED,
            action=Action.DELETE,
            source_id=self.ae_title,
            participants=(Participant("", self.host, is_requestor=True, person=person),),
            involved=study.involved,
            facts=facts,
        )

    def study_restored(
        self, study: Study, person: str, facts: Mapping[str, object]
    ) -> AuditMessage:
        """Tell that an operator brought back a deleted study, A.5.3.6."""
        return replace(
            self.study_deleted(study, person, facts),
            event=INSTANCES_ACCESSED,
            action=Action.CREATE,
        )

    def exported(self, study: Study, person: str, uri: str, outcome: Outcome) -> AuditMessage:
        """Tell that an operator wrote a study to files, A.5.3.4."""
        return AuditMessage(
            event=EXPORT,
            action=Action.READ,
            source_id=self.ae_title,
            participants=(
                Participant("", self.host, (SOURCE,), is_requestor=True, person=person),
                Participant("", "", (DESTINATION_MEDIA,), medium=uri),
            ),
            involved=study.involved,
            outcome=outcome,
        )

    def procedure(
        self,
        study: Study,
        requestor: Participant,
        action: Action,
        outcome: Outcome,
        facts: Mapping[str, object],
    ) -> AuditMessage:
        """Tell that a performed procedure step was created, set or read, A.5.3.15."""
        return AuditMessage(
            event=PROCEDURE_RECORD,
            action=action,
            source_id=self.ae_title,
            participants=(replace(requestor, is_requestor=True),),
            involved=study.involved,
            outcome=outcome,
            facts={"procedure": study.procedure, **facts},
        )

    def query(  # noqa: PLR0913 - who asked, what, and what came of it
        self,
        requestor: Participant,
        *,
        sop_class_uid: str,
        transfer_syntax_uid: str,
        identifier: bytes,
        outcome: Outcome,
        facts: Mapping[str, object],
    ) -> AuditMessage:
        """Tell that somebody asked, with the identifier as it came, A.5.3.10."""
        queried = Involved(
            _REPORT,
            sop_class_uid,
            SOP_CLASS_UID,
            query=identifier[:_QUERY_BYTES],
            details={"TransferSyntax": transfer_syntax_uid.encode("ascii")},
        )
        return AuditMessage(
            event=QUERY,
            action=Action.EXECUTE,
            source_id=self.ae_title,
            participants=_parties(requestor, self.itself, requestor),
            involved=(queried,),
            outcome=outcome,
            facts=facts,
        )

    def alert(
        self, event_type: Code, peer: Participant, reason: str, facts: Mapping[str, object]
    ) -> AuditMessage:
        """Tell that a peer was turned away, A.5.3.11."""
        subject = Involved(
            _SECURITY_RESOURCE,
            peer.address,
            NODE_ID,
            details={"Alert Description": reason.encode("utf-8")},
        )
        told = {"peer": peer.ae_title, "peer_address": peer.address, "reason": reason}
        return AuditMessage(
            event=SECURITY_ALERT,
            action=Action.EXECUTE,
            source_id=self.ae_title,
            # Of who did it UserIsRequestor "shall be FALSE", and nobody asked us to report it.
            participants=(self.itself, peer),
            involved=(subject,),
            outcome=Outcome.MINOR_FAILURE,
            event_type=event_type,
            facts={**told, **facts},
        )


def _parties(
    sender: Participant, receiver: Participant, requestor: Participant
) -> tuple[Participant, ...]:
    """Return who took part in a transfer, one of them the requestor."""
    parties = [replace(sender, roles=(SOURCE,)), replace(receiver, roles=(DESTINATION,))]
    for position, party in enumerate(parties):
        # By its title: the node table may have it under a name, and it calls from an address.
        if party.ae_title == requestor.ae_title:
            parties[position] = replace(party, is_requestor=True)
            return tuple(parties)
    return (*parties, replace(requestor, is_requestor=True))


def _add_participant(root: ET.Element, participant: Participant) -> None:
    title, medium = _xml_text(participant.ae_title), _xml_text(participant.medium)
    attributes = {
        "UserID": _xml_text(participant.person) or title or medium or participant.address,
        "UserIsRequestor": "true" if participant.is_requestor else "false",
    }
    if not medium:
        attributes["NetworkAccessPointID"] = participant.address
        kind = "2" if _is_ip_address(participant.address) else "1"
        attributes["NetworkAccessPointTypeCode"] = kind
    if title:
        attributes["AlternativeUserID"] = f"AETITLES={title}"  # A.5.2.2
    element = ET.SubElement(root, "ActiveParticipant", attributes)
    for role in participant.roles:
        _coded(element, "RoleIDCode", role)
    if medium:
        _coded(ET.SubElement(element, "MediaIdentifier"), "MediaType", URI)


def _add_object(root: ET.Element, involved: Involved) -> None:
    type_code, role = involved.kind
    element = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_xml_text(involved.id),
        ParticipantObjectTypeCode=type_code,
        ParticipantObjectTypeCodeRole=role,
    )
    _coded(element, "ParticipantObjectIDTypeCode", involved.id_type)
    # The schema demands a name or a query. Names are left out: the ID says who it is.
    if involved.query is None:
        ET.SubElement(element, "ParticipantObjectName")
    else:
        ET.SubElement(element, "ParticipantObjectQuery").text = _base64(involved.query)
    for kind, value in involved.details.items():
        ET.SubElement(element, "ParticipantObjectDetail", type=kind, value=_base64(value))
    if involved.instances:
        description = ET.SubElement(element, "ParticipantObjectDescription")
        if involved.procedure:
            ET.SubElement(description, "MPPS", UID=involved.procedure)
        for uid, count in sorted(involved.instances.items()):
            ET.SubElement(description, "SOPClass", UID=uid, NumberOfInstances=str(count))


def _coded(parent: ET.Element, name: str, code: Code) -> None:
    attributes = {
        "csd-code": code.value,
        "codeSystemName": code.system,
        "originalText": code.meaning,
    }
    ET.SubElement(parent, name, attributes)


def _is_ip_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")


def _xml_text(text: str) -> str:
    return _NOT_IN_XML.sub(_REPLACEMENT, text)
