"""Either side of an association in as few instructions as it takes.

What measures must cost next to nothing. So this sends PDUs that somebody has encoded, reads one
PDU after the other, and looks only at what tells success from failure. TCP_NODELAY is on, and
TCP_QUICKACK too: peers that leave Nagle's algorithm on would otherwise wait 40 ms for us with every
message. It needs nothing but the standard library.
"""

import socket
import struct
import sys
from collections.abc import Mapping
from typing import Final

CALLING_AET: Final = "BENCH"
MAX_PDU_BYTES: Final = 128 * 1024
#: What a PDU of one fragment has before it: length, context ID, control header (PS3.8 9.3.5.1).
FRAGMENT_OVERHEAD_BYTES: Final = 6

_APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
_IMPLEMENTATION_CLASS_UID: Final = "1.2.826.0.1.3680043.8.498.1"
_CONTEXT_ID: Final = 1
RECEIVING_CONTEXT_ID: Final = 3
_ANSWER_SECONDS: Final = 60.0
_PDU_HEADER_BYTES: Final = 6
_SCRATCH_BYTES: Final = 128 * 1024
#: What is read at a time where most of it is thrown away.
THROWING_AWAY_BYTES: Final = 1024
_DISCARD: Final = socket.MSG_TRUNC if sys.platform == "linux" else 0

# PDU types and items, PS3.8 9.3.
_ASSOCIATE_RQ: Final = 1
_ASSOCIATE_AC: Final = 2
_P_DATA_TF: Final = 4
_RELEASE_RQ: Final = 5
_RELEASE_RP: Final = 6
_APPLICATION_CONTEXT_ITEM: Final = 0x10
_PRESENTATION_CONTEXT_ITEM: Final = 0x20
_PRESENTATION_CONTEXT_ANSWER_ITEM: Final = 0x21
_ABSTRACT_SYNTAX_ITEM: Final = 0x30
_TRANSFER_SYNTAX_ITEM: Final = 0x40
_USER_INFORMATION_ITEM: Final = 0x50
_MAXIMUM_LENGTH_ITEM: Final = 0x51
_IMPLEMENTATION_CLASS_UID_ITEM: Final = 0x52
_ROLE_SELECTION_ITEM: Final = 0x54
#: Where the AE titles of an A-ASSOCIATE-RQ or -AC stand and its items start, PS3.8 9.3.2, 9.3.3.
_AE_TITLES: Final = slice(4, 36)
_ITEMS_OFFSET: Final = 68
_CONTEXT_ITEMS_OFFSET: Final = 4
# Message control header, PS3.8 E.2.
COMMAND: Final = 1
LAST: Final = 2

# Elements of group 0000, PS3.7 E.1.
AFFECTED_SOP_CLASS_UID: Final = 0x0002
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
MOVE_DESTINATION: Final = 0x0600
PRIORITY: Final = 0x0700
COMMAND_DATA_SET_TYPE: Final = 0x0800
MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x0120
STATUS: Final = 0x0900
AFFECTED_SOP_INSTANCE_UID: Final = 0x1000
COMPLETED_SUBOPERATIONS: Final = 0x1021
FAILED_SUBOPERATIONS: Final = 0x1022
DATA_SET_PRESENT: Final = 0x0001
NO_DATA_SET: Final = 0x0101
C_STORE_RQ: Final = 0x0001
_C_STORE_RSP: Final = 0x8001


class PeerFailed(Exception):
    """The other side did not do its part; the message goes on from "the peer ..."."""


class Connection:
    """A connection whose messages are read one after the other, their data sets thrown away."""

    def __init__(self, sock: socket.socket, read_bytes: int) -> None:
        """Take over a connected socket, of which `read_bytes` are read at a time.

        What is to be thrown away must not have been read: then it is less than a header.
        """
        self._sock = sock
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._read_bytes = read_bytes

    def send(self, pdus: bytes | bytearray) -> None:
        """Send encoded PDUs in one call."""
        self._sock.sendall(pdus)

    def read_command(self) -> Mapping[int, bytes]:
        """Read the next message's command."""
        kind, body = self._read_pdu()
        if kind != _P_DATA_TF or body[5] != COMMAND | LAST:
            raise PeerFailed(f"sent a PDU of type {kind} that is no command in one piece")
        return _values(body)

    def skip_data_set(self) -> None:
        """Throw the data set of a message away."""
        last = False
        while not last:
            self._have(_PDU_HEADER_BYTES + FRAGMENT_OVERHEAD_BYTES)
            kind, length = struct.unpack_from(">BxI", self._received)
            control = self._received[_PDU_HEADER_BYTES + FRAGMENT_OVERHEAD_BYTES - 1]
            if kind != _P_DATA_TF or control & COMMAND:
                raise PeerFailed("sent something else where the data set went on")
            last = bool(control & LAST)
            self._skip(_PDU_HEADER_BYTES + length)

    def _skip(self, count: int) -> None:
        """Throw bytes away; on Linux without copying them to us (MSG_TRUNC, tcp(7))."""
        here = min(count, len(self._received))
        del self._received[:here]
        count -= here
        while count:
            skipped = self._sock.recv_into(self._scratch, min(count, _SCRATCH_BYTES), _DISCARD)
            if not skipped:
                raise PeerFailed("closed the connection")
            count -= skipped

    def accept_store(self, command: Mapping[int, bytes], context_id: int) -> None:
        """Answer a C-STORE-RQ with Success."""
        self.send(
            command_pdu(
                {
                    AFFECTED_SOP_CLASS_UID: command[AFFECTED_SOP_CLASS_UID].decode(),
                    COMMAND_FIELD: _C_STORE_RSP,
                    MESSAGE_ID_BEING_RESPONDED_TO: us(command[MESSAGE_ID]),
                    COMMAND_DATA_SET_TYPE: NO_DATA_SET,
                    STATUS: 0,
                    AFFECTED_SOP_INSTANCE_UID: command[AFFECTED_SOP_INSTANCE_UID].decode(),
                },
                context_id,
            )
        )

    def close(self) -> None:
        """Close the connection whatever state the association is in."""
        self._sock.close()

    def _read_pdu(self) -> tuple[int, bytes]:
        self._have(6)
        kind, length = struct.unpack_from(">BxI", self._received)
        self._have(6 + length)
        body = bytes(self._received[6 : 6 + length])
        del self._received[: 6 + length]
        return kind, body

    def _have(self, count: int) -> None:
        while len(self._received) < count:
            # The kernel forgets this soon, so it is told each time.
            if hasattr(socket, "TCP_QUICKACK"):
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            received = self._sock.recv(self._read_bytes)
            if not received:
                raise PeerFailed("closed the connection")
            self._received += received


class Association(Connection):
    """An association that we ask for, with one presentation context.

    Attributes:
        fragment_bytes: longest fragment that the acceptor takes, at most ours
    """

    def __init__(  # noqa: PLR0913 - where to, and what for
        self,
        host: str,
        port: int,
        called_aet: str,
        *,
        abstract_syntax: str,
        transfer_syntax: str,
        receives: tuple[str, str] | None = None,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        """Associate, or raise `PeerFailed`. No answer may take longer than `answer_seconds`.

        `receives` is a storage class to be the SCP of, in one transfer syntax, on a second context.
        """
        sock = socket.create_connection((host, port), timeout=answer_seconds)
        super().__init__(sock, 64 * 1024 if receives is None else THROWING_AWAY_BYTES)
        self.send(_associate_rq(called_aet, abstract_syntax, transfer_syntax, receives))
        kind, answer = self._read_pdu()
        if kind != _ASSOCIATE_AC:
            self.close()
            raise PeerFailed(f"answered the association request with a PDU of type {kind}")
        longest = min(_max_pdu_bytes(answer) or MAX_PDU_BYTES, MAX_PDU_BYTES)
        self.fragment_bytes = longest - FRAGMENT_OVERHEAD_BYTES

    def read_response(self) -> Mapping[int, bytes]:
        """Read a response without a data set; return the values of its command set by element."""
        kind, body = self._read_pdu()
        if kind != _P_DATA_TF:
            raise PeerFailed(f"answered a request with a PDU of type {kind}")
        if body[5] != COMMAND | LAST:
            raise PeerFailed("answered a request with something else than a command in one piece")
        values = _values(body)
        if STATUS not in values:
            raise PeerFailed("answered a request without a status")
        return values

    def release(self) -> None:
        """Release the association and close the connection."""
        with self._sock:
            self.send(struct.pack(">BxI4x", _RELEASE_RQ, 4))
            kind, _ = self._read_pdu()
        if kind != _RELEASE_RP:
            raise PeerFailed(f"answered a release request with a PDU of type {kind}")


class AcceptedAssociation(Connection):
    """An association that we were asked for; every instance that comes is thrown away."""

    def __init__(self, sock: socket.socket) -> None:
        """Accept every context in the first transfer syntax that is offered, or `PeerFailed`."""
        super().__init__(sock, THROWING_AWAY_BYTES)
        kind, request = self._read_pdu()
        if kind != _ASSOCIATE_RQ:
            raise PeerFailed(f"began with a PDU of type {kind}")
        self.send(_associate_ac(request))

    def discard(self) -> bool:
        """Take an instance and answer; False when a release was asked for instead, and agreed."""
        kind, body = self._read_pdu()
        if kind == _RELEASE_RQ:
            self.send(struct.pack(">BxI4x", _RELEASE_RP, 4))
            return False
        command = _values(body)
        if kind != _P_DATA_TF or us(command[COMMAND_FIELD]) != C_STORE_RQ:
            raise PeerFailed(f"sent a PDU of type {kind} that is no C-STORE-RQ in one piece")
        self.skip_data_set()
        self.accept_store(command, context_id=body[4])
        return True


def _values(body: bytes) -> dict[int, bytes]:
    """Return the values of the command set in a PDU of one fragment, by element."""
    values = {}
    at = FRAGMENT_OVERHEAD_BYTES
    while at + 8 <= len(body):
        _, element, length = struct.unpack_from("<HHL", body, at)
        values[element] = body[at + 8 : at + 8 + length]
        at += 8 + length
    return values


def p_data(control: int, fragment: bytes, context_id: int = _CONTEXT_ID) -> bytes:
    """Encode a P-DATA-TF PDU of one fragment."""
    length = len(fragment)
    return (
        struct.pack(
            ">BxIIBB",
            _P_DATA_TF,
            length + FRAGMENT_OVERHEAD_BYTES,
            length + FRAGMENT_OVERHEAD_BYTES - 4,
            context_id,
            control,
        )
        + fragment
    )


def command_pdu(elements: Mapping[int, str | int], context_id: int = _CONTEXT_ID) -> bytes:
    """Encode a command set as a PDU; texts are UIDs, or AE titles of even length."""
    body = b"".join(element(number, value) for number, value in sorted(elements.items()))
    group_length = struct.pack("<HHLL", 0, 0, 4, len(body))
    return p_data(COMMAND | LAST, group_length + body, context_id)


def element(number: int, value: str | int, group: int = 0) -> bytes:
    """Encode an element in Implicit VR Little Endian: a US, or a text padded as a UI is."""
    encoded = struct.pack("<H", value) if isinstance(value, int) else value.encode("ascii")
    if len(encoded) % 2:
        encoded += b"\0"
    return struct.pack("<HHL", group, number, len(encoded)) + encoded


def us(value: bytes) -> int:
    """Decode a US."""
    return int.from_bytes(value[:2], "little")


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _context(context_id: int, abstract_syntax: str, transfer_syntax: str) -> bytes:
    return _item(
        _PRESENTATION_CONTEXT_ITEM,
        bytes([context_id, 0, 0, 0])
        + _item(_ABSTRACT_SYNTAX_ITEM, abstract_syntax.encode())
        + _item(_TRANSFER_SYNTAX_ITEM, transfer_syntax.encode()),
    )


def _associate_rq(
    called_aet: str, abstract_syntax: str, transfer_syntax: str, receives: tuple[str, str] | None
) -> bytes:
    contexts = _context(_CONTEXT_ID, abstract_syntax, transfer_syntax)
    user = _user_items()
    if receives is not None:
        contexts += _context(RECEIVING_CONTEXT_ID, *receives)
        uid = receives[0].encode()
        # SCU no, SCP yes; PS3.7 D.3.3.4.
        user += _item(_ROLE_SELECTION_ITEM, struct.pack(">H", len(uid)) + uid + b"\0\1")
    ae_titles = called_aet.ljust(16).encode() + CALLING_AET.ljust(16).encode()
    return _associate_pdu(_ASSOCIATE_RQ, ae_titles, contexts, user)


def _associate_ac(request: bytes) -> bytes:
    """Answer what follows the header of an A-ASSOCIATE-RQ, PS3.8 9.3.3."""
    contexts = b""
    for kind, proposed in _items(request[_ITEMS_OFFSET:]):
        if kind == _PRESENTATION_CONTEXT_ITEM:
            syntaxes = dict(reversed(_items(proposed[_CONTEXT_ITEMS_OFFSET:])))
            contexts += _item(
                _PRESENTATION_CONTEXT_ANSWER_ITEM,
                bytes([proposed[0], 0, 0, 0])
                + _item(_TRANSFER_SYNTAX_ITEM, syntaxes[_TRANSFER_SYNTAX_ITEM]),
            )
    return _associate_pdu(_ASSOCIATE_AC, request[_AE_TITLES], contexts, _user_items())


def _user_items() -> bytes:
    return _item(_MAXIMUM_LENGTH_ITEM, struct.pack(">I", MAX_PDU_BYTES)) + _item(
        _IMPLEMENTATION_CLASS_UID_ITEM, _IMPLEMENTATION_CLASS_UID.encode()
    )


def _associate_pdu(kind: int, ae_titles: bytes, contexts: bytes, user: bytes) -> bytes:
    body = (
        struct.pack(">Hxx", 1)
        + ae_titles
        + bytes(32)
        + _item(_APPLICATION_CONTEXT_ITEM, _APPLICATION_CONTEXT.encode())
        + contexts
        + _item(_USER_INFORMATION_ITEM, user)
    )
    return struct.pack(">BxI", kind, len(body)) + body


def _max_pdu_bytes(answer: bytes) -> int:
    """Return what the acceptor takes, 0 for no limit; raise `PeerFailed` without our context."""
    accepted = False
    longest = 0
    for kind, value in _items(answer[_ITEMS_OFFSET:]):
        if kind == _PRESENTATION_CONTEXT_ANSWER_ITEM:
            accepted = value[2] == 0
            if not accepted:
                break
        elif kind == _USER_INFORMATION_ITEM:
            for user_kind, user_value in _items(value):
                if user_kind == _MAXIMUM_LENGTH_ITEM:
                    (longest,) = struct.unpack(">I", user_value)
    if not accepted:
        raise PeerFailed("did not accept the presentation context")
    return longest


def _items(encoded: bytes) -> list[tuple[int, bytes]]:
    items = []
    at = 0
    while at + 4 <= len(encoded):
        kind, length = struct.unpack_from(">BxH", encoded, at)
        items.append((kind, encoded[at + 4 : at + 4 + length]))
        at += 4 + length
    return items
