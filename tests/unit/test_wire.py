"""The upper layer's state machine: each PDU in each state, and two of them against each other."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.pdu import RECEIVED, SENT, Pdu, State
from gateway.wire import AssociationAborted, Outcome, PeerTimeout, ProtocolViolation, Wire

READING = [
    State.DATA_TRANSFER,
    State.AWAITING_RELEASE_RP,
    State.COLLISION_ACCEPTOR_WAITS,
    State.COLLISION_REQUESTOR_WAITS,
]
SHORT = {Pdu.RELEASE_RQ, Pdu.RELEASE_RP, Pdu.ABORT, Pdu.ASSOCIATE_RJ}


def wire(sock: socket.socket, state: State, seconds: float = 5) -> Wire:
    return Wire(sock, state, max_pdu_bytes=4096, dimse_seconds=seconds, artim_seconds=seconds)


@contextmanager
def connected(ours: State, theirs: State, seconds: float = 5) -> Iterator[tuple[Wire, Wire]]:
    left, right = socket.socketpair()
    with left, right:
        yield wire(left, ours, seconds), wire(right, theirs, seconds)


def pdu(kind: Pdu) -> bytes:
    if kind is Pdu.P_DATA_TF:
        return struct.pack(">BxIIBB", kind, 6, 2, 1, 2)
    return struct.pack(">BxI", kind, 4) + bytes(4)


@pytest.mark.parametrize("kind", list(Pdu))
@pytest.mark.parametrize("state", READING)
def test_each_pdu_leads_where_its_states_row_says_or_to_an_abort(state: State, kind: Pdu) -> None:
    left, right = socket.socketpair()
    with left, right:
        ours = wire(left, state)
        right.sendall(pdu(kind))
        expected = RECEIVED[state].get(kind)
        ours.begin_message()
        if expected is None:
            with pytest.raises(ProtocolViolation):
                ours._next_pdu()
            assert ours.state is State.AWAITING_CLOSE
            assert right.recv(10) == struct.pack(">BxIxxBB", 7, 4, 2, 2)
        elif kind is Pdu.ABORT:
            with pytest.raises(AssociationAborted) as aborted:
                ours._next_pdu()
            assert aborted.value.outcome is Outcome.ABORTED_BY_PEER
            assert ours.state is State.CLOSED
        else:
            assert ours._next_pdu() == (kind, 6 if kind is Pdu.P_DATA_TF else 4)
            assert ours.state is expected


def test_every_state_that_is_entered_is_left() -> None:
    entered = {state for row in (*RECEIVED.values(), *SENT.values()) for state in row.values()}
    at_rest = {State.CLOSED, State.AWAITING_CLOSE}
    assert entered - at_rest <= set(RECEIVED) | set(SENT)
    assert all(Pdu.ABORT in row for row in RECEIVED.values())
    assert all(Pdu.ABORT in row for state, row in SENT.items() if state is not State.CONNECTED)


def _release(ours: Wire, theirs: Wire) -> None:
    """Release, where the other side agrees to it."""

    def answer() -> None:
        theirs.begin_message()
        assert theirs.next_pdv() is None
        theirs.answer_release()

    thread = threading.Thread(target=answer)
    thread.start()
    ours.release()
    thread.join()


def test_a_release_takes_both_sides_to_their_ends() -> None:
    with connected(State.DATA_TRANSFER, State.DATA_TRANSFER) as (ours, theirs):
        _release(ours, theirs)
        assert (ours.state, theirs.state) == (State.CLOSED, State.AWAITING_CLOSE)


def test_releases_that_collide_take_both_sides_to_their_ends() -> None:
    with connected(State.DATA_TRANSFER, State.CONNECTED) as (acceptor, requestor):
        requestor.state = State.DATA_TRANSFER
        thread = threading.Thread(target=acceptor.release)
        thread.start()
        requestor.release()
        thread.join()
        assert (requestor.state, acceptor.state) == (State.CLOSED, State.AWAITING_CLOSE)


def test_data_that_crosses_our_release_is_thrown_away() -> None:
    with connected(State.DATA_TRANSFER, State.DATA_TRANSFER) as (ours, theirs):
        theirs.set_peer_max_pdu(4096)
        theirs.send_message(1, b"\0" * 100, [b"\1" * 10_000])
        _release(ours, theirs)
        assert ours.state is State.CLOSED


def test_nothing_is_sent_after_an_abort() -> None:
    with connected(State.DATA_TRANSFER, State.DATA_TRANSFER) as (ours, theirs):
        ours.abort()
        with pytest.raises(AssociationAborted):
            ours.send_message(1, b"command")
        with pytest.raises(AssociationAborted):
            ours.send_messages(1, b"command", [b"data"])
        ours.abort()
        theirs.begin_message()
        with pytest.raises(AssociationAborted):
            theirs.next_pdv()


@pytest.mark.parametrize(
    ("limit", "most"), [(0, 131072), (4096, 4096), (16385, 16384), (1 << 30, 131072), (7, 70)]
)
def test_pdus_are_no_longer_than_the_peer_takes_nor_than_is_good(limit: int, most: int) -> None:
    left, right = socket.socketpair()
    with left, right:
        ours = wire(left, State.DATA_TRANSFER)
        ours.set_peer_max_pdu(limit)
        thread = threading.Thread(target=ours.send_message, args=(1, b"co", [bytes(300_000)]))
        thread.start()
        lengths: list[int] = []
        control = 0
        with right.makefile("rb") as stream:
            while control != 2:
                _, length = struct.unpack(">BxI", stream.read(6))
                control = stream.read(length)[5]
                lengths.append(length)
        thread.join()
        assert max(lengths) == most
        assert sum(lengths) - 6 * len(lengths) == 300_002


@pytest.mark.parametrize("limit", [0, 4096, 7])
def test_messages_that_are_sent_together_come_as_if_sent_one_by_one(limit: int) -> None:
    data_sets = [bytes([number]) * length for number, length in enumerate((300, 2, 4090, 9001, 63))]
    received = []
    for together in (True, False):
        left, right = socket.socketpair()
        with left, right:
            ours = wire(left, State.DATA_TRANSFER)
            ours.set_peer_max_pdu(limit)
            if together:
                ours.send_messages(1, b"command", data_sets)
            else:
                for data in data_sets:
                    ours.send_message(1, b"command", data)
            left.shutdown(socket.SHUT_WR)
            with right.makefile("rb") as stream:
                received.append(stream.read())
            assert ours.bytes_sent == len(received[-1])
    assert received[0] == received[1]


def test_cutting_wakes_a_thread_that_waits_and_tells_the_peer() -> None:
    with connected(State.DATA_TRANSFER, State.DATA_TRANSFER) as (ours, theirs):
        timer = threading.Timer(0.1, ours.cut, ["the gateway stops", 0])
        timer.start()
        assert ours.wait(5)
        ours.begin_message()
        with pytest.raises(AssociationAborted, match="the gateway stops"):
            ours.next_pdv()
        timer.join()
        theirs.begin_message()
        with pytest.raises(AssociationAborted, match="aborted"):
            theirs.next_pdv()


def test_cutting_lets_a_write_that_runs_end_and_then_tells_the_peer() -> None:
    left, right = socket.socketpair()
    with left, right, right.makefile("rb") as received:
        ours = wire(left, State.DATA_TRANSFER, 30)
        data = b"\0" * (8 << 20)  # more than the connection holds
        writer = threading.Thread(target=lambda: ours.send_messages(1, b"", [data]))
        writer.start()
        first = received.read(1)
        cutter = threading.Thread(target=lambda: ours.cut("the gateway stops", 30))
        cutter.start()
        pdus = [struct.unpack(">BxI", first + received.read(5))]
        while pdus[-1][0] == Pdu.P_DATA_TF:
            received.read(pdus[-1][1])
            pdus.append(struct.unpack(">BxI", received.read(6)))
        assert pdus[-1] == (Pdu.ABORT, 4)
        assert received.read() == bytes(4)
        assert sum(length - 6 for _, length in pdus[:-1]) == len(data)
        writer.join()
        cutter.join()


def test_cutting_what_is_closed_already_does_nothing() -> None:
    with connected(State.DATA_TRANSFER, State.DATA_TRANSFER) as (ours, _):
        ours.close()
        ours.cut("the gateway stops", 0)


def test_an_abort_between_two_writes_of_a_message_comes_between_two_pdus() -> None:
    left, right = socket.socketpair()
    with left, right, right.makefile("rb") as received:
        ours = wire(left, State.DATA_TRANSFER, 30)
        ours.set_peer_max_pdu(4096)

        def pieces() -> Iterator[bytes]:
            for _ in range(12_000):  # of 100 bytes: more than is sent at once
                yield bytes(100)
            ours.cut("the gateway stops", 30)
            while True:
                yield bytes(100)

        def send() -> None:
            with pytest.raises(AssociationAborted, match="the gateway stops"):
                ours.send_message(1, b"command", pieces())

        writer = threading.Thread(target=send)
        writer.start()
        kinds = []
        while header := received.read(6):
            kind, length = struct.unpack(">BxI", header)
            assert len(received.read(length)) == length
            kinds.append(kind)
        writer.join()
        assert set(kinds[:-1]) == {Pdu.P_DATA_TF}
        assert len(kinds) > 250
        assert kinds[-1] == Pdu.ABORT


def test_waiting_ends_when_the_wake_is_readable_and_only_once() -> None:
    left, right = socket.socketpair()
    wake, waker = socket.socketpair()
    with left, right, wake, waker:
        ours = Wire(
            left,
            State.DATA_TRANSFER,
            max_pdu_bytes=4096,
            dimse_seconds=5,
            artim_seconds=5,
            wake=wake.fileno(),
        )
        waker.send(b"\0")
        assert not ours.wait(5)
        right.send(b"\x04")
        assert ours.wait(5)


def test_peeking_finds_a_whole_fragment_and_leaves_the_rest() -> None:
    with connected(State.DATA_TRANSFER, State.DATA_TRANSFER) as (ours, theirs):
        assert ours.peek_fragment() is None
        theirs.send_message(5, b"cancel")
        peeked = None
        while peeked is None:
            peeked = ours.peek_fragment()
        pdv, view = peeked
        assert (pdv, bytes(view)) == ((5, 3, 6), b"cancel")
        assert ours.peek_fragment() is not None
        ours.drop_peeked(pdv)
        assert ours.peek_fragment() is None


def test_peeking_notices_that_the_peer_has_gone() -> None:
    with connected(State.DATA_TRANSFER, State.DATA_TRANSFER) as (ours, theirs):
        theirs.abort()
        with pytest.raises(AssociationAborted):  # noqa: PT012 - it may take a moment to arrive
            while True:
                ours.peek_fragment()


def test_a_peer_that_stops_reading_is_not_waited_for() -> None:
    with connected(State.DATA_TRANSFER, State.DATA_TRANSFER, seconds=0.2) as (ours, _):
        with pytest.raises(PeerTimeout, match="does not read"):
            ours.send_message(1, b"c", [bytes(50_000_000)])
        assert ours.state is State.AWAITING_CLOSE


def test_what_our_own_disk_takes_is_not_the_peers_time() -> None:
    left, right = socket.socketpair()
    with left, right:
        ours = wire(left, State.DATA_TRANSFER, seconds=0.4)
        ours.begin_message()
        right.sendall(struct.pack(">BxIIBB", Pdu.P_DATA_TF, 306, 302, 1, 2))
        assert ours.next_pdv() is not None
        for _ in range(3):
            right.sendall(b"\1" * 100)
            assert len(ours.take(100)) == 100
            # As long as a disk may stall; the message goes on.
            time.sleep(0.5)
        assert ours.state is State.DATA_TRANSFER
