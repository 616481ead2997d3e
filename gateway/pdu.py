"""PDUs of the DICOM upper layer: what they are made of, and when each may come or go. PS3.8 9.

Who may send what, and when, is the state machine of 9.2. It stands below as two tables: `RECEIVED`
for PDUs that arrive and `SENT` for those that leave. What the A-ASSOCIATE PDUs say is the matter of
`negotiation`.

PS3.8 describes thirteen states because it allows for a user who thinks in parallel to the
network. We do not: the thread that reads a request also serves it, and no second thread reads on.
That is enough because we answer the asynchronous operations window with (1,1), so a peer may
send only C-CANCEL-RQ, A-ABORT or nothing while an operation is under way. Some states are therefore
left at once and some never entered (Sta4: the connection is made before there is a `Wire`).
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, IntEnum
from typing import Final, NamedTuple


class Pdu(IntEnum):
    """PDU types, PS3.8 9.3."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class State(Enum):
    """States of PS3.8 9.2.1 that we rest in; the values are the standard's names."""

    CLOSED = "Sta1"
    AWAITING_ASSOCIATE_RQ = "Sta2"
    AWAITING_OUR_ANSWER = "Sta3"
    CONNECTED = "Sta4"
    AWAITING_ASSOCIATE_AC = "Sta5"
    DATA_TRANSFER = "Sta6"
    AWAITING_RELEASE_RP = "Sta7"
    AWAITING_OUR_RELEASE_RP = "Sta8"
    COLLISION_REQUESTOR_ANSWERS = "Sta9"
    COLLISION_ACCEPTOR_WAITS = "Sta10"
    COLLISION_REQUESTOR_WAITS = "Sta11"
    COLLISION_ACCEPTOR_ANSWERS = "Sta12"
    AWAITING_CLOSE = "Sta13"


# PS3.8 tables 9-6 to 9-10, the rows of PDUs received. An A-ABORT that comes is listed in every
# state (AA-2, AA-3). A pair that is not listed is a violation: AA-1 in Sta2, AA-8 elsewhere.
# A release collision (both sides ask at once) goes on by who asked for the association.
RELEASE_COLLISION: Final = State.COLLISION_ACCEPTOR_WAITS
RECEIVED: Final[Mapping[State, Mapping[Pdu, State]]] = {
    State.AWAITING_ASSOCIATE_RQ: {
        Pdu.ASSOCIATE_RQ: State.AWAITING_OUR_ANSWER,  # AE-6
        Pdu.ABORT: State.CLOSED,
    },
    State.AWAITING_OUR_ANSWER: {
        Pdu.ABORT: State.CLOSED,
    },
    State.AWAITING_ASSOCIATE_AC: {
        Pdu.ASSOCIATE_AC: State.DATA_TRANSFER,  # AE-3
        Pdu.ASSOCIATE_RJ: State.CLOSED,  # AE-4
        Pdu.ABORT: State.CLOSED,
    },
    State.DATA_TRANSFER: {
        Pdu.P_DATA_TF: State.DATA_TRANSFER,  # DT-2
        Pdu.RELEASE_RQ: State.AWAITING_OUR_RELEASE_RP,  # AR-2
        Pdu.ABORT: State.CLOSED,
    },
    State.AWAITING_RELEASE_RP: {
        Pdu.P_DATA_TF: State.AWAITING_RELEASE_RP,  # AR-6; it comes too late and is thrown away
        Pdu.RELEASE_RQ: RELEASE_COLLISION,  # AR-8
        Pdu.RELEASE_RP: State.CLOSED,  # AR-3
        Pdu.ABORT: State.CLOSED,
    },
    State.COLLISION_ACCEPTOR_WAITS: {
        Pdu.RELEASE_RP: State.COLLISION_ACCEPTOR_ANSWERS,  # AR-10
        Pdu.ABORT: State.CLOSED,
    },
    State.COLLISION_REQUESTOR_WAITS: {
        Pdu.RELEASE_RP: State.CLOSED,  # AR-3
        Pdu.ABORT: State.CLOSED,
    },
}

# The rows of PDUs that our own side sends. A pair that is not listed would be a mistake of ours.
SENT: Final[Mapping[State, Mapping[Pdu, State]]] = {
    State.CONNECTED: {Pdu.ASSOCIATE_RQ: State.AWAITING_ASSOCIATE_AC},  # AE-2
    State.AWAITING_OUR_ANSWER: {
        Pdu.ASSOCIATE_AC: State.DATA_TRANSFER,  # AE-7
        Pdu.ASSOCIATE_RJ: State.AWAITING_CLOSE,  # AE-8
        Pdu.ABORT: State.AWAITING_CLOSE,
    },
    State.AWAITING_ASSOCIATE_AC: {Pdu.ABORT: State.AWAITING_CLOSE},  # AA-1
    State.DATA_TRANSFER: {
        Pdu.P_DATA_TF: State.DATA_TRANSFER,  # DT-1
        Pdu.RELEASE_RQ: State.AWAITING_RELEASE_RP,  # AR-1
        Pdu.ABORT: State.AWAITING_CLOSE,
    },
    State.AWAITING_RELEASE_RP: {Pdu.ABORT: State.AWAITING_CLOSE},
    State.AWAITING_OUR_RELEASE_RP: {
        Pdu.RELEASE_RP: State.AWAITING_CLOSE,  # AR-4
        Pdu.ABORT: State.AWAITING_CLOSE,
    },
    State.COLLISION_REQUESTOR_ANSWERS: {
        Pdu.RELEASE_RP: State.COLLISION_REQUESTOR_WAITS,  # AR-9
        Pdu.ABORT: State.AWAITING_CLOSE,
    },
    State.COLLISION_ACCEPTOR_WAITS: {Pdu.ABORT: State.AWAITING_CLOSE},
    State.COLLISION_REQUESTOR_WAITS: {Pdu.ABORT: State.AWAITING_CLOSE},
    State.COLLISION_ACCEPTOR_ANSWERS: {
        Pdu.RELEASE_RP: State.AWAITING_CLOSE,  # AR-4
        Pdu.ABORT: State.AWAITING_CLOSE,
    },
}


class AbortSource(IntEnum):
    """PS3.8 table 9-26."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(IntEnum):
    """PS3.8 table 9-26; meant for source SERVICE_PROVIDER."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


# Bits of the message control header of a PDV, PS3.8 E.2; the others are never checked. Plain
# integers, because enumerations are slow and these are looked at for every fragment.
COMMAND_FRAGMENT: Final = 0x01
DATA_SET_FRAGMENT: Final = 0x00
LAST_FRAGMENT: Final = 0x02


class Pdv(NamedTuple):
    """Header of one presentation data value; `length` counts the fragment's bytes alone."""

    context_id: int
    control: int
    length: int


BY_TYPE: Final = {int(pdu): pdu for pdu in Pdu}
PDU_HEADER: Final = struct.Struct(">BxI")
PDV_HEADER: Final = struct.Struct(">IBB")
_P_DATA_HEADER: Final = struct.Struct(">BxIIBB")
_SHORT_PDU: Final = struct.Struct(">BxIxxBB")

_PADDING: Final = memoryview(b"\0")

#: Length field of RJ, RELEASE and ABORT PDUs, PS3.8 9.3.4 and 9.3.6 to 9.3.8.
SHORT_PDU_BYTES: Final = 4
#: Context ID and control header, which a PDV's length counts, PS3.8 9.3.5.1.
PDV_OVERHEAD: Final = 2
#: A PDV's length field, context ID and control header, which a PDU's length counts.
FRAGMENT_OVERHEAD: Final = 6

#: Longest A-ASSOCIATE PDU we read. 128 contexts (all the odd IDs there are) that each offer the 45
#: transfer syntaxes known today need 170 KB, so nobody honest is cut off.
ASSOCIATE_PDU_MAX_BYTES: Final = 256 * 1024


def abort_pdu(source: AbortSource, reason: AbortReason) -> bytes:
    """Encode an A-ABORT, PS3.8 9.3.8."""
    return _SHORT_PDU.pack(Pdu.ABORT, SHORT_PDU_BYTES, source, reason)


def release_pdu(pdu: Pdu) -> bytes:
    """Encode an A-RELEASE-RQ or -RP, PS3.8 9.3.6 and 9.3.7."""
    return _SHORT_PDU.pack(pdu, SHORT_PDU_BYTES, 0, 0)


def p_data_pdus(
    context_id: int, kind: int, chunks: Iterable[bytes | memoryview], size: int
) -> Iterator[list[bytes | memoryview]]:
    """Yield the P-DATA-TF PDUs of one command or data set, one PDV each, as pieces to be joined.

    `size` is even. A data set is odd where it was stored with a value of odd length; a fragment
    must not be (PS3.8 E.1), and DCMTK breaks off. So a zero byte follows, which it lets pass.
    """
    pending: list[memoryview] = []
    pending_bytes = 0
    for chunk in chunks:
        rest = memoryview(chunk).cast("B")
        while rest:
            if pending_bytes == size:
                yield [p_data_header(context_id, kind, size), *pending]
                pending.clear()
                pending_bytes = 0
            piece = rest[: size - pending_bytes]
            pending.append(piece)
            pending_bytes += len(piece)
            rest = rest[len(piece) :]
    if pending_bytes % 2:
        pending.append(_PADDING)
        pending_bytes += len(_PADDING)
    yield [p_data_header(context_id, kind | LAST_FRAGMENT, pending_bytes), *pending]


def p_data_header(context_id: int, control: int, length: int) -> bytes:
    """Encode what stands before a fragment that is a PDU of its own, PS3.8 9.3.5."""
    return _P_DATA_HEADER.pack(
        Pdu.P_DATA_TF, length + FRAGMENT_OVERHEAD, length + PDV_OVERHEAD, context_id, control
    )
