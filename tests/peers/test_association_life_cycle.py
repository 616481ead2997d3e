"""Slots, time-outs and draining, as a peer sees them."""

import logging
import resource
import socket
import threading
from contextlib import ExitStack

import pytest

from gateway.association import Association, Limits
from gateway.command_set import CommandField
from gateway.messages import BufferSink, DataSetSink, Message
from gateway.ports import Ports
from gateway.server import Server
from gateway.wire import AssociationAborted, Outcome
from tests.cloud.deadline import eventually
from tests.peers.dimse import (
    CT,
    EXPLICIT,
    RELEASE_RP,
    RELEASE_RQ,
    Keep,
    RawPeer,
    associate_rq,
    association_threads,
    echo_rq,
    p_data,
    policy,
    serving,
    store_rq_command,
)

CT_CONTEXT = associate_rq([(1, CT, [EXPLICIT])])
STORE = p_data((1, 3, store_rq_command()), (1, 2, b"data"))
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


def test_the_association_over_the_limit_is_refused_for_now() -> None:
    with serving(limits=Limits(max_associations=3)) as server, ExitStack() as stack:
        first, *_ = [stack.enter_context(RawPeer.associate(server)) for _ in range(3)]
        with RawPeer.connect(server) as fourth:
            fourth.send(associate_rq())
            assert fourth.read_rejection() == LOCAL_LIMIT_EXCEEDED
        first.release()
        RawPeer.associate(server).release()


def test_a_slot_is_free_before_the_peer_knows_that_its_association_ended() -> None:
    with serving(limits=Limits(max_associations=1)) as server:
        for _ in range(50):
            RawPeer.associate(server).release()
        with RawPeer.associate(server) as peer:
            peer.send(RELEASE_RQ)
            assert peer.read_pdu()[0] == 6
            # It may even keep its connection open.
            RawPeer.associate(server).release()


def test_a_peer_that_is_refused_takes_no_slot() -> None:
    acceptance = policy(access="known-aet")
    with (
        serving(acceptance=acceptance, limits=Limits(max_associations=1)) as server,
        RawPeer.connect(server) as stranger,
    ):
        stranger.send(associate_rq())
        assert stranger.read_rejection() == (1, 1, 3)
        assert server.active_associations == 0


def test_a_failing_policy_refuses_for_the_moment() -> None:
    class Unreachable:
        def decide(self, request):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, ARG002
            raise OSError("the table is away")

    with serving(acceptance=Unreachable()) as server, RawPeer.connect(server) as peer:
        peer.send(associate_rq())
        assert peer.read_rejection() == (2, 3, 1)


@pytest.mark.parametrize(
    ("request_pdu", "rejection"),
    [
        (associate_rq(version=2), (1, 2, 2)),
        (associate_rq(application_context="1.2.840.10008.3.1.1.2"), (1, 1, 2)),
    ],
    ids=["protocol version", "application context"],
)
def test_what_is_not_this_dicom_is_refused(
    request_pdu: bytes, rejection: tuple[int, int, int]
) -> None:
    with serving() as server, RawPeer.connect(server) as peer:
        peer.send(request_pdu)
        assert peer.read_rejection() == rejection


def test_an_idle_association_is_released_by_us(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving(limits=Limits(idle_seconds=0.2)) as server, RawPeer.connect(server) as peer:
        # At once, so that no pause of ours comes before the message.
        peer.send(associate_rq() + echo_rq())
        assert peer.read_pdu()[0] == 2
        assert peer.read_response().status == 0
        assert peer.read_pdu() == (5, b"\0\0\0\0")
        peer.send(RELEASE_RP)
        assert peer.is_closed()
        server.drain(10)
    (ended,) = [r for r in caplog.records if r.getMessage() == "association ended"]
    assert getattr(ended, "outcome", None) == "released by us, idle"
    assert getattr(ended, "messages", None) == {"C_ECHO_RQ": 1, "C_ECHO_RSP": 1}


def test_an_idle_association_is_aborted_where_the_setting_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    limits = Limits(idle_seconds=0.2, idle_end="abort")
    with serving(limits=limits) as server, RawPeer.connect(server) as peer:
        peer.send(associate_rq() + echo_rq())
        assert peer.read_pdu()[0] == 2
        assert peer.read_response().status == 0
        assert peer.read_abort() == (0, 0)
        assert server.active_associations == 0
        server.drain(10)
    (ended,) = [r for r in caplog.records if r.getMessage() == "association ended"]
    assert getattr(ended, "outcome", None) == "aborted by us, time-out"


def test_both_sides_may_ask_for_release_at_the_same_moment() -> None:
    with serving(limits=Limits(idle_seconds=0.2)) as server, RawPeer.associate(server) as peer:
        assert peer.read_pdu()[0] == 5
        # In a collision the requestor answers first, then the acceptor does (PS3.8 9.2.3, AR-8).
        peer.send(RELEASE_RQ)
        peer.send(RELEASE_RP)
        assert peer.read_pdu()[0] == 6
        assert server.drain(10)


def test_a_peer_that_does_not_answer_our_release_is_aborted_after_artim() -> None:
    limits = Limits(idle_seconds=0.1, artim_seconds=0.3)
    with serving(limits=limits) as server, RawPeer.associate(server) as peer:
        assert peer.read_pdu()[0] == 5
        assert peer.read_abort() == (0, 0)


def test_a_release_within_a_message_is_answered_and_the_message_forgotten() -> None:
    keep = Keep()
    with (
        serving({CommandField.C_STORE_RQ: keep}) as server,
        RawPeer.associate(server, CT_CONTEXT) as peer,
    ):
        peer.send(p_data((1, 3, store_rq_command()), (1, 0, b"half")))
        peer.release()
        server.drain(10)
    assert not keep.data


def test_two_messages_in_one_pdu_are_two_messages() -> None:
    keep = Keep()
    with (
        serving({CommandField.C_STORE_RQ: keep}) as server,
        RawPeer.associate(server, CT_CONTEXT) as peer,
    ):
        peer.send(
            p_data(
                (1, 1, store_rq_command()[:10]), (1, 3, store_rq_command()[10:]),
                (1, 0, b"12"), (1, 0, b""), (1, 2, b"34"),
                (1, 3, store_rq_command(2)), (1, 2, b"56"),
            )
        )  # fmt: skip
        assert peer.read_response().message_id_being_responded_to == 1
        assert peer.read_response().message_id_being_responded_to == 2
        peer.release()
    assert keep.data == [b"1234", b"56"]


def test_a_message_that_no_service_handles_is_answered_so() -> None:
    with serving() as server, RawPeer.associate(server, CT_CONTEXT) as peer:
        peer.send(STORE)
        assert peer.read_response().status == 0x0211
        peer.send(echo_rq())
        assert peer.read_response().status == 0
        peer.release()


def test_a_data_set_longer_than_its_service_takes_is_refused_and_read_to_its_end() -> None:
    class Small(Keep):
        def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002
            return BufferSink(100)

    with (
        serving({CommandField.C_STORE_RQ: Small()}) as server,
        RawPeer.associate(server, CT_CONTEXT) as peer,
    ):
        peer.send(p_data((1, 3, store_rq_command()), (1, 0, b"\0" * 99), (1, 2, b"\0" * 99)))
        assert peer.read_response().status == 0xA702
        peer.send(STORE)
        assert peer.read_response().status == 0
        peer.release()


class LosesAnother(Keep):
    """A service whose own association to somebody else breaks, as C-MOVE's may."""

    def handle(
        self,
        association: Association,  # noqa: ARG002
        message: Message,  # noqa: ARG002
        sink: DataSetSink | None,  # noqa: ARG002
    ) -> None:
        """Lose an association that is not the one served."""
        raise AssociationAborted("the destination is gone", Outcome.CONNECTION_LOST)


def test_losing_another_association_costs_one_message_and_not_this_one() -> None:
    with (
        serving({CommandField.C_STORE_RQ: LosesAnother()}) as server,
        RawPeer.associate(server, CT_CONTEXT) as peer,
    ):
        peer.send(STORE)
        assert peer.read_response().status == 0xA702
        peer.release()


class Gate(Keep):
    """A C-STORE service that answers when a test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.open = threading.Event()

    def handle(self, association: Association, message: Message, sink: DataSetSink | None) -> None:
        """Wait for the gate to be opened."""
        self.entered.set()
        assert self.open.wait(10)
        super().handle(association, message, sink)


def draining(server: Server, seconds: float) -> tuple[threading.Thread, list[bool]]:
    finished: list[bool] = []
    thread = threading.Thread(target=lambda: finished.append(server.drain(seconds)))
    thread.start()
    return thread, finished


def test_a_drain_takes_nobody_new_and_lets_the_running_finish() -> None:
    gate = Gate()
    limits = Limits(drain_idle_seconds=5)
    with (
        serving({CommandField.C_STORE_RQ: gate}, limits=limits) as server,
        RawPeer.associate(server, CT_CONTEXT) as peer,
        RawPeer.connect(server) as waiting,
    ):
        peer.send(STORE)
        assert gate.entered.wait(10)
        thread, finished = draining(server, 10)
        assert waiting.is_closed()
        with pytest.raises(ConnectionRefusedError):
            RawPeer.connect(server)
        gate.open.set()
        assert peer.read_response().status == 0
        # What is left of the study still comes in.
        peer.send(STORE)
        assert peer.read_response().status == 0
        peer.release()
        thread.join()
    assert finished == [True]
    assert len(gate.data) == 2


def test_a_drain_releases_associations_that_do_nothing() -> None:
    with (
        serving(limits=Limits(idle_seconds=600, drain_idle_seconds=0.1)) as server,
        RawPeer.associate(server) as peer,
    ):
        thread, finished = draining(server, 60)
        assert peer.read_pdu()[0] == 5
        peer.send(RELEASE_RP)
        thread.join()
    assert finished == [True]


def test_at_the_drains_deadline_what_still_runs_is_aborted_and_never_acknowledged() -> None:
    gate = Gate()
    with (
        serving({CommandField.C_STORE_RQ: gate}) as server,
        RawPeer.associate(server, CT_CONTEXT) as busy,
        RawPeer.associate(server) as idle,
    ):
        busy.send(STORE)
        assert gate.entered.wait(10)
        thread, finished = draining(server, 0.2)
        assert busy.read_abort() == (0, 0)
        assert idle.read_abort() == (0, 0)
        gate.open.set()
        assert busy.is_closed()
        thread.join()
    assert finished == [False]


def test_a_process_without_file_descriptors_takes_clients_again_when_it_has_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as server, RawPeer(socket.socket()) as peer:
        peer.sock.settimeout(10)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            peer.sock.connect(server.address)
            peer.send(associate_rq())
            eventually(lambda: "connections cannot be accepted" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert peer.read_pdu()[0] == 2
        peer.release()


def test_a_crowd_that_comes_at_once_pushes_out_nobody_who_has_asked() -> None:
    ports = Ports.open("127.0.0.1", 0)
    with ExitStack() as connections:
        peer = connections.enter_context(RawPeer(socket.create_connection(ports.address)))
        peer.send(associate_rq())
        # As many as fit into the backlog beside it, and one more than may wait inside.
        for _ in range(256):
            connections.enter_context(socket.create_connection(ports.address))
        with serving(ports=ports):
            assert peer.read_pdu()[0] == 2


def test_nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        for _ in range(20):
            RawPeer.associate(server).release()
        for _ in range(20):
            RawPeer.associate(server).sock.close()
        assert server.drain(10)
    for thread in association_threads():
        # It has nothing left to do but to end.
        thread.join(1)
    assert not association_threads()
    lost = [r for r in caplog.records if "closed the connection" in getattr(r, "reason", "")]
    assert len(lost) == 20


def test_each_association_leaves_one_line_with_its_facts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    keep = Keep()
    with serving({CommandField.C_STORE_RQ: keep}) as server:
        with RawPeer.associate(server, CT_CONTEXT) as peer:
            peer.send(STORE)
            peer.read_response()
            sent = len(CT_CONTEXT) + len(STORE) + len(RELEASE_RQ)
            peer.release()
        server.drain(10)
    (ended,) = [record for record in caplog.records if record.name == "gateway.association"]
    facts = vars(ended)
    assert facts["outcome"] == "released"
    assert facts["calling_aet"] == "RAW"
    assert facts["called_aet"] == "LENTICULAR"
    assert facts["address"] == "127.0.0.1"
    assert facts["messages"] == {"C_STORE_RQ": 1, "C_STORE_RSP": 1}
    assert facts["bytes_received"] == sent
    assert facts["association"] == keep.associations[0].id
