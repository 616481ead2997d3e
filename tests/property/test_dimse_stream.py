"""However a message is cut into PDUs, PDVs and segments it arrives whole, and no bytes break us."""

import socket
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.association import Limits
from gateway.command_set import CommandField, CommandSet, encode
from gateway.messages import BufferSink, Message, MessageExchange, PresentationContext
from gateway.pdu import State
from gateway.server import Server
from gateway.wire import Wire
from tests.peers.dimse import (
    ABORT,
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RQ,
    VERIFICATION,
    Keep,
    RawPeer,
    associate_rq,
    echo_rq,
    p_data,
    serving,
    store_rq_command,
)

CONTEXT = PresentationContext(3, CT, EXPLICIT)
MAX_PDU_BYTES = 4096


def wire(sock: socket.socket) -> Wire:
    return Wire(
        sock,
        State.DATA_TRANSFER,
        max_pdu_bytes=MAX_PDU_BYTES,
        dimse_seconds=10,
        artim_seconds=10,
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at places, which may be anywhere."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@given(
    data=st.binary(max_size=3000),
    fragment_places=st.lists(st.integers(0, 1 << 20), max_size=8),
    pdus=st.lists(st.integers(1, 4), min_size=12, max_size=12),
    segment_places=st.lists(st.integers(0, 1 << 20), max_size=12),
)
def test_a_message_arrives_whole_however_it_is_cut(
    data: bytes, fragment_places: list[int], pdus: list[int], segment_places: list[int]
) -> None:
    command = store_rq_command()
    pieces = cut(command, fragment_places[:3])
    values = [
        (3, 3 if number == len(pieces) - 1 else 1, piece) for number, piece in enumerate(pieces)
    ]
    pieces = cut(data, fragment_places[3:])
    values += [
        (3, 2 if number == len(pieces) - 1 else 0, piece) for number, piece in enumerate(pieces)
    ]
    stream = b""
    for count in pdus:
        if values:
            stream += p_data(*values[:count])
            values = values[count:]
    stream += b"".join(p_data(value) for value in values)

    left, right = socket.socketpair()
    with left, right:

        def send() -> None:
            for segment in cut(stream, segment_places):
                right.sendall(segment)

        thread = threading.Thread(target=send)
        thread.start()
        exchange = MessageExchange(wire(left), {3: CONTEXT})
        arrival = exchange.receive(lambda _: BufferSink())
        thread.join()
    assert arrival is not None
    assert arrival.message.command.affected_sop_instance_uid == "1.2.3.4"
    assert arrival.message.data == data


@given(
    data=st.binary(max_size=20_000),
    chunk_places=st.lists(st.integers(0, 1 << 20), max_size=6),
    max_pdu_bytes=st.integers(0, 5000),
)
def test_what_one_side_sends_the_other_receives(
    data: bytes, chunk_places: list[int], max_pdu_bytes: int
) -> None:
    left, right = socket.socketpair()
    with left, right:
        sender = wire(right)
        sender.set_peer_max_pdu(min(max_pdu_bytes or MAX_PDU_BYTES, MAX_PDU_BYTES))
        sending = MessageExchange(sender, {3: CONTEXT})
        receiving = MessageExchange(wire(left), {3: CONTEXT})
        command = CommandSet(CommandField.C_STORE_RQ, message_id=1)
        chunks = [memoryview(chunk) for chunk in cut(data, chunk_places)]
        thread = threading.Thread(target=sending.send, args=(CONTEXT, command, chunks))
        thread.start()
        arrival = receiving.receive(lambda _: BufferSink())
        thread.join()
    assert arrival is not None
    # No fragment may be odd, PS3.8 E.1.
    assert arrival.message == Message(command, CONTEXT, data + bytes(len(data) % 2))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    limits = Limits(max_associations=50, dimse_seconds=0.3, artim_seconds=0.3, idle_seconds=0.3)
    with serving({CommandField.C_STORE_RQ: Keep()}, limits=limits) as server:
        yield server


REQUEST = associate_rq([(1, VERIFICATION, [IMPLICIT]), (3, CT, [EXPLICIT])])
STORE = p_data((3, 3, store_rq_command())) + p_data((3, 0, b"1234"), (3, 2, b"5678"))
CANCEL = p_data(
    (3, 3, encode(CommandSet(CommandField.C_CANCEL_RQ, message_id_being_responded_to=1)))
)
pdus = st.sampled_from([REQUEST, echo_rq(), STORE, CANCEL, RELEASE_RQ, ABORT])
mutations = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.one_of(st.binary(max_size=4), st.just(b"\xff" * 4))),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(tail=st.lists(pdus, max_size=5), changes=mutations, raw=st.binary(max_size=50))
def test_no_stream_of_mutated_pdus_harms_the_next_client(
    server: Server, tail: list[bytes], changes: list[tuple[int, bytes]], raw: bytes
) -> None:
    stream = bytearray(REQUEST + b"".join(tail) + raw)
    for anywhere, replacement in changes:
        place = anywhere % len(stream)
        stream[place : place + len(replacement)] = replacement
    with RawPeer.connect(server) as hostile:
        try:
            hostile.send(bytes(stream))
            hostile.sock.shutdown(socket.SHUT_WR)
            while hostile.sock.recv(65536):
                pass
        except ConnectionError:
            pass
    with RawPeer.associate(server) as good:
        good.send(echo_rq())
        assert good.read_response().status == 0
        good.release()
