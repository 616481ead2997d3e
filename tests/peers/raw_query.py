"""A client of C-FIND and C-MOVE made of bytes: it can cancel in the breath it asks in.

It keeps nothing, and asks on whatever context it was given.
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from gateway.command_set import CommandField, CommandSet, decode, encode
from lenticular.dicom_json import JsonElement, read_data_set, write_data_set
from lenticular.query import read_keys
from tests.peers.dimse import EXPLICIT, STUDY_ROOT_FIND, RawPeer, associate_rq, p_data

PENDING: Final = frozenset({0xFF00, 0xFF01})
_CONTEXT: Final = 1
_NO_DATA_SET: Final = 0x0101
_COMMAND, _LAST = 1, 2


@dataclass(frozen=True)
class Response:
    """A response, and the identifier in it as it came."""

    command: CommandSet
    identifier: bytes | None

    def elements(self) -> dict[int, JsonElement]:
        """Read the identifier."""
        return read_data_set(self.identifier or b"", explicit=True, little_endian=True)


@dataclass
class Asker:
    """An association with one context."""

    peer: RawPeer
    message_id: int = 0

    @classmethod
    def associate(
        cls,
        host: str,
        port: int,
        called: str,
        *,
        model: str = STUDY_ROOT_FIND,
        calling: str = "RAW",
    ) -> Self:
        """Open it for one model, in Explicit VR Little Endian."""
        peer = RawPeer(socket.create_connection((host, port), timeout=120))
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.send(
            associate_rq(
                [(_CONTEXT, model, (EXPLICIT,))],
                calling=calling,
                called=called,
                max_pdu_bytes=1 << 17,
            )
        )
        kind, body = peer.read_pdu()
        if kind != 2:
            peer.sock.close()
        assert kind == 2, (kind, body)
        return cls(peer)

    def request(
        self,
        *keys: str,
        level: str = "STUDY",
        model: str = STUDY_ROOT_FIND,
        cancel: bool = False,
        operation: CommandField = CommandField.C_FIND_RQ,
        destination: str | None = None,
    ) -> None:
        """Ask, with keys as findscu takes them; with `cancel`, take it back in the same write."""
        elements = read_keys([f"QueryRetrieveLevel={level}", *keys])
        self.request_encoded(
            write_data_set(elements), model=model, cancel=cancel,
            operation=operation, destination=destination,
        )  # fmt: skip

    def request_encoded(
        self,
        identifier: bytes,
        *,
        model: str = STUDY_ROOT_FIND,
        cancel: bool = False,
        operation: CommandField = CommandField.C_FIND_RQ,
        destination: str | None = None,
    ) -> None:
        """Ask with an encoded identifier."""
        self.message_id += 1
        command = CommandSet(
            operation,
            message_id=self.message_id,
            affected_sop_class_uid=model,
            priority=0,
            command_data_set_type=0,
            move_destination=destination,
        )
        message = p_data((_CONTEXT, _COMMAND | _LAST, encode(command)))
        message += p_data((_CONTEXT, _LAST, identifier))
        if cancel:
            taken_back = CommandSet(
                CommandField.C_CANCEL_RQ,
                message_id_being_responded_to=self.message_id,
                command_data_set_type=_NO_DATA_SET,
            )
            message += p_data((_CONTEXT, _COMMAND | _LAST, encode(taken_back)))
        self.peer.send(message)

    def responses(self) -> Iterator[Response]:
        """Yield each response as it comes, the final one last."""
        command = None
        for control, fragment in self._values():
            if control & _COMMAND:
                command = decode(fragment)
                if command.command_data_set_type != _NO_DATA_SET:
                    continue
                yield Response(command, None)
            else:
                assert command is not None
                yield Response(command, fragment)
            if command.status not in PENDING:
                return

    def ask(self, *keys: str, level: str = "STUDY", model: str = STUDY_ROOT_FIND) -> list[Response]:
        """Ask, and return every response."""
        self.request(*keys, level=level, model=model)
        return list(self.responses())

    def _values(self) -> Iterable[tuple[int, bytes]]:
        """Yield whole messages' parts: command sets and identifiers, put together."""
        whole = b""
        while True:
            # A peer that writes a message in two goes waits for our acknowledgement of the first.
            self.peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            kind, body = self.peer.read_pdu()
            assert kind == 4, (kind, body)
            at = 0
            while at < len(body):
                length = int.from_bytes(body[at : at + 4], "big")
                control, fragment = body[at + 5], body[at + 6 : at + 4 + length]
                at += 4 + length
                whole += fragment
                if control & _LAST:
                    yield control, whole
                    whole = b""


@contextmanager
def asking(
    host: str, port: int, called: str, *, model: str = STUDY_ROOT_FIND, calling: str = "RAW"
) -> Iterator[Asker]:
    """Open an association and release it at the end."""
    asker = Asker.associate(host, port, called, model=model, calling=calling)
    with asker.peer:
        yield asker
        asker.peer.release()
