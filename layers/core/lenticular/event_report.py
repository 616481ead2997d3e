"""Tell a requester what became of its storage commitment: N-EVENT-REPORT, PS3.4 J.3.3.

The report goes over an association of its own, on which we, who open it, are the SCP. That is what
SCP/SCU role selection is for (PS3.7 D.3.3.4). Of the peers in the field many take the report
without answering the proposed role; a context they accepted is used all the same. One that answers
that we may not be the SCP is believed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role
from pynetdicom.association import Association
from pynetdicom.status import (
    STATUS_SUCCESS,
    STATUS_WARNING,
    code_to_category,
)

from . import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from .commitment import Reference, Request, Verdict
from .errors import OperatorError
from .nodes import Node
from .requesting import NotEstablished, Unanswered, establish
from .sop_classes import STORAGE_COMMITMENT_PUSH, STORAGE_COMMITMENT_PUSH_INSTANCE
from .tls_calling import Tls
from .tls_connection import TlsAE

_CONNECT_SECONDS: Final = 5.0
#: Two, so that a peer may choose; some take only the first of them.
_TRANSFER_SYNTAXES: Final[list[str | UID]] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


class NotDelivered(Exception):
    """The requester was not told; says why, for the operator."""


def event_information(request: Request, verdict: Verdict) -> Dataset:
    """Return what a report says, PS3.4 tables J.3-3 and J.3-4.

    Both sequences are there only if they have items.
    """
    information = Dataset()
    information.TransactionUID = request.key.transaction_uid
    information.RetrieveAETitle = request.called
    committed = [_item(each) for each in verdict.committed(request.references)]
    if committed:
        information.ReferencedSOPSequence = committed
    if verdict.failures:
        failed = []
        for reference, reason in verdict.failures.items():
            item = _item(reference)
            item.FailureReason = int(reason)
            failed.append(item)
        information.FailedSOPSequence = failed
    return information


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


@dataclass(frozen=True, slots=True)
class Reporter:
    """Reports to requesters.

    Attributes:
        answer_seconds: what each has to answer, as often as it is asked
        tls_with: says how TLS is spoken with a node, `None` where it is called without
    """

    answer_seconds: float
    tls_with: Callable[[Node], Tls | None]

    def report(self, node: Node | None, request: Request, verdict: Verdict) -> None:
        """Tell `node` the verdict, and return when it has taken it.

        Raises:
            NotDelivered: it could not be reached, refused, broke off, failed or did not answer.
            StoreUnavailable: what TLS takes cannot be read now.
        """
        if node is None or node.port is None:
            raise NotDelivered("the requester is not a node with a port to report to")
        try:
            tls = self.tls_with(node)
        except OperatorError as error:
            raise NotDelivered(str(error)) from error
        called = request.called
        ae = AE(ae_title=called) if tls is None else TlsAE(called, node.address, tls)
        ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.connection_timeout = _CONNECT_SECONDS
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self.answer_seconds
        try:
            association = establish(
                ae,
                node.address,
                node.port,
                ae_title=node.aet,
                contexts=[build_context(STORAGE_COMMITMENT_PUSH, _TRANSFER_SYNTAXES)],
                roles=[build_role(STORAGE_COMMITMENT_PUSH, scu_role=False, scp_role=True)],
            )
        except NotEstablished as error:
            problem = str(error)
            if isinstance(error, Unanswered) and isinstance(ae, TlsAE):
                problem = ae.connection.problem
            raise NotDelivered(f"the requester {problem}") from error
        try:
            _tell(association, event_information(request, verdict), verdict)
        finally:
            if association.is_established:
                association.release()


def _tell(association: Association, information: Dataset, verdict: Verdict) -> None:
    try:
        answer, _ = association.send_n_event_report(
            information,
            verdict.event_type,
            STORAGE_COMMITMENT_PUSH,
            STORAGE_COMMITMENT_PUSH_INSTANCE,
        )
    except (RuntimeError, ValueError) as error:
        raise NotDelivered("the requester ended the association before the report") from error
    if "Status" not in answer:
        raise NotDelivered("the requester did not answer the report")
    if code_to_category(answer.Status) not in (STATUS_SUCCESS, STATUS_WARNING):
        raise NotDelivered(f"the requester answered the report with status {answer.Status:04X}")
