"""What the supervisor and its workers say to each other: packets on a Unix socket.

    supervisor                                       worker
        ASSOCIATE  connection, its A-ASSOCIATE-RQ ─▶          plain; its slot is taken
        HANDSHAKE  connection, unread             ─▶          of the TLS port
                                                 ◀─ ASK       for a slot, when its request is whole
        GRANT or REFUSE                           ─▶
                                                 ◀─ FREED     a slot, before the peer can know
        PING                                      ─▶
                                                 ◀─ READY     at first, and to each PING: why
                                                              instances are turned away, if so
        DRAIN      seconds                        ─▶
                                                 ◀─ FAILED    instead of READY: why, exit status

SOCK_SEQPACKET keeps packets whole and in order, and tells each side that the other has ended,
however it did. A connection travels as a descriptor (SCM_RIGHTS, unix(7)).
"""

import socket
import struct
from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from .pdu import ASSOCIATE_PDU_MAX_BYTES


class Kind(IntEnum):
    """What a packet is about."""

    ASSOCIATE = 1
    HANDSHAKE = 2
    ASK = 3
    GRANT = 4
    REFUSE = 5
    FREED = 6
    PING = 7
    READY = 8
    DRAIN = 9
    FAILED = 10


_HEADER: Final = struct.Struct("!BI")
#: The longest body is a peer's address and its A-ASSOCIATE-RQ.
_PACKET_MAX_BYTES: Final = ASSOCIATE_PDU_MAX_BYTES + 1024
_DESCRIPTOR: Final = "i"


class ChannelClosed(Exception):
    """The other side has ended."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One thing said; `number` and `body` are what its kind makes of them.

    `connection` is `None`, and the connection is gone, when this process had no descriptor left.
    """

    kind: Kind
    number: int
    body: bytes
    connection: socket.socket | None


class Channel:
    """One side's end. Any thread may send; one receives."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a socket of type SOCK_SEQPACKET."""
        #: Readable when there is something to receive.
        self.sock = sock
        # A longer packet than the buffer would never get through; the kernel doubles this.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PACKET_MAX_BYTES)

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """Return our end, and the socket of the other."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def send(
        self,
        kind: Kind,
        number: int = 0,
        body: bytes = b"",
        *,
        connection: socket.socket | None = None,
        wait: bool = False,
    ) -> None:
        """Say something; raises `OSError` when the other side has ended, or unless we `wait`,
        `BlockingIOError` when what it has not read yet leaves no room.
        """
        descriptors = [] if connection is None else [connection.fileno()]
        self.sock.sendmsg(
            [_HEADER.pack(kind, number), body],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array(_DESCRIPTOR, descriptors))]
            if descriptors
            else [],
            0 if wait else socket.MSG_DONTWAIT,
        )

    def receive(self, *, wait: bool = False) -> Packet | None:
        """Return what was said, `None` if nothing was; raises `ChannelClosed`."""
        try:
            data, ancillary, _, _ = self.sock.recvmsg(
                _HEADER.size + _PACKET_MAX_BYTES,
                socket.CMSG_SPACE(array(_DESCRIPTOR).itemsize),
                socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT),
            )
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelClosed from error
        if not data:
            raise ChannelClosed
        connection = None
        for _, _, descriptors in ancillary:
            (descriptor,) = array(_DESCRIPTOR, descriptors)
            connection = socket.socket(fileno=descriptor)
        kind, number = _HEADER.unpack_from(data)
        return Packet(Kind(kind), number, data[_HEADER.size :], connection)

    def close(self) -> None:
        """End."""
        self.sock.close()


def pack_arrival(address: tuple[str, int], request: bytes = b"") -> bytes:
    """Encode the body of ASSOCIATE and HANDSHAKE."""
    host, port = address
    return f"{host} {port}\n".encode() + request


def unpack_arrival(body: bytes) -> tuple[tuple[str, int], bytes]:
    """Decode what `pack_arrival` encoded."""
    address, _, request = body.partition(b"\n")
    host, _, port = address.decode().partition(" ")
    return (host, int(port)), request
