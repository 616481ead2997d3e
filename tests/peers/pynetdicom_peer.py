"""pynetdicom as a client that sends data sets as they are, well formed or not."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from tests.peers.node_process import Node

_SECONDS = 20


@contextmanager
def association(
    node: Node,
    contexts: Sequence[tuple[str, str | Sequence[str]]],
    calling_aet: str = "PYNETDICOM",
    *,
    seconds: float = _SECONDS,
) -> Iterator[Association]:
    """Open an association for abstract syntaxes with transfer syntaxes; release it at the end."""
    ae = AE(ae_title=calling_aet)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = seconds
    opened = ae.associate(
        node.host,
        node.port,
        contexts=[
            build_context(abstract, transfer if isinstance(transfer, str) else list(transfer))
            for abstract, transfer in contexts
        ],
        ae_title=node.aet,
    )
    assert opened.is_established, "the node refused the association"
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


class _Parking(threading.Event):
    """Where a reactor waits for ever, and what tells that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Keep the reactor here."""
        self.taken.set()
        return super().wait(timeout)

    def set(self) -> None:
        """Do nothing: each of pynetdicom's requests ends by waking its reactor."""


@contextmanager
def undisturbed(opened: Association) -> Iterator[Association]:
    """Keep pynetdicom's reactor from taking a response for a request, as it may on a busy machine.

    It must look at the association again before that can be released.
    """
    parking, checkpoint = _Parking(), opened._reactor_checkpoint
    opened._reactor_checkpoint = parking
    assert parking.taken.wait(_SECONDS), "pynetdicom's reactor does not run"
    try:
        yield opened
    finally:
        opened._reactor_checkpoint = checkpoint
        threading.Event.set(parking)


def store_bytes(
    opened: Association, sop_class_uid: str, sop_instance_uid: str, data_set: bytes
) -> int | None:
    """Send an encoded data set without a look at it; return the status, None when aborted.

    Once an association: pynetdicom's reactor may take the next response for a request.
    """
    (context,) = [
        each for each in opened.accepted_contexts if each.abstract_syntax == sop_class_uid
    ]
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class_uid
    request.AffectedSOPInstanceUID = sop_instance_uid
    request.Priority = 0
    request.DataSet = BytesIO(data_set)
    # As its own send_c_store does: otherwise its reactor takes the response for a request.
    opened._reactor_checkpoint.clear()
    while not opened._is_paused:
        assert opened.is_alive(), "the association ended by itself"
        time.sleep(0.001)
    try:
        opened.dimse.send_msg(request, context.context_id or 0)
        _, response = opened.dimse.get_msg(block=True)
    finally:
        opened._reactor_checkpoint.set()
    return None if response is None else int(response.Status or 0)
