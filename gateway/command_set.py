"""Command sets: group 0000 of a DIMSE message, encoded and decoded by one table.

Each message has one (PS3.7 6.3.1, E.1), so this code runs for every instance received or sent. It
is a table of elements and two loops over it: no data set objects, no value representations to look
up, about ten microseconds where a general library needs three hundred.

Encoding is Implicit VR Little Endian whatever the context's transfer syntax is. Retired elements
of group 0000 and ones the table does not know are skipped when reading and never written.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final


class CommandField(IntEnum):
    """Which message it is, PS3.7 E.1-1 (0000,0100)."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_GET_RSP = 0x8010
    C_FIND_RQ = 0x0020
    C_FIND_RSP = 0x8020
    C_MOVE_RQ = 0x0021
    C_MOVE_RSP = 0x8021
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_GET_RQ = 0x0110
    N_GET_RSP = 0x8110
    N_SET_RQ = 0x0120
    N_SET_RSP = 0x8120
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130
    N_CREATE_RQ = 0x0140
    N_CREATE_RSP = 0x8140
    N_DELETE_RQ = 0x0150
    N_DELETE_RSP = 0x8150
    C_CANCEL_RQ = 0x0FFF


class Priority(IntEnum):
    """(0000,0700), PS3.7 E.1-1."""

    MEDIUM = 0x0000
    HIGH = 0x0001
    LOW = 0x0002


#: The bit of the command field that tells a response from its request.
RESPONSE: Final = 0x8000
#: (0000,0800) when no data set follows; any other value says that one does.
NO_DATA_SET: Final = 0x0101
#: What we write when one follows; PS3.7 leaves the value open.
DATA_SET_PRESENT: Final = 0x0001


class CommandSetError(Exception):
    """The bytes are not a command set, or the values cannot be written as one."""


#: PS3.5 9.1.
_UID_MAX_CHARACTERS: Final = 64


@dataclass(slots=True)
class CommandSet:
    """The elements of one command, each under its snake_case keyword; `None` is absent.

    UIDs and AE titles are without padding. Attribute tags are 32-bit integers, group first.
    """

    command_field: int
    message_id: int | None = None
    message_id_being_responded_to: int | None = None
    affected_sop_class_uid: str | None = None
    requested_sop_class_uid: str | None = None
    affected_sop_instance_uid: str | None = None
    requested_sop_instance_uid: str | None = None
    move_destination: str | None = None
    priority: int | None = None
    command_data_set_type: int | None = None
    status: int | None = None
    offending_element: tuple[int, ...] | None = None
    error_comment: str | None = None
    error_id: int | None = None
    event_type_id: int | None = None
    attribute_identifier_list: tuple[int, ...] | None = None
    action_type_id: int | None = None
    number_of_remaining_suboperations: int | None = None
    number_of_completed_suboperations: int | None = None
    number_of_failed_suboperations: int | None = None
    number_of_warning_suboperations: int | None = None
    move_originator_ae_title: str | None = None
    move_originator_message_id: int | None = None

    @property
    def has_data_set(self) -> bool:
        """Tell whether a data set follows the command."""
        return self.command_data_set_type is not None and self.command_data_set_type != NO_DATA_SET

    @property
    def is_response(self) -> bool:
        """Tell whether the command answers a request."""
        return bool(self.command_field & RESPONSE)

    def response(self, status: int, error_comment: str | None = None) -> "CommandSet":
        """Return the response to this request with the UIDs that PS3.7 9.3 and 10.3 repeat.

        One that is too long to be written is left out: the peer must hear the status all the same.
        """
        return CommandSet(
            command_field=self.command_field | RESPONSE,
            message_id_being_responded_to=self.message_id,
            affected_sop_class_uid=_repeated(
                self.affected_sop_class_uid or self.requested_sop_class_uid
            ),
            affected_sop_instance_uid=_repeated(
                self.affected_sop_instance_uid or self.requested_sop_instance_uid
            ),
            status=status,
            error_comment=error_comment,
        )


def _repeated(uid: str | None) -> str | None:
    return uid if uid and len(uid) <= _UID_MAX_CHARACTERS and uid.isascii() else None


class _Kind(IntEnum):
    """How a value is written."""

    US = 0
    UI = 1
    AE = 2
    LO = 3
    AT = 4


# PS3.7 table E.1-1 in ascending order of tags, as PS3.7 6.3.1 wants them written. The group is
# 0000 throughout, so elements alone are the keys.
_ELEMENTS: Final[tuple[tuple[int, _Kind, str], ...]] = (
    (0x0002, _Kind.UI, "affected_sop_class_uid"),
    (0x0003, _Kind.UI, "requested_sop_class_uid"),
    (0x0100, _Kind.US, "command_field"),
    (0x0110, _Kind.US, "message_id"),
    (0x0120, _Kind.US, "message_id_being_responded_to"),
    (0x0600, _Kind.AE, "move_destination"),
    (0x0700, _Kind.US, "priority"),
    (0x0800, _Kind.US, "command_data_set_type"),
    (0x0900, _Kind.US, "status"),
    (0x0901, _Kind.AT, "offending_element"),
    (0x0902, _Kind.LO, "error_comment"),
    (0x0903, _Kind.US, "error_id"),
    (0x1000, _Kind.UI, "affected_sop_instance_uid"),
    (0x1001, _Kind.UI, "requested_sop_instance_uid"),
    (0x1002, _Kind.US, "event_type_id"),
    (0x1005, _Kind.AT, "attribute_identifier_list"),
    (0x1008, _Kind.US, "action_type_id"),
    (0x1020, _Kind.US, "number_of_remaining_suboperations"),
    (0x1021, _Kind.US, "number_of_completed_suboperations"),
    (0x1022, _Kind.US, "number_of_failed_suboperations"),
    (0x1023, _Kind.US, "number_of_warning_suboperations"),
    (0x1030, _Kind.AE, "move_originator_ae_title"),
    (0x1031, _Kind.US, "move_originator_message_id"),
)
_BY_ELEMENT: Final = {element: (kind, name) for element, kind, name in _ELEMENTS}

_HEADER: Final = struct.Struct("<HHI")
_US_ELEMENT: Final = struct.Struct("<HHIH")
_US: Final = struct.Struct("<H")
_TAG: Final = struct.Struct("<HH")
_GROUP_LENGTH: Final = struct.Struct("<HHII")

_PADDING: Final = {_Kind.UI: b"\0", _Kind.AE: b" ", _Kind.LO: b" "}
# PS3.5 6.2. An error comment is for people and is cut; a UID or AE title that is cut would be
# another one, so those are refused.
_LO_MAX_CHARACTERS: Final = 64
_MAX_CHARACTERS: Final = {_Kind.UI: 64, _Kind.AE: 16}


def encode(command: CommandSet) -> bytes:
    """Encode with its group length, or raise `CommandSetError` for a value that does not fit."""
    parts: list[bytes] = []
    for element, kind, name in _ELEMENTS:
        value = getattr(command, name)
        if value is None:
            continue
        try:
            if kind is _Kind.US:
                parts.append(_US_ELEMENT.pack(0, element, 2, value))
            else:
                encoded = _encode_tags(value) if kind is _Kind.AT else _encode_text(kind, value)
                parts.append(_HEADER.pack(0, element, len(encoded)) + encoded)
        except (struct.error, ValueError, TypeError, AttributeError) as error:
            raise CommandSetError(f"{name} cannot be written as {kind.name}") from error
    body = b"".join(parts)
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def _encode_text(kind: _Kind, text: str) -> bytes:
    if kind is _Kind.LO:
        # Group 0000 has no Specific Character Set: the default repertoire it is.
        encoded = text[:_LO_MAX_CHARACTERS].encode("ascii", "replace")
    else:
        encoded = text.encode("ascii")
        if len(encoded) > _MAX_CHARACTERS[kind]:
            raise ValueError("too long")
    return encoded + _PADDING[kind] if len(encoded) % 2 else encoded


def _encode_tags(tags: tuple[int, ...]) -> bytes:
    return b"".join(_TAG.pack(tag >> 16, tag & 0xFFFF) for tag in tags)


def decode(data: bytes | memoryview) -> CommandSet:
    """Decode one whole command set, or raise `CommandSetError` and nothing else.

    Order, group length and repeated elements (the last counts) are not judged: peers differ there
    and nothing depends on it. An empty value reads as absent. UIDs and AE titles are ASCII but
    otherwise as the peer wrote them: check them before they become a key or a path.
    """
    data = bytes(data)
    end = len(data)
    offset = 0
    values: dict[str, Any] = {}
    while offset < end:
        if end - offset < _HEADER.size:
            raise CommandSetError("the command set ends within an element's header")
        group, element, length = _HEADER.unpack_from(data, offset)
        if group != 0:
            raise CommandSetError(f"the command set has an element of group {group:04X}")
        start = offset + _HEADER.size
        offset = start + length
        if offset > end:
            raise CommandSetError(f"element (0000,{element:04X}) is longer than the command set")
        known = _BY_ELEMENT.get(element)
        if known is None or not length:
            continue
        kind, name = known
        if kind is _Kind.US:
            if length != _US.size:
                raise CommandSetError(f"{name} is {length} bytes long instead of 2")
            values[name] = data[start] | data[start + 1] << 8
        elif kind is _Kind.AT:
            values[name] = _decode_tags(name, data[start:offset])
        else:
            values[name] = _decode_text(kind, name, data[start:offset])
    if "command_field" not in values:
        raise CommandSetError("the command set has no Command Field")
    return CommandSet(**values)


def _decode_text(kind: _Kind, name: str, encoded: bytes) -> str:
    if kind is _Kind.LO:
        return encoded.decode("latin-1").rstrip(" \0")
    try:
        text = encoded.decode("ascii")
    except UnicodeDecodeError:
        raise CommandSetError(f"{name} is not ASCII") from None
    # Some peers pad UIDs with spaces and AE titles with NUL.
    return text.rstrip(" \0") if kind is _Kind.UI else text.strip(" \0")


def _decode_tags(name: str, encoded: bytes) -> tuple[int, ...]:
    if len(encoded) % _TAG.size:
        raise CommandSetError(f"{name} is not a list of attribute tags")
    return tuple(group << 16 | element for group, element in _TAG.iter_unpack(encoded))
