"""An answer comes to whoever asked, not to the thread that serves the peer's requests."""

from pynetdicom import AE
from pynetdicom.dimse_primitives import C_ECHO

from lenticular.requesting import keep_answers
from tests.peers.dimse import VERIFICATION, serving


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
