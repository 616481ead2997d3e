"""Storage commitment Push Model SCP, N-ACTION, PS3.4 J.3.2: keep the request, then say so.

0000 says that the request is kept and will be worked on, nothing yet of the instances; the commit
function checks them and reports. There is one step to that, the object of the request: S3 tells the
function of it, so nothing is left to be done that a crash could prevent.

What is still in the spool the function cannot see, and of an instance that has a content in the
bucket already it would not miss another one. So the request names what is on its way.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from lenticular.archive import TransactionKey
from lenticular.commitment import (
    MOST_REFERENCES,
    REQUEST_STORAGE_COMMITMENT,
    Reference,
)
from lenticular.commitment import Request as CommitmentRequest
from lenticular.dicom_json import JsonElement, values_of
from lenticular.errors import TransactionUidInUse
from lenticular.identifiers import is_ae_title, is_uid
from lenticular.nodes import Node
from lenticular.sop_classes import STORAGE_COMMITMENT_PUSH_INSTANCE
from lenticular.status import CommitmentFailure, Status
from lenticular.transactions import Transactions

from .normalized import Answer, Refused, Request

_TRANSACTION_UID: Final = 0x00081195
_REFERENCED_SOP_SEQUENCE: Final = 0x00081199
_REFERENCED_SOP_CLASS_UID: Final = "00081150"
_REFERENCED_SOP_INSTANCE_UID: Final = "00081155"


class CommitmentScp:
    """Takes requests for storage commitment."""

    def __init__(
        self,
        transactions: Transactions,
        find_node: Callable[[str], Node | None],
        arriving: Callable[[Collection[str]], Iterable[str]] = lambda _: (),
    ) -> None:
        """Keep requests of nodes that `find_node` knows as `transactions`.

        `arriving` returns the keys of what was acknowledged under some SOP Instance UIDs and may
        not be in the bucket yet, or raises `StoreUnavailable`.
        """
        self._transactions = transactions
        self._find_node = find_node
        self._arriving = arriving

    def perform(self, request: Request) -> Answer:
        """Keep a request; its sender hears Success when it is kept.

        Raises:
            Refused: the request is wrong, too long, or its sender could not be told the result.
            StoreUnavailable: it may not be kept.
        """
        if request.sop_instance_uid != STORAGE_COMMITMENT_PUSH_INSTANCE:
            raise Refused(
                Status.NO_SUCH_SOP_INSTANCE, "not the well-known instance of storage commitment"
            )
        if request.action_type_id != REQUEST_STORAGE_COMMITMENT:
            raise Refused(Status.NO_SUCH_ACTION, "storage commitment has action type 1 only")
        wanted = _commitment_request(request)
        node = self._find_node(wanted.key.requester)
        if node is None or node.port is None:
            # Success would promise a report that could never be sent. The requester keeps its
            # instances, and its operator sees why.
            raise Refused(
                Status.PROCESSING_FAILURE, "the requester is not a node with a port to report to"
            )
        uids = {each.sop_instance_uid for each in wanted.references}
        wanted = replace(wanted, arriving=tuple(self._arriving(uids)))
        try:
            self._transactions.ask(wanted)
        except TransactionUidInUse as error:
            raise Refused(CommitmentFailure.DUPLICATE_TRANSACTION_UID, str(error)) from error
        request.association.log.info(
            "commitment requested",
            extra={
                "transaction_uid": wanted.key.transaction_uid,
                "references": len(wanted.references),
            },
        )
        return Answer()


def _commitment_request(request: Request) -> CommitmentRequest:
    """Read the action information, PS3.4 table J.3-1, or raise `Refused`."""
    transaction_uid = _uid(request.elements.get(_TRANSACTION_UID))
    if transaction_uid is None:
        raise Refused(Status.INVALID_ARGUMENT_VALUE, "no valid Transaction UID")
    items = values_of(request.elements.get(_REFERENCED_SOP_SEQUENCE))
    if not items:
        raise Refused(Status.INVALID_ARGUMENT_VALUE, "no instance is referenced")
    if len(items) > MOST_REFERENCES:
        raise Refused(
            Status.RESOURCE_LIMITATION, f"more than {MOST_REFERENCES} instances are referenced"
        )
    peer = request.association.peer
    if not is_ae_title(peer.calling_aet):
        raise Refused(Status.PROCESSING_FAILURE, "the calling AE title is not one")
    return CommitmentRequest(
        TransactionKey(peer.calling_aet, transaction_uid),
        peer.called_aet,
        datetime.now(UTC),
        # A reference that is there twice is the same one.
        tuple(dict.fromkeys(_references(items))),
    )


def _references(items: list[Any]) -> Iterator[Reference]:
    for item in items:
        sop_class_uid = _uid(item.get(_REFERENCED_SOP_CLASS_UID))
        sop_instance_uid = _uid(item.get(_REFERENCED_SOP_INSTANCE_UID))
        if sop_class_uid is None or sop_instance_uid is None:
            raise Refused(Status.INVALID_ARGUMENT_VALUE, "a reference without valid UIDs")
        yield Reference(sop_class_uid, sop_instance_uid)


def _uid(element: JsonElement | None) -> str | None:
    values = values_of(element)
    uid = values[0] if len(values) == 1 else None
    return uid if isinstance(uid, str) and is_uid(uid) else None
