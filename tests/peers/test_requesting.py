"""An association is there or we know why not, and answers come to whoever asked."""

import threading
from contextlib import AbstractContextManager

import pytest
from pynetdicom import AE, build_context, evt
from pynetdicom.dimse_primitives import C_ECHO

from gateway.offers import offers
from lenticular.nodes import Node
from lenticular.requesting import NotEstablished, establish, keep_answers
from lenticular.sop_classes import STUDY_ROOT_FIND
from tests.peers.dimse import VERIFICATION, RawPeer, policy, raw_acceptor, serving

#: A-ASSOCIATE-RJ and A-ABORT, PS3.8 9.3.4 and 9.3.8.
REJECTIONS = {
    "called AE title not recognized, it is not LENTICULAR": b"\x03\0\0\0\0\x04\0\x01\x01\x07",
    "calling AE title not recognized, so REQUESTOR has to be a node there, by our address": (
        b"\x03\0\0\0\0\x04\0\x01\x01\x03"
    ),
    "local limit exceeded": b"\x03\0\0\0\0\x04\0\x02\x03\x02",
}
ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"


def acceptor(answer: bytes) -> AbstractContextManager[int]:
    """Answer one association request, and close the connection at once."""

    def play(peer: RawPeer) -> None:
        # All of it, for nothing that is left unread may reset the connection.
        peer.read_pdu()
        peer.send(answer)

    return raw_acceptor(play)


def ask(port: int) -> str:
    """Return why there is no association, where all is over before anybody looks."""
    over = threading.Event()
    ae = AE("REQUESTOR")
    ae.acse_timeout = 1
    with pytest.raises(NotEstablished) as failed:
        establish(
            ae,
            "127.0.0.1",
            port,
            ae_title="LENTICULAR",
            contexts=[build_context(VERIFICATION)],
            handlers=[
                (evt.EVT_CONN_CLOSE, lambda _: over.set()),
                # Runs just before pynetdicom looks what has become of its request.
                (evt.EVT_REQUESTED, lambda _: over.wait(1)),
            ],
        )
    return str(failed.value)


@pytest.mark.parametrize("reason", REJECTIONS)
def test_a_refusal_that_comes_with_the_end_of_the_connection_is_told(reason: str) -> None:
    with acceptor(REJECTIONS[reason]) as port:
        assert ask(port) == f"refused the association: {reason}"


def test_other_ends_of_an_association_request_are_told_apart() -> None:
    with acceptor(ABORT) as port:
        assert ask(port) == "aborted the association"
    with acceptor(b"") as port:
        assert ask(port) == "ended the connection, or did not answer the association request"


def test_a_service_that_is_not_for_us_is_told_from_one_that_nobody_may_use() -> None:
    stranger = Node("REQUESTOR", "127.0.0.1", None, frozenset())
    with serving(acceptance=policy(stranger, access="known-aet", offers=offers())) as server:
        for service, told in (
            (STUDY_ROOT_FIND, "does not let REQUESTOR use Study Root Query/Retrieve"),
            ("1.2.840.10008.5.1.1.9", "does not accept Basic Grayscale Print"),
        ):
            with pytest.raises(NotEstablished, match=told):
                establish(
                    AE("REQUESTOR"),
                    *server.address,
                    ae_title="LENTICULAR",
                    contexts=[build_context(service)],
                )


def test_a_name_that_has_no_address_is_told() -> None:
    with pytest.raises(NotEstablished, match="no address is known for this name"):
        establish(
            AE("REQUESTOR"),
            "no-such-host.invalid",
            104,
            ae_title="LENTICULAR",
            contexts=[build_context(VERIFICATION)],
        )


def test_while_we_wait_for_an_answer_nobody_else_takes_it() -> None:
    ae = AE("REQUESTOR")
    ae.add_requested_context(VERIFICATION)
    with serving() as server:
        opened = ae.associate(*server.address, ae_title="LENTICULAR")
        assert opened.is_established
        keep_answers(opened)
        # As the methods do that send a request; the other thread may be anywhere.
        opened._reactor_checkpoint.clear()
        answer = C_ECHO()
        opened.dimse.msg_queue.put((1, answer))
        assert opened.dimse.get_msg(block=False) == (None, None)
        assert opened.dimse.get_msg(block=True) == (1, answer)
        opened._reactor_checkpoint.set()
        assert opened.send_c_echo().Status == 0
        opened.release()
