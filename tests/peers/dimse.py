"""The gateway's DIMSE server in this process, a service that remembers, and a raw peer for it."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from gateway.acceptance import AccessPolicy
from gateway.association import Acceptance, Association, Limits, Service
from gateway.command_set import CommandField, CommandSet, decode, encode
from gateway.messages import BufferSink, DataSetSink, Message
from gateway.offers import Offer
from gateway.ports import Ports
from gateway.server import Server, Slots
from gateway.verification import VerificationService
from lenticular.nodes import Node
from lenticular.settings import Access

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"

SYNTAXES = frozenset({IMPLICIT, EXPLICIT, JPEG_LOSSLESS})
OFFERS = {
    VERIFICATION: Offer(SYNTAXES),
    CT: Offer(SYNTAXES, permission="store", scp_permission="move"),
    MR: Offer(SYNTAXES, permission="store"),
    STUDY_ROOT_FIND: Offer(frozenset({IMPLICIT, EXPLICIT}), permission="find"),
    STUDY_ROOT_GET: Offer(frozenset({IMPLICIT, EXPLICIT}), permission="move"),
}

DEFAULT_LIMITS = Limits()


class Keep:
    """A C-STORE service that remembers what it got."""

    failure_status = 0xA702

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.commands: list[CommandSet] = []
        self.associations: list[Association] = []

    def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002
        """Take the data set into memory."""
        return BufferSink()

    def handle(self, association: Association, message: Message, sink: DataSetSink | None) -> None:
        """Remember and answer Success."""
        assert isinstance(sink, BufferSink)
        assert message.data is not None
        self.data.append(message.data)
        self.commands.append(message.command)
        self.associations.append(association)
        association.send_response(message.context, message.command.response(0))


def policy(
    *nodes: Node,
    access: Access = "open",
    offers: Mapping[str, Offer] = OFFERS,
    syntaxes: str | tuple[str, ...] = "prefer-explicit",
    unknown: Offer | None = None,
) -> AccessPolicy:
    """Make a policy of a node LENTICULAR that knows `nodes`."""
    return AccessPolicy(
        ae_title="LENTICULAR",
        access=access,
        find_node={node.aet: node for node in nodes}.get,
        offers=offers,
        transfer_syntax_policy=syntaxes,
        offer_for_unknown=unknown,
    )


@contextmanager
def serving(  # noqa: PLR0913 - each is as in production unless a test says
    services: Mapping[int, Service] | None = None,
    *,
    acceptance: Acceptance | None = None,
    limits: Limits = DEFAULT_LIMITS,
    tls_context: Callable[[], ssl.SSLContext] | None = None,
    ports: Ports | None = None,
    slots: Slots | None = None,
) -> Iterator[Server]:
    """Serve on a free port of this machine, and one for TLS if wanted, until the block is left."""
    server = Server(
        ports or Ports.open("127.0.0.1", 0, None if tls_context is None else 0),
        acceptance=acceptance or policy(),
        services={CommandField.C_ECHO_RQ: VerificationService(), **(services or {})},
        limits=limits,
        tls_context=tls_context,
        slots=slots,
    )
    server.start()
    try:
        yield server
    finally:
        server.close()


def association_threads() -> list[threading.Thread]:
    """Return the threads that serve an association."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("association-")]


def item(kind: int, value: bytes) -> bytes:
    """Encode an item of an association PDU."""
    return struct.pack(">BxH", kind, len(value)) + value


def associate_rq(  # noqa: PLR0913 - every field of the PDU may be wrong
    contexts: Iterable[tuple[int, str, Iterable[str]]] = ((1, VERIFICATION, (IMPLICIT,)),),
    *,
    calling: str = "RAW",
    called: str = "LENTICULAR",
    version: int = 1,
    application_context: str = "1.2.840.10008.3.1.1.1",
    max_pdu_bytes: int = 16384,
    more: bytes = b"",
    more_user: bytes = b"",
) -> bytes:
    """Encode an A-ASSOCIATE-RQ without any of our own code."""
    items = item(0x10, application_context.encode())
    for context_id, abstract, transfers in contexts:
        items += item(
            0x20,
            bytes([context_id, 0, 0, 0])
            + item(0x30, abstract.encode())
            + b"".join(item(0x40, transfer.encode()) for transfer in transfers),
        )
    user = item(0x51, struct.pack(">I", max_pdu_bytes)) + item(0x52, b"1.2.3") + more_user
    body = (
        struct.pack(">Hxx16s16s32x", version, called.ljust(16).encode(), calling.ljust(16).encode())
        + items
        + more
        + item(0x50, user)
    )
    return struct.pack(">BxI", 1, len(body)) + body


def p_data(*values: tuple[int, int, bytes]) -> bytes:
    """Encode a P-DATA-TF PDU of PDVs: context ID, control header, fragment."""
    body = b"".join(
        struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment
        for context_id, control, fragment in values
    )
    return struct.pack(">BxI", 4, len(body)) + body


RELEASE_RQ = struct.pack(">BxI4x", 5, 4)
RELEASE_RP = struct.pack(">BxI4x", 6, 4)
ABORT = struct.pack(">BxI4x", 7, 4)


def echo_rq(message_id: int = 1, context_id: int = 1) -> bytes:
    """Encode a whole C-ECHO-RQ."""
    command = CommandSet(
        CommandField.C_ECHO_RQ,
        message_id=message_id,
        affected_sop_class_uid=VERIFICATION,
        command_data_set_type=0x0101,
    )
    return p_data((context_id, 3, encode(command)))


def store_rq_command(message_id: int = 1, uid: str = "1.2.3.4") -> bytes:
    """Encode the command set of a C-STORE-RQ."""
    return encode(
        CommandSet(
            CommandField.C_STORE_RQ,
            message_id=message_id,
            affected_sop_class_uid=CT,
            affected_sop_instance_uid=uid,
            priority=0,
            command_data_set_type=0,
        )
    )


@dataclass
class RawPeer:
    """A peer that sends whatever a test likes."""

    sock: socket.socket
    answer: bytes = field(default=b"", init=False)

    @classmethod
    def connect(cls, server: Server, seconds: float = 10, *, host: str = "") -> Self:
        """Connect, as another `host` if wanted, and send nothing."""
        return cls(socket.create_connection(server.address, seconds, (host, 0) if host else None))

    @classmethod
    def connect_tls(cls, server: Server, context: ssl.SSLContext, seconds: float = 10) -> Self:
        """Connect to the TLS port and shake hands."""
        host, _ = server.tls_address
        plain = socket.create_connection(server.tls_address, timeout=seconds)
        try:
            return cls(context.wrap_socket(plain, server_hostname=host))
        except OSError:
            plain.close()
            raise

    @classmethod
    def associate(
        cls, server: Server, request: bytes | None = None, *, tls: ssl.SSLContext | None = None
    ) -> Self:
        """Connect, ask for an association and get it."""
        peer = cls.connect(server) if tls is None else cls.connect_tls(server, tls)
        peer.send(request or associate_rq())
        kind, peer.answer = peer.read_pdu()
        assert kind == 2, (kind, peer.answer)
        return peer

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def read_pdu(self) -> tuple[int, bytes]:
        """Read a whole PDU: its type and what follows its length."""
        header = self._exactly(6)
        return header[0], self._exactly(int.from_bytes(header[2:], "big"))

    def read_response(self) -> CommandSet:
        """Read a message that has a command in one fragment and no data set."""
        kind, body = self.read_pdu()
        assert kind == 4, (kind, body)
        return decode(body[6:])

    def read_abort(self) -> tuple[int, int]:
        """Read an A-ABORT: its source and reason."""
        kind, body = self.read_pdu()
        assert kind == 7, (kind, body)
        return body[2], body[3]

    def read_rejection(self) -> tuple[int, int, int]:
        """Read an A-ASSOCIATE-RJ: its result, source and reason."""
        kind, body = self.read_pdu()
        assert kind == 3, (kind, body)
        return body[1], body[2], body[3]

    def is_closed(self) -> bool:
        """Wait for the other side to close the connection."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def release(self) -> None:
        """Release the association and close."""
        self.send(RELEASE_RQ)
        assert self.read_pdu() == (6, b"\0\0\0\0")
        self.sock.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            assert piece, f"the connection closed after {data!r}"
            data += piece
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


@contextmanager
def raw_acceptor(play: Callable[[RawPeer], None]) -> Iterator[int]:
    """Accept one connection and let `play` misbehave on it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        sock, _ = listener.accept()
        sock.settimeout(10)
        with RawPeer(sock) as peer:
            play(peer)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join()
        listener.close()
