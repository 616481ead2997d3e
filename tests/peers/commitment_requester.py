"""pynetdicom as a requester of storage commitment that takes its reports, or behaves oddly."""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from threading import Event as Flag
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from tests.peers import pynetdicom_peer
from tests.peers.node_process import Node

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
_SECONDS: Final = 30

Reference = tuple[str, str]


class Oddity(Enum):
    """What a requester does with a report."""

    REJECTS_ASSOCIATION = "rejects the association"
    REJECTS_CONTEXT = "accepts no presentation context"
    REFUSES_ROLE = "answers that we may not be the SCP"
    ABORTS_ASSOCIATION = "aborts when asked for an association"
    ABORTS = "aborts instead of answering the report"
    FAILS = "answers the report with 0110"
    HANGS = "never answers the report"


@dataclass(frozen=True)
class Report:
    """A report as it came."""

    event_type: int
    transaction_uid: str
    calling_aet: str
    transfer_syntax: str
    #: Whether the requestor of the association has the role of SCP; None when nothing was agreed.
    is_scp: bool | None
    committed: frozenset[Reference]
    failed: dict[Reference, int]
    retrieve_aet: str | None


@dataclass
class Requester:
    """A requester's server, and what came.

    Attributes:
        oddity: what it does now; it may change
        attempts: reports and associations that came, the odd ones too
        before_answer: reports are answered when it is set
    """

    aet: str
    port: int = 0
    oddity: Oddity | None = None
    attempts: int = 0
    reports: list[Report] = field(default_factory=list)
    stopped: Flag = field(default_factory=Flag)
    before_answer: Flag | None = None

    def take(self, event: evt.Event) -> tuple[int, None]:
        """Take a report."""
        self.attempts += 1
        if self.before_answer is not None:
            self.before_answer.wait(_SECONDS)
        if self.oddity is Oddity.ABORTS:
            event.assoc.abort()
        if self.oddity is Oddity.HANGS:
            self.stopped.wait(_SECONDS)
        if self.oddity is not None:
            return 0x0110, None
        self.reports.append(_report(event))
        return 0x0000, None

    def requested(self, event: evt.Event) -> None:
        """Look at a request for an association before it is answered."""
        if self.oddity is Oddity.ABORTS_ASSOCIATION:
            self.attempts += 1
            event.assoc.abort()
        if self.oddity is Oddity.REJECTS_ASSOCIATION:
            self.attempts += 1
            event.assoc.acse.send_reject(0x02, 0x01, 0x01)
            event.assoc.kill()
        if self.oddity is Oddity.REJECTS_CONTEXT:
            self.attempts += 1
            event.assoc.acceptor.supported_contexts = [build_context("1.2.840.10008.1.1")]
        if self.oddity is Oddity.REFUSES_ROLE:
            self.attempts += 1
            for context in event.assoc.acceptor.supported_contexts:
                context.scu_role, context.scp_role = True, False


def _report(event: evt.Event) -> Report:
    data: Dataset = event.event_information
    [role] = event.assoc.requestor.role_selection.values() or [None]
    return Report(
        event_type=event.event_type or 0,
        transaction_uid=str(data.TransactionUID),
        calling_aet=event.assoc.requestor.ae_title,
        transfer_syntax=str(event.context.transfer_syntax),
        is_scp=None if role is None else bool(role.scp_role),
        committed=frozenset(
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in data.get("ReferencedSOPSequence", [])
        ),
        failed={
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)): int(
                item.FailureReason
            )
            for item in data.get("FailedSOPSequence", [])
        },
        retrieve_aet=data.get("RetrieveAETitle"),
    )


@contextmanager
def requester(  # noqa: PLR0913 - a peer and how it differs from others
    aet: str,
    *,
    port: int = 0,
    transfer_syntaxes: Sequence[str] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    answers_role: bool = True,
    oddity: Oddity | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Requester]:
    """Listen for reports, with `tls` by TLS alone.

    One that does not answer the role takes what comes, as many in the field do.
    """
    running = Requester(aet, oddity=oddity)
    ae = AE(ae_title=aet)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _SECONDS
    roles = {"scu_role": True, "scp_role": True} if answers_role else {}
    ae.add_supported_context(PUSH_MODEL, list(transfer_syntaxes), **roles)
    server = ae.start_server(
        ("127.0.0.1", port),
        block=False,
        ssl_context=tls,
        evt_handlers=[
            (evt.EVT_N_EVENT_REPORT, running.take),
            (evt.EVT_REQUESTED, running.requested),
        ],
    )
    assert server is not None
    running.port = server.socket.getsockname()[1] if server.socket else 0
    try:
        yield running
    finally:
        running.stopped.set()
        server.shutdown()


def information(transaction_uid: str | None, references: Sequence[Reference]) -> Dataset:
    """Write the action information of a request."""
    data = Dataset()
    if transaction_uid is not None:
        data.TransactionUID = transaction_uid
    items = []
    for sop_class_uid, sop_instance_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        items.append(item)
    data.ReferencedSOPSequence = items
    return data


def association(
    node: Node, aet: str, transfer_syntaxes: Sequence[str] = (ExplicitVRLittleEndian,)
) -> AbstractContextManager[Association]:
    """Open an association for requests."""
    contexts = [(PUSH_MODEL, transfer_syntaxes)]
    return pynetdicom_peer.association(node, contexts, aet, seconds=_SECONDS)


def ask(  # noqa: PLR0913 - every parameter of N-ACTION may be wrong
    node: Node,
    aet: str,
    transaction_uid: str | None,
    references: Sequence[Reference],
    *,
    action_type: int = 1,
    instance_uid: str = PUSH_MODEL_INSTANCE,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> Any:
    """Ask for storage commitment and return the response's status data set."""
    with association(node, aet, [transfer_syntax]) as opened:
        answer, _ = opened.send_n_action(
            information(transaction_uid, references), action_type, PUSH_MODEL, instance_uid
        )
        return answer
