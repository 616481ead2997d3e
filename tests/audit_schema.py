"""The schema of audit messages, PS3.15 A.5.1, as a table of our own: what an element may hold.

The children of an element come in the order of its pattern, in which each name ends with a space.
"""

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from xml.etree import ElementTree as ET

ANY = r"[\s\S]*"
WORDS = r"\S+( \S+)*"
UID = r"[0-9]+(\.[0-9]+)*"


@dataclass(frozen=True)
class Shape:
    """Attributes by name with the pattern of their values, and children in order."""

    required: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    children: str = ""
    text: str = r"\s*"


CODED = Shape(
    {"csd-code": WORDS, "codeSystemName": WORDS, "originalText": WORDS}, {"displayName": WORDS}
)
SHAPES: Mapping[str, Shape] = {
    "AuditMessage": Shape(
        children="EventIdentification (ActiveParticipant )+AuditSourceIdentification "
        "(ParticipantObjectIdentification )*"
    ),
    "EventIdentification": Shape(
        {"EventDateTime": ANY, "EventOutcomeIndicator": "0|4|8|12"},
        {"EventActionCode": "[CRUDE]"},
        "EventID (EventTypeCode )*(EventOutcomeDescription )?",
    ),
    "EventID": CODED,
    "EventTypeCode": CODED,
    "EventOutcomeDescription": Shape(text=ANY),
    "ActiveParticipant": Shape(
        {"UserID": ANY, "UserIsRequestor": "true|false"},
        {
            "AlternativeUserID": ANY,
            "UserName": ANY,
            "NetworkAccessPointID": WORDS,
            "NetworkAccessPointTypeCode": "[1-5]",
        },
        "(RoleIDCode )*(MediaIdentifier )?",
    ),
    "RoleIDCode": CODED,
    "MediaIdentifier": Shape(children="MediaType "),
    "MediaType": CODED,
    "AuditSourceIdentification": Shape(
        {"AuditSourceID": ANY}, {"AuditEnterpriseSiteID": ANY}, "(AuditSourceTypeCode )*"
    ),
    "AuditSourceTypeCode": Shape({"csd-code": "[1-9]"}),
    "ParticipantObjectIdentification": Shape(
        {"ParticipantObjectID": ANY},
        {
            "ParticipantObjectTypeCode": "[1-4]",
            "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
            "ParticipantObjectDataLifeCycle": "[1-9]|1[0-5]",
            "ParticipantObjectSensitivity": ANY,
        },
        "ParticipantObjectIDTypeCode (ParticipantObjectName |ParticipantObjectQuery )"
        "(ParticipantObjectDetail )*(ParticipantObjectDescription )*",
    ),
    "ParticipantObjectIDTypeCode": CODED,
    "ParticipantObjectName": Shape(text=ANY),
    "ParticipantObjectQuery": Shape(text="[A-Za-z0-9+/=]*"),
    "ParticipantObjectDetail": Shape({"type": WORDS, "value": "[A-Za-z0-9+/=]*"}),
    "ParticipantObjectDescription": Shape(
        children="(MPPS )*(Accession )*(SOPClass )*(ParticipantObjectContainsStudy )?"
        "(Encrypted )?(Anonymized )?"
    ),
    "MPPS": Shape({"UID": UID}),
    "SOPClass": Shape({"NumberOfInstances": "[0-9]+"}, {"UID": UID}, "(Instance )*"),
}


def problems(xml: str) -> list[str]:
    """Say what of a message is against the schema."""
    root = ET.fromstring(xml)  # noqa: S314 - written by the code under test
    wrong = [] if root.tag == "AuditMessage" else [f"the root is {root.tag}"]
    for element in root.iter():
        wrong += _problems(element)
    return wrong


def _problems(element: ET.Element) -> Iterator[str]:
    shape = SHAPES.get(element.tag)
    if shape is None:
        yield f"there is no element {element.tag}"
        return
    for name in shape.required.keys() - element.keys():
        yield f"{element.tag} lacks {name}"
    patterns = {**shape.required, **shape.optional}
    for name, value in element.items():
        if name not in patterns or not re.fullmatch(patterns[name], value):
            yield f"{element.tag} has {name}={value!r}"
    children = "".join(f"{child.tag} " for child in element)
    if not re.fullmatch(shape.children, children):
        yield f"{element.tag} holds {children}"
    if not re.fullmatch(shape.text, element.text or ""):
        yield f"{element.tag} says {element.text!r}"
    if element.tag == "EventIdentification" and not _is_moment(element.get("EventDateTime", "")):
        yield "EventDateTime is no time with its zone"


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


@dataclass(frozen=True)
class Party:
    """An active participant: who, from where, in which roles, and whether it asked for it."""

    user: str
    alternative: str | None
    address: str
    roles: tuple[str, ...]
    requestor: bool


@dataclass(frozen=True)
class Read:
    """A message as its XML says it, codes as `code meaning`."""

    event: str
    types: tuple[str, ...]
    action: str
    outcome: str
    parties: tuple[Party, ...]
    objects: Mapping[str, str]
    instances: Mapping[str, int]
    details: Mapping[str, bytes]
    query: bytes | None
    procedures: tuple[str, ...]

    def party(self, role: str) -> Party:
        """Return who has a role."""
        [found] = [each for each in self.parties if role in each.roles]
        return found

    @property
    def requestor(self) -> Party:
        """Who asked for it: one, A.5.2."""
        [found] = [each for each in self.parties if each.requestor]
        return found


def read(xml: str) -> Read:
    """Read a message that keeps to the schema."""
    assert problems(xml) == [], xml
    root = ET.fromstring(xml)  # noqa: S314 - written by the code under test
    event = root.find("EventIdentification")
    assert event is not None
    objects = root.findall("ParticipantObjectIdentification")
    queries = [b64decode(each.text or "") for each in root.iter("ParticipantObjectQuery")]
    return Read(
        event=_code(event.find("EventID")),
        types=tuple(map(_code, event.findall("EventTypeCode"))),
        action=event.get("EventActionCode", ""),
        outcome=event.get("EventOutcomeIndicator", ""),
        parties=tuple(
            Party(
                each.get("UserID", ""),
                each.get("AlternativeUserID"),
                each.get("NetworkAccessPointID", ""),
                tuple(map(_code, each.findall("RoleIDCode"))),
                each.get("UserIsRequestor") == "true",
            )
            for each in root.findall("ActiveParticipant")
        ),
        objects={
            _code(each.find("ParticipantObjectIDTypeCode")): each.get("ParticipantObjectID", "")
            for each in objects
        },
        instances={
            each.get("UID", ""): int(each.get("NumberOfInstances", ""))
            for each in root.iter("SOPClass")
        },
        details={
            each.get("type", ""): b64decode(each.get("value", ""))
            for each in root.iter("ParticipantObjectDetail")
        },
        query=queries[0] if queries else None,
        procedures=tuple(each.get("UID", "") for each in root.iter("MPPS")),
    )


def _code(element: ET.Element | None) -> str:
    assert element is not None
    return f"{element.get('csd-code')} {element.get('originalText')}"
