"""pynetdicom is sent to, by C-MOVE and C-GET: what it is offered, gets, and does amiss."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, DEFAULT_TRANSFER_SYNTAXES, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet as StudyRootGet,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,
)

from tests.peers import pynetdicom_peer
from tests.peers.node_process import Node

MESSAGE_ID = 9
CT_EXPLICIT: Mapping[str, Sequence[str]] = {CTImageStorage: [ExplicitVRLittleEndian]}


@dataclass
class Destination:
    """What came: for each association its proposals, for each sub-operation its request and file.

    Attributes:
        proposals: abstract syntax and transfer syntaxes of each context, an association each
        requests: every C-STORE-RQ, in order
        files: what was accepted, by SOP Instance UID
    """

    proposals: list[list[tuple[str, list[str]]]] = field(default_factory=list)
    requests: list[C_STORE] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def uids(self) -> list[str]:
        """The SOP Instance UID of each sub-operation."""
        return [str(request.AffectedSOPInstanceUID) for request in self.requests]

    def data_set(self, uid: str) -> Dataset:
        """Read a file that came."""
        return dcmread(BytesIO(self.files[uid]))


@contextmanager
def destination(
    port: int,
    aet: str,
    takes: Mapping[str, Sequence[str]] = CT_EXPLICIT,
    on_store: Callable[[C_STORE, Association], int] = lambda _request, _association: 0,
    **ae_options: Any,
) -> Iterator[Destination]:
    """Take the transfer syntaxes of each SOP class, and answer what `on_store` returns."""
    seen = Destination()

    def on_request(event: evt.Event) -> None:
        requested = event.assoc.requestor.requested_contexts
        seen.proposals.append(
            [
                (str(each.abstract_syntax), list(map(str, each.transfer_syntax)))
                for each in requested
            ]
        )

    def handle(event: evt.Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        seen.requests.append(request)
        status = on_store(request, event.assoc)
        if status == 0:
            seen.files[str(request.AffectedSOPInstanceUID)] = event.encoded_dataset()
        return status

    ae = AE(ae_title=aet)
    for name, value in ae_options.items():
        setattr(ae, name, value)
    for sop_class, syntaxes in takes.items():
        ae.add_supported_context(sop_class, list(syntaxes))
    server = ae.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[(evt.EVT_REQUESTED, on_request), (evt.EVT_C_STORE, handle)],
    )
    assert server is not None
    try:
        yield seen
    finally:
        server.shutdown()


def requestor(
    node: Node, aet: str = "READER", seconds: float = 60
) -> AbstractContextManager[Association]:
    """Open an association for C-MOVE."""
    contexts = [(StudyRootMove, DEFAULT_TRANSFER_SYNTAXES)]
    return pynetdicom_peer.association(node, contexts, aet, seconds=seconds)


def responses(
    association: Association, aet: str, *studies: str
) -> Iterator[tuple[Dataset, list[str]]]:
    """Move studies; yield each response's status and counts, and its Failed SOP Instance UIDs."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = list(studies)
    for status, data_set in association.send_c_move(identifier, aet, StudyRootMove, MESSAGE_ID):
        # pynetdicom makes an empty one of none where the status lets it expect one.
        uids = data_set.get("FailedSOPInstanceUIDList", []) if data_set else []
        yield status, [uids] if isinstance(uids, str) else list(uids)


def counts(status: Dataset) -> tuple[int, ...]:
    """Return remaining, completed, failed and warning; -1 for one that is not there."""
    return tuple(
        status.get(f"NumberOf{kind}Suboperations", -1)
        for kind in ("Remaining", "Completed", "Failed", "Warning")
    )


@dataclass
class Got:
    """What a C-GET brought: the final response, empty where we aborted, and files by UID.

    `priorities` are those of the sub-operations.
    """

    final: Dataset = field(default_factory=Dataset)
    failed: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    priorities: list[int] = field(default_factory=list)


def get(
    node: Node, study: str, contexts: Sequence[tuple[str, Sequence[str]]], priority: int = 2
) -> Got:
    """Get a study on these contexts."""
    got = Got()

    def on_store(event: evt.Event) -> int:
        assert isinstance(event.request, C_STORE)
        got.files[str(event.request.AffectedSOPInstanceUID)] = event.encoded_dataset()
        got.priorities.append(event.request.Priority)
        return 0

    ae = AE(ae_title="VIEWER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    opened = ae.associate(
        node.host,
        node.port,
        contexts=[
            build_context(StudyRootGet),
            *(build_context(abstract, list(syntaxes)) for abstract, syntaxes in contexts),
        ],
        ae_title=node.aet,
        ext_neg=[build_role(abstract, scp_role=True) for abstract in dict(contexts)],
        evt_handlers=[(evt.EVT_C_STORE, on_store)],
    )
    assert opened.is_established
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
    for status, data_set in opened.send_c_get(identifier, StudyRootGet, priority=priority):
        got.final = status
        uids = data_set.get("FailedSOPInstanceUIDList", []) if data_set else []
        got.failed = [uids] if isinstance(uids, str) else list(uids)
    if opened.is_established:
        opened.release()
    return got
