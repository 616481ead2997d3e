"""What a peer must not do ends its association with the right A-ABORT, and nobody else's."""

import logging
import socket
import ssl
import struct
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from gateway.association import Limits
from gateway.command_set import CommandField, CommandSet, encode
from gateway.server import OwnSlots
from tests.peers.dimse import (
    ABORT,
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RP,
    STUDY_ROOT_FIND,
    VERIFICATION,
    Keep,
    RawPeer,
    associate_rq,
    association_threads,
    echo_rq,
    p_data,
    serving,
    store_rq_command,
)

USER, PROVIDER = 0, 2
UNRECOGNIZED_PDU, UNEXPECTED_PDU, UNEXPECTED_PARAMETER, INVALID_VALUE = 1, 2, 5, 6
ECHO = encode(CommandSet(CommandField.C_ECHO_RQ, message_id=1, command_data_set_type=0x0101))
CONTEXTS = associate_rq([(1, VERIFICATION, [IMPLICIT]), (3, CT, [EXPLICIT])])

VIOLATIONS = {
    "an unknown PDU type": (b"\x09\0\0\0\0\x04\0\0\0\0", PROVIDER, UNRECOGNIZED_PDU),
    "a second association request": (associate_rq(), PROVIDER, UNEXPECTED_PDU),
    "an acceptance": (b"\x02\0\0\0\0\x04\0\0\0\0", PROVIDER, UNEXPECTED_PDU),
    "a release response": (RELEASE_RP, PROVIDER, UNEXPECTED_PDU),
    "a PDU of 4 GiB": (b"\x04\0\xff\xff\xff\xff", PROVIDER, INVALID_VALUE),
    "a PDU one byte over the limit": (struct.pack(">BxI", 4, 131073), PROVIDER, INVALID_VALUE),
    "a release request of 4 GiB": (b"\x05\0\xff\xff\xff\xff", PROVIDER, INVALID_VALUE),
    "a PDV of 4 GiB": (
        struct.pack(">BxIIBB", 4, 100, 0xFFFFFFFF, 1, 3),
        PROVIDER,
        INVALID_VALUE,
    ),
    "a PDV longer than its PDU": (
        struct.pack(">BxIIBB", 4, 100, 97, 1, 3),
        PROVIDER,
        INVALID_VALUE,
    ),
    "a PDV without control header": (
        struct.pack(">BxIIBB", 4, 6, 1, 1, 3),
        PROVIDER,
        INVALID_VALUE,
    ),
    "a PDU with half a PDV header": (
        struct.pack(">BxIIBB", 4, 9, 2, 1, 1) + b"abc",
        PROVIDER,
        INVALID_VALUE,
    ),
    "a PDU without a PDV": (b"\x04\0\0\0\0\0", PROVIDER, INVALID_VALUE),
    "a context that was not accepted": (p_data((5, 3, ECHO)), PROVIDER, INVALID_VALUE),
    "a data set without its command": (p_data((1, 2, b"abcd")), PROVIDER, UNEXPECTED_PARAMETER),
    "a data set within a command": (
        p_data((1, 1, ECHO[:20]), (1, 2, b"abcd")),
        PROVIDER,
        UNEXPECTED_PARAMETER,
    ),
    "a command within a data set": (
        p_data((3, 3, store_rq_command()), (3, 0, b"abcd"), (3, 3, ECHO)),
        PROVIDER,
        UNEXPECTED_PARAMETER,
    ),
    "a message that changes its context": (
        p_data((3, 3, store_rq_command()), (1, 2, b"abcd")),
        PROVIDER,
        UNEXPECTED_PARAMETER,
    ),
    "a command that is none": (p_data((1, 3, b"\xff" * 40)), USER, 0),
    "a command of more than 64 KiB": (p_data((1, 1, b"\0" * 65537)), USER, 0),
    "a response to nothing": (
        p_data((1, 3, encode(CommandSet(0x8030, message_id_being_responded_to=1, status=0)))),
        USER,
        0,
    ),
}


def our_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what we warned of; pydicom has warnings of its own, which production silences."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("gateway")
    ]


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_is_aborted_once_named_once_and_harms_nobody(
    violation: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent, source, reason = VIOLATIONS[violation]
    keep = Keep()
    with (
        serving({CommandField.C_STORE_RQ: keep}) as server,
        RawPeer.associate(server) as good,
        RawPeer.associate(server, CONTEXTS) as bad,
    ):
        bad.send(sent)
        assert bad.read_abort() == (source, reason)
        good.send(echo_rq())
        assert good.read_response().status == 0
        good.release()
        bad.sock.close()
        server.drain(10)
    assert not keep.data
    assert our_warnings(caplog) == ["association aborted"]


@pytest.mark.parametrize(
    "first_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        p_data((1, 3, ECHO)),
        b"\x01\0\xff\xff\xff\xff",
        b"\x01\0\0\x04\0\x01",
        b"\x01\0\0\0\0\x10",
    ],
    ids=["HTTP", "TLS", "data", "4 GiB", "256 KiB and 1", "too short"],
)
def test_what_is_no_association_request_is_aborted(first_bytes: bytes) -> None:
    with serving() as server, RawPeer.connect(server) as peer:
        peer.send(first_bytes)
        assert peer.read_abort() == (USER, 0)
        assert server.active_associations == 0


def test_an_abort_instead_of_a_request_closes_the_connection() -> None:
    with serving() as server, RawPeer.connect(server) as peer:
        peer.send(ABORT)
        assert peer.is_closed()


@pytest.mark.parametrize(
    "request_pdu",
    [
        associate_rq([(1, VERIFICATION, [IMPLICIT]), (1, CT, [IMPLICIT])]),
        associate_rq([(2, VERIFICATION, [IMPLICIT])]),
        associate_rq(calling=" " * 16),
        associate_rq(more=b"\x20\0\xff\xff"),
        associate_rq(more_user=b"\x53\0\x00\x02\0\1"),
        associate_rq([(1, "1" * 65, [IMPLICIT])]),
    ],
    ids=["an ID twice", "even ID", "no AE title", "item too long", "short item", "long UID"],
)
def test_a_request_that_cannot_be_read_is_aborted(
    request_pdu: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as server, RawPeer.connect(server) as peer:
        peer.send(request_pdu)
        assert peer.read_abort() == (PROVIDER, INVALID_VALUE)
        server.drain(10)
        assert server.active_associations == 0
    assert our_warnings(caplog) == ["association request not understood"]


def test_items_of_the_future_are_skipped() -> None:
    request = associate_rq(more=b"\x7f\0\0\x03abc", more_user=b"\x5f\0\0\x01x\x99\0\0\0")
    with serving() as server, RawPeer.associate(server, request) as peer:
        peer.send(echo_rq())
        assert peer.read_response().status == 0
        peer.release()


def test_length_fields_do_not_make_memory_grow() -> None:
    keep = Keep()
    with serving({CommandField.C_STORE_RQ: keep}, limits=Limits(max_associations=50)) as server:
        peers = [RawPeer.associate(server, CONTEXTS) for _ in range(20)]
        tracemalloc.start()
        try:
            for number, peer in enumerate(peers):
                sent, *_ = VIOLATIONS[["a PDU of 4 GiB", "a PDV of 4 GiB"][number % 2]]
                peer.send(sent)
            for peer in peers:
                assert peer.read_abort()[0] == PROVIDER
                peer.sock.close()
            server.drain(10)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 4 << 20


def test_a_byte_now_and_then_is_not_an_association_request() -> None:
    with (
        serving(limits=Limits(artim_seconds=0.5)) as server,
        RawPeer.connect(server) as slow,
        RawPeer.connect(server) as silent,
        RawPeer.associate(server) as good,
    ):
        closed = threading.Event()

        def dribble() -> None:
            pace = threading.Event()
            for byte in associate_rq():
                try:
                    slow.send(bytes([byte]))
                except OSError:
                    break
                pace.wait(0.05)
            closed.set()

        thread = threading.Thread(target=dribble)
        thread.start()
        assert silent.is_closed()
        assert slow.is_closed()
        thread.join()
        good.send(echo_rq())
        assert good.read_response().status == 0
        good.release()


def test_a_pause_within_a_message_is_aborted() -> None:
    limits = Limits(dimse_seconds=0.3)
    keep = Keep()
    with (
        serving({CommandField.C_STORE_RQ: keep}, limits=limits) as server,
        RawPeer.associate(server, CONTEXTS) as peer,
    ):
        peer.send(p_data((3, 3, store_rq_command()), (3, 0, b"half of it"))[:-4])
        assert peer.read_abort() == (USER, 0)
        server.drain(10)
    assert not keep.data


def test_a_byte_now_and_then_is_not_a_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    request = echo_rq()
    with (
        serving(limits=Limits(dimse_seconds=1.5)) as server,
        RawPeer.associate(server) as peer,
    ):
        # So often that no pause between two bytes is too long, even on a busy machine, and so few
        # at a time that the message has not come in time.
        pace = threading.Event()
        for byte in request:
            try:
                peer.send(bytes([byte]))
            except OSError:
                break
            pace.wait(2 / len(request))
        assert peer.read_abort() == (USER, 0)
        server.drain(10)
    assert any("too slow" in getattr(record, "reason", "") for record in caplog.records)


def test_a_peer_that_does_not_read_does_not_hold_a_service_up() -> None:
    class Flood:
        failure_status = 0xC000

        def __init__(self) -> None:
            self.gone = threading.Event()

        def begin(self, association, message):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, ARG002
            raise AssertionError

        def handle(self, association, message, sink):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, ARG002
            pending = CommandSet(0x8020, message_id_being_responded_to=1, status=0xFF00)
            try:
                while True:
                    association.send_response(message.context, pending, b"\0" * 60000)
            finally:
                self.gone.set()

    flood = Flood()
    find = CommandSet(CommandField.C_FIND_RQ, message_id=1, command_data_set_type=0x0101)
    with (
        serving({CommandField.C_FIND_RQ: flood}, limits=Limits(dimse_seconds=0.4)) as server,
        RawPeer.associate(server, associate_rq([(1, STUDY_ROOT_FIND, [IMPLICIT])])) as peer,
    ):
        peer.send(p_data((1, 3, encode(find))))
        assert flood.gone.wait(10)
        assert server.drain(10)


def test_probes_leave_no_line_and_take_no_slot(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(limits=Limits(max_associations=1)) as server:
        before = set(association_threads())
        for _ in range(200):
            RawPeer.connect(server).sock.close()
        with RawPeer.associate(server) as peer:
            assert len(set(association_threads()) - before) == 1
            peer.release()
    loud = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert {record.getMessage() for record in loud} <= {"association ended", "draining", "stopped"}


def test_a_crowd_of_silent_connections_does_not_keep_a_client_out() -> None:
    with serving() as server:
        crowd = [RawPeer.connect(server) for _ in range(400)]
        with RawPeer.associate(server) as peer:
            peer.send(echo_rq())
            assert peer.read_response().status == 0
            peer.release()
        assert sum(_closed_already(silent) for silent in crowd) >= 400 - 256
        for silent in crowd:
            silent.sock.close()


def test_a_crowd_from_elsewhere_does_not_push_out_who_is_about_to_ask() -> None:
    with serving() as server, ExitStack() as stack:
        # The way from the modality is long: its request comes after hundreds of connections.
        modality = stack.enter_context(RawPeer.connect(server))
        crowd = [stack.enter_context(RawPeer.connect(server, host="127.0.0.2")) for _ in range(400)]
        # One that is answered comes after all of them.
        with RawPeer.associate(server) as last:
            last.release()
        assert sum(map(_closed_already, crowd)) >= 400 - 256
        modality.send(associate_rq())
        assert modality.read_pdu()[0] == 2
        modality.release()


class Mistaken(OwnSlots):
    """Slots with a mistake that shows once."""

    def __init__(self) -> None:
        super().__init__(10)
        self._shown = False

    def ask(self, answer: Callable[[bool], None]) -> None:
        """Fail the first time."""
        if not self._shown:
            self._shown = True
            raise RuntimeError("a mistake of ours")
        super().ask(answer)


def test_a_mistake_of_ours_ends_the_connection_that_shows_it_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        serving(slots=Mistaken()) as server,
        RawPeer.connect(server) as waiting,
        RawPeer.connect(server) as unlucky,
    ):
        unlucky.send(associate_rq())
        assert unlucky.is_closed()
        waiting.send(associate_rq())
        assert waiting.read_pdu()[0] == 2
        waiting.release()
        RawPeer.associate(server).release()
    assert our_warnings(caplog) == ["connection failed"]


def test_a_mistake_of_ours_as_a_connection_comes_ends_that_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def mistaken() -> ssl.SSLContext:
        raise RuntimeError("a mistake of ours")

    with (
        serving(tls_context=mistaken) as server,
        RawPeer(socket.create_connection(server.tls_address, timeout=10)) as unlucky,
    ):
        assert unlucky.is_closed()
        RawPeer.associate(server).release()
    assert our_warnings(caplog) == ["connection failed"]


def _closed_already(peer: RawPeer) -> bool:
    peer.sock.setblocking(False)
    try:
        return peer.sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
