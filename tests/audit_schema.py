"""Audit messages held against the schema of PS3.15 A.5.1, audit_message.rng, and read."""

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from lxml import etree

#: What the schema leaves to its comments, or to a parser that knows patterns.
_OF_ATTRIBUTES: Final[Mapping[str, str]] = {
    "UID": r"[0-9]+(\.[0-9]+)*",
    "EventDateTime": r".*(Z|[+-][0-9]{2}:[0-9]{2})",
    **dict.fromkeys(("csd-code", "codeSystemName", "originalText"), r"\S+( \S+)*"),
}


@cache
def _schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse(Path(__file__).with_name("audit_message.rng")))


def problems(xml: str) -> list[str]:
    """Say what of a message is against the schema, or names what is no code, UID or moment."""
    schema, root = _schema(), etree.fromstring(xml)
    schema.validate(root)
    return [str(error) for error in schema.error_log] + list(_unfit(root))


def _unfit(root: etree._Element) -> Iterator[str]:
    for element in root.iter():
        for name, value in element.items():
            if not re.fullmatch(_OF_ATTRIBUTES.get(name, r"[\s\S]*"), value):
                yield f"{element.tag} has {name}={value!r}"


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
