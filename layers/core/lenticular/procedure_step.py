"""A Modality Performed Procedure Step: its states, its attributes and its record. PS3.4 F.7.2.

    N-CREATE ─▶ IN PROGRESS ─ N-SET ─▶ COMPLETED | DISCONTINUED, and nothing after

What must be there, and what an N-SET may change, is table F.7.2-1, here as `ATTRIBUTES` and
`_ITEMS`. We hold requests against it as the table says with two exceptions, because modalities
that break it are many and a step that is refused is one that nobody sees:

- an attribute of type 2 that an N-CREATE leaves out is taken as sent empty;
- an attribute that an N-SET may not change may be in it, if it says what the N-CREATE said.

What the table does not name, private attributes too, is kept as it came. A sequence in an N-SET
replaces the one that was there (F.7.2.2.2). Text is kept as Unicode, whatever character set each
request came in (F.7.2.2.3).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

from .dicom_json import JsonElement, values_of, vr_of
from .errors import SenderError
from .identifiers import is_uid

#: Elements by tag.
Elements = Mapping[int, JsonElement]


class State(StrEnum):
    """Performed Procedure Step Status (0040,0252), PS3.3 C.4.14."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class Violation(StrEnum):
    """What is wrong with a request."""

    MISSING = "missing"
    EMPTY = "without a value"
    INVALID = "with a value that is not allowed"
    FINAL = "final"


class StepRefused(SenderError):
    """A request breaks the rules of performed procedure steps; `tags` are the attributes."""

    def __init__(self, violation: Violation, *tags: int) -> None:
        """Name the violation and the attributes, never a value."""
        named = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags)
        super().__init__(f"{violation}: {named}")
        self.violation = violation
        self.tags = tags


_STATUS: Final = 0x00400252
_SCHEDULED_STEPS: Final = 0x00400270
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES: Final = 0x00400340
_SERIES_INSTANCE_UID: Final = 0x0020000E
_PROTOCOL_NAME: Final = 0x00181030
_REFERENCED_IMAGES: Final = 0x00081140
_REFERENCED_NON_IMAGES: Final = 0x00400220
_REFERENCED_SOP_CLASS_UID: Final = 0x00081150
_REFERENCED_SOP_INSTANCE_UID: Final = 0x00081155
_SPECIFIC_CHARACTER_SET: Final = 0x00080005
_START_DATE: Final = 0x00400244
_START_TIME: Final = 0x00400245
_END_DATE: Final = 0x00400250
_END_TIME: Final = 0x00400251
_STATION_AE_TITLE: Final = 0x00400241
_MODALITY: Final = 0x00080060
_ACCESSION_NUMBER: Final = 0x00080050
_PATIENT_ID: Final = 0x00100020


class Rule(NamedTuple):
    """A row of table F.7.2-1.

    The type in an N-CREATE, whether an N-SET may change it, whether a final state needs a value.
    """

    created: int
    settable: bool = False
    final: bool = False


ATTRIBUTES: Final[Mapping[int, Rule]] = {
    _SCHEDULED_STEPS: Rule(1),
    0x00100010: Rule(2),  # Patient's Name
    _PATIENT_ID: Rule(2),
    0x00100021: Rule(3),  # Issuer of Patient ID
    0x00100024: Rule(3),  # Issuer of Patient ID Qualifiers Sequence
    0x00101002: Rule(3),  # Other Patient IDs Sequence
    0x00100030: Rule(2),  # Patient's Birth Date
    0x00100040: Rule(2),  # Patient's Sex
    0x00081120: Rule(2),  # Referenced Patient Sequence
    0x00380010: Rule(3),  # Admission ID
    0x00380014: Rule(3),  # Issuer of Admission ID Sequence
    0x00380060: Rule(3),  # Service Episode ID
    0x00380064: Rule(3),  # Issuer of Service Episode ID Sequence
    0x00380062: Rule(3),  # Service Episode Description
    0x00400253: Rule(1),  # Performed Procedure Step ID
    _STATION_AE_TITLE: Rule(1),
    0x00400242: Rule(2),  # Performed Station Name
    0x00400243: Rule(2),  # Performed Location
    _START_DATE: Rule(1),
    _START_TIME: Rule(1),
    _STATUS: Rule(1, settable=True),
    0x00400254: Rule(2, settable=True),  # Performed Procedure Step Description
    0x00400255: Rule(2, settable=True),  # Performed Procedure Type Description
    0x00081032: Rule(2, settable=True),  # Procedure Code Sequence
    _END_DATE: Rule(2, settable=True, final=True),
    _END_TIME: Rule(2, settable=True, final=True),
    _MODALITY: Rule(1),
    0x00200010: Rule(2),  # Study ID
    0x00400260: Rule(2, settable=True),  # Performed Protocol Code Sequence
    _SERIES: Rule(2, settable=True, final=True),
}

#: What the items of these sequences need a value for, and what of it is a UID.
_ITEMS: Final[Mapping[int, Mapping[int, bool]]] = {
    _SCHEDULED_STEPS: {_STUDY_INSTANCE_UID: True},
    _SERIES: {_SERIES_INSTANCE_UID: True, _PROTOCOL_NAME: False},
    _REFERENCED_IMAGES: {_REFERENCED_SOP_CLASS_UID: True, _REFERENCED_SOP_INSTANCE_UID: True},
    _REFERENCED_NON_IMAGES: {_REFERENCED_SOP_CLASS_UID: True, _REFERENCED_SOP_INSTANCE_UID: True},
}


@dataclass(frozen=True, slots=True)
class Cause:
    """The request that made a state: when it came (UTC, microseconds), from whom, what it said."""

    received: str
    calling_ae_title: str
    digest: str


@dataclass(frozen=True, slots=True)
class Step:
    """A performed procedure step after `number` requests: the N-CREATE and the N-SETs."""

    sop_instance_uid: str
    number: int
    cause: Cause
    elements: Elements

    @property
    def state(self) -> State:
        """Where the step is."""
        return State(str(values_of(self.elements[_STATUS])[0]))

    @property
    def is_final(self) -> bool:
        """Whether no request may change it any more."""
        return self.state is not State.IN_PROGRESS

    @property
    def study_instance_uids(self) -> tuple[str, ...]:
        """The studies that the step is part of."""
        items = values_of(self.elements[_SCHEDULED_STEPS])
        return tuple(dict.fromkeys(_text(item, _STUDY_INSTANCE_UID) for item in items))

    @property
    def announced(self) -> frozenset[str]:
        """The SOP Instance UIDs of what the step says it made."""
        return frozenset(
            _text(reference, _REFERENCED_SOP_INSTANCE_UID)
            for series in values_of(self.elements.get(_SERIES))
            for tag in (_REFERENCED_IMAGES, _REFERENCED_NON_IMAGES)
            for reference in values_of(series.get(f"{tag:08X}"))
        )

    @property
    def station_ae_title(self) -> str:
        """Performed Station AE Title."""
        return self._first(_STATION_AE_TITLE)

    @property
    def patient_id(self) -> str:
        """Patient ID; empty where there is none."""
        return self._first(_PATIENT_ID)

    @property
    def modality(self) -> str:
        """Modality."""
        return self._first(_MODALITY)

    @property
    def accession_numbers(self) -> tuple[str, ...]:
        """The Accession Numbers of its scheduled steps, as far as there are any."""
        items = values_of(self.elements[_SCHEDULED_STEPS])
        return tuple(
            dict.fromkeys(filter(None, (_text(item, _ACCESSION_NUMBER) for item in items)))
        )

    @property
    def started(self) -> str:
        """When it started, by the modality's clock: date and time as DICOM writes them."""
        return f"{self._first(_START_DATE)}T{self._first(_START_TIME)}"

    @property
    def ended(self) -> str:
        """When it ended, as `started`; empty before."""
        date = self._first(_END_DATE)
        return f"{date}T{self._first(_END_TIME)}" if date else ""

    def modified(self, modifications: Elements, cause: Cause) -> "Step":
        """Return the step after an N-SET, or raise `StepRefused`."""
        if self.is_final:
            raise StepRefused(Violation.FINAL, _STATUS)
        forbidden = [
            tag
            for tag, element in modifications.items()
            if tag in ATTRIBUTES
            and not ATTRIBUTES[tag].settable
            and _content(element) != _content(self.elements.get(tag))
        ]
        if forbidden:
            raise StepRefused(Violation.INVALID, *forbidden)
        _check_items(modifications)
        elements = {
            **self.elements,
            **{tag: each for tag, each in modifications.items() if tag != _SPECIFIC_CHARACTER_SET},
        }
        if _state(elements) is not State.IN_PROGRESS:
            _check_present(elements, (tag for tag, rule in ATTRIBUTES.items() if rule.final))
        return replace(self, number=self.number + 1, cause=cause, elements=elements)

    def to_json(self) -> bytes:
        """Write the record that the archive keeps."""
        record = {
            "sop_instance_uid": self.sop_instance_uid,
            "number": self.number,
            "received": self.cause.received,
            "calling_ae_title": self.cause.calling_ae_title,
            "request_sha256": self.cause.digest,
            "attributes": {f"{tag:08X}": element for tag, element in self.elements.items()},
        }
        return _json(record)

    @classmethod
    def from_json(cls, record: bytes) -> "Step":
        """Read a record that `to_json` wrote."""
        fields = json.loads(record)
        return cls(
            fields["sop_instance_uid"],
            fields["number"],
            Cause(fields["received"], fields["calling_ae_title"], fields["request_sha256"]),
            {int(tag, 16): element for tag, element in fields["attributes"].items()},
        )

    def _first(self, tag: int) -> str:
        values = values_of(self.elements.get(tag))
        return str(values[0] or "") if values else ""


def created(sop_instance_uid: str, attributes: Elements, cause: Cause) -> Step:
    """Return the step that an N-CREATE makes, or raise `StepRefused`."""
    _check_present(attributes, (tag for tag, rule in ATTRIBUTES.items() if rule.created == 1))
    if _state(attributes) is not State.IN_PROGRESS:
        raise StepRefused(Violation.INVALID, _STATUS)
    _check_items(attributes)
    left_out = [
        tag
        for tag, rule in ATTRIBUTES.items()
        if rule.created == 2 and tag not in attributes  # noqa: PLR2004 - types of attributes
    ]
    elements = {**{tag: {"vr": vr_of(tag, None)} for tag in left_out}, **attributes}
    return Step(sop_instance_uid, 1, cause, elements)


def digest(elements: Elements) -> str:
    """Return the SHA-256 of what a request said, whatever transfer syntax it came in."""
    return hashlib.sha256(_json({f"{tag:08X}": each for tag, each in elements.items()})).hexdigest()


def _state(elements: Elements) -> State:
    values = values_of(elements.get(_STATUS))
    if not values or not values[0]:
        raise StepRefused(Violation.EMPTY, _STATUS)
    try:
        return State(values[0])
    except ValueError:
        raise StepRefused(Violation.INVALID, _STATUS) from None


def _check_present(elements: Elements, tags: Iterator[int]) -> None:
    wanted = list(tags)
    if missing := [tag for tag in wanted if tag not in elements]:
        raise StepRefused(Violation.MISSING, *missing)
    if empty := [tag for tag in wanted if not _has_value(elements[tag])]:
        raise StepRefused(Violation.EMPTY, *empty)


def _check_items(elements: Elements) -> None:
    """Hold the items of sequences against the table, at any depth."""
    for tag, element in elements.items():
        needed = _ITEMS.get(tag, {})
        if needed and element["vr"] != "SQ":
            raise StepRefused(Violation.INVALID, tag)
        for item in values_of(element) if element["vr"] == "SQ" else ():
            nested = {int(each, 16): value for each, value in item.items()}
            _check_present(nested, iter(needed))
            for each, is_a_uid in needed.items():
                if is_a_uid and not is_uid(_text(item, each)):
                    raise StepRefused(Violation.INVALID, each)
            _check_items(nested)


def _has_value(element: JsonElement) -> bool:
    return "InlineBinary" in element or any(value is not None for value in values_of(element))


def _content(element: JsonElement | None) -> Any:  # noqa: ANN401 - of whatever type values are
    """Return what an element says; what is not there says as much as what is empty."""
    if element is None or not _has_value(element):
        return None
    return element.get("Value", element.get("InlineBinary"))


def _text(item: Mapping[str, JsonElement], tag: int) -> str:
    values = values_of(item.get(f"{tag:08X}"))
    return str(values[0] or "") if values else ""


def _json(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    # Text that was badly encoded may hold lone surrogates, which UTF-8 has no form for.
    return text.encode("utf-8", "replace")
