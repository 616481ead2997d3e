"""A C-MOVE SCU that takes down when responses come, PS3.4 C.4.2."""

import time
from dataclasses import dataclass
from typing import Final

from .requestor import (
    AFFECTED_SOP_CLASS_UID,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    COMPLETED_SUBOPERATIONS,
    DATA_SET_PRESENT,
    FAILED_SUBOPERATIONS,
    LAST,
    MESSAGE_ID,
    MOVE_DESTINATION,
    PRIORITY,
    STATUS,
    Association,
    PeerFailed,
    command_pdu,
    element,
    p_data,
    us,
)

_STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
_IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
_C_MOVE_RQ: Final = 0x0021
_PENDING: Final = 0xFF00


@dataclass(frozen=True, slots=True)
class Moved:
    """What a C-MOVE did: its sub-operations, and when the first response and the last one came."""

    completed: int
    first_seconds: float
    seconds: float


def move_study(
    host: str, port: int, called_aet: str, study_instance_uid: str, destination: str
) -> Moved:
    """Have a study sent to a destination; raise `PeerFailed` unless all of it was sent."""
    association = Association(
        host,
        port,
        called_aet,
        abstract_syntax=_STUDY_ROOT_MOVE,
        transfer_syntax=_IMPLICIT_VR_LITTLE_ENDIAN,
    )
    try:
        request = _request(study_instance_uid, destination)
        began = time.monotonic()
        association.send(request)
        first = None
        while True:
            response = association.read_response()
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
        raise PeerFailed(f"ended a C-MOVE with status {status:04X} and {failed} failures")
    return Moved(us(response.get(COMPLETED_SUBOPERATIONS, b"")), first - began, now - began)


def _request(study_instance_uid: str, destination: str) -> bytes:
    command = command_pdu(
        {
            AFFECTED_SOP_CLASS_UID: _STUDY_ROOT_MOVE,
            COMMAND_FIELD: _C_MOVE_RQ,
            MESSAGE_ID: 1,
            MOVE_DESTINATION: destination,
            PRIORITY: 0,
            COMMAND_DATA_SET_TYPE: DATA_SET_PRESENT,
        }
    )
    identifier = element(0x0052, "STUDY ", group=0x0008) + element(
        0x000D, study_instance_uid, group=0x0020
    )
    return command + p_data(LAST, identifier)
