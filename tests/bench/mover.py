"""C-MOVE and C-GET SCUs that take down when responses come, PS3.4 C.4.2 and C.4.3.

What C-GET brings is thrown away as cheaply as can be.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from .association import (
    AFFECTED_SOP_CLASS_UID,
    C_STORE_RQ,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    COMPLETED_SUBOPERATIONS,
    DATA_SET_PRESENT,
    FAILED_SUBOPERATIONS,
    LAST,
    MESSAGE_ID,
    MOVE_DESTINATION,
    PRIORITY,
    RECEIVING_CONTEXT_ID,
    STATUS,
    Association,
    PeerFailed,
    command_pdu,
    element,
    p_data,
    us,
)
from .sender import CT_IMAGE_STORAGE

_STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
_STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
_IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
_C_GET_RQ: Final = 0x0010
_C_MOVE_RQ: Final = 0x0021
_PENDING: Final = 0xFF00


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What a retrieval did: its sub-operations, and when the first response and the last came."""

    completed: int
    first_seconds: float
    seconds: float


def move_study(
    host: str, port: int, called_aet: str, study_instance_uid: str, destination: str
) -> Retrieved:
    """Have a study sent to a destination; raise `PeerFailed` unless all of it was sent."""
    association = Association(
        host,
        port,
        called_aet,
        abstract_syntax=_STUDY_ROOT_MOVE,
        transfer_syntax=_IMPLICIT_VR_LITTLE_ENDIAN,
    )
    elements: dict[int, str | int] = {
        AFFECTED_SOP_CLASS_UID: _STUDY_ROOT_MOVE,
        COMMAND_FIELD: _C_MOVE_RQ,
        MOVE_DESTINATION: destination,
    }
    return _retrieve(association, elements, study_instance_uid, association.read_response)


def get_study(host: str, port: int, called_aet: str, study_instance_uid: str) -> Retrieved:
    """Have a study sent over the association that asks; raise `PeerFailed` unless all of it was."""
    association = Association(
        host,
        port,
        called_aet,
        abstract_syntax=_STUDY_ROOT_GET,
        transfer_syntax=_IMPLICIT_VR_LITTLE_ENDIAN,
        receives=(CT_IMAGE_STORAGE, _EXPLICIT_VR_LITTLE_ENDIAN),
    )

    def next_response() -> Mapping[int, bytes]:
        while True:
            command = association.read_command()
            if us(command[COMMAND_FIELD]) != C_STORE_RQ:
                return command
            association.skip_data_set()
            association.accept_store(command, RECEIVING_CONTEXT_ID)

    elements: dict[int, str | int] = {
        AFFECTED_SOP_CLASS_UID: _STUDY_ROOT_GET,
        COMMAND_FIELD: _C_GET_RQ,
    }
    return _retrieve(association, elements, study_instance_uid, next_response)


def _retrieve(
    association: Association,
    elements: Mapping[int, str | int],
    study_instance_uid: str,
    next_response: Callable[[], Mapping[int, bytes]],
) -> Retrieved:
    """Send the request and read responses to the last one."""
    command = command_pdu(
        {**elements, MESSAGE_ID: 1, PRIORITY: 0, COMMAND_DATA_SET_TYPE: DATA_SET_PRESENT}
    )
    identifier = element(0x0052, "STUDY ", group=0x0008) + element(
        0x000D, study_instance_uid, group=0x0020
    )
    try:
        began = time.monotonic()
        association.send(command + p_data(LAST, identifier))
        first = None
        while True:
            response = next_response()
            now = time.monotonic()
            first = first or now
            status = us(response[STATUS])
            if status != _PENDING:
                break
        association.release()
    finally:
        association.close()
    failed = us(response.get(FAILED_SUBOPERATIONS, b""))
    if status != 0 or failed:
        raise PeerFailed(f"ended a retrieval with status {status:04X} and {failed} failures")
    return Retrieved(us(response.get(COMPLETED_SUBOPERATIONS, b"")), first - began, now - began)
