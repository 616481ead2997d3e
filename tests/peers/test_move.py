"""C-MOVE with pynetdicom at both ends: what is counted, and how a retrieval ends early."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,
)

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.conftest import WORKSTATION, Clinic
from tests.peers.ct_files import ct_file
from tests.peers.destination import counts, requestor
from tests.peers.node_process import Node

pytestmark = pytest.mark.peers

STUDY = "1.2.826.0.1.80.1"
INSTANCES = 20
LONG_STUDY = "1.2.826.0.1.80.2"
MANY_INSTANCES = 90
MESSAGE_ID = 9


def stored(node: Node, folder: Path, study: str, patient_id: str, instances: int) -> None:
    """Store a study and wait until it can be found."""
    files = [
        ct_file(folder, study, f"{study}.1", f"{study}.1.{number}", PatientID=patient_id)
        for number in range(instances)
    ]
    assert dcmtk.store(node, *files) == [0] * instances
    keys = (f"PatientID={patient_id}", "NumberOfStudyRelatedInstances")
    eventually(
        lambda: dcmtk.find(node, "STUDY", *keys),
        until=lambda answers: [each["0020,1208"] for each in answers] == [str(instances)],
    )


@pytest.fixture(scope="module")
def node(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Store a study and wait until it can be found."""
    stored(clinic.node, tmp_path_factory.mktemp("study"), STUDY, "P80", INSTANCES)
    return clinic.node


@contextmanager
def destination(clinic: Clinic, on_store: Callable[[C_STORE], int]) -> Iterator[None]:
    """Be the workstation, and answer each sub-operation with what `on_store` returns."""

    def handle(event: evt.Event) -> int:
        assert isinstance(event.request, C_STORE)
        return on_store(event.request)

    ae = AE(ae_title=WORKSTATION)
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    server = ae.start_server(
        ("127.0.0.1", clinic.workstation_port),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, handle)],
    )
    assert server is not None
    try:
        yield
    finally:
        server.shutdown()


def responses(association: Association, study: str = STUDY) -> Iterator[Dataset]:
    """Move a study to the workstation; yield each response's status and counts."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study
    for status, _ in association.send_c_move(identifier, WORKSTATION, StudyRootMove, MESSAGE_ID):
        yield status


def lines(node: Node, **facts: object) -> list[dict[str, Any]]:
    """Return the lines of the node's log that have these facts."""
    found = []
    for line in Path(node.log).read_text("utf-8").splitlines():
        if line.startswith("{") and line.endswith("}"):
            logged = json.loads(line)
            if all(logged.get(name) == fact for name, fact in facts.items()):
                found.append(logged)
    return found


def test_every_response_counts_and_each_sub_operation_names_who_asked(
    clinic: Clinic, node: Node
) -> None:
    asked_by = []
    uids: list[str] = []

    def on_store(request: C_STORE) -> int:
        asked_by.append(
            (request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID)
        )
        uids.append(str(request.AffectedSOPInstanceUID))
        return 0xA700 if uids[-1] == uids[0] else 0xB007 if uids[-1] == uids[1] else 0

    with destination(clinic, on_store), requestor(node, "COUNTER") as association:
        *pending, final = responses(association)
    assert counts(pending[0]) == (INSTANCES, 0, 0, 0)
    # The one that was refused remains until it has been tried again.
    assert counts(pending[-1]) == (1, INSTANCES - 2, 0, 1)
    assert [counts(each)[0] for each in pending] == [INSTANCES, *range(INSTANCES, 0, -1)]
    assert (final.Status, counts(final)) == (0xB000, (-1, INSTANCES - 2, 1, 1))
    assert asked_by == [("COUNTER", MESSAGE_ID)] * (INSTANCES + 1)
    assert uids[-1] == uids[0]


def test_of_a_long_retrieval_not_each_sub_operation_is_told_of_once_it_goes_fast(
    clinic: Clinic, tmp_path: Path
) -> None:
    stored(clinic.node, tmp_path, LONG_STUDY, "P80-LONG", MANY_INSTANCES)
    with destination(clinic, lambda _: 0), requestor(clinic.node, "COUNTER") as association:
        *pending, final = responses(association, LONG_STUDY)
    remaining = [counts(each)[0] for each in pending]
    assert remaining[:50] == list(range(MANY_INSTANCES, MANY_INSTANCES - 50, -1))
    assert sorted(set(remaining), reverse=True) == remaining
    assert len(remaining) < MANY_INSTANCES
    assert (final.Status, counts(final)) == (0x0000, (-1, MANY_INSTANCES, 0, 0))


def test_a_cancelled_retrieval_stops_and_says_what_remains(clinic: Clinic, node: Node) -> None:
    received = 0

    with requestor(node, "CANCELLER") as association:

        def on_store(_: C_STORE) -> int:
            nonlocal received
            received += 1
            if received == 1:
                association.send_c_cancel(MESSAGE_ID, query_model=StudyRootMove)
            return 0

        with destination(clinic, on_store):
            *_, final = responses(association)
    assert received < INSTANCES
    remaining, completed, *others = counts(final)
    # One that is broken off after it was received remains.
    assert completed in (received - 1, received)
    assert (final.Status, remaining + completed, others) == (0xFE00, INSTANCES, [0, 0])


def test_a_requestor_that_goes_away_ends_its_retrieval_and_the_destination_is_not_blamed(
    clinic: Clinic, node: Node
) -> None:
    received = 0

    with requestor(node, "LEAVER") as association:

        def on_store(_: C_STORE) -> int:
            nonlocal received
            received += 1
            if received == 1:
                association.abort()
            return 0

        with destination(clinic, on_store):
            next(responses(association))
            [ended] = eventually(
                lambda: lines(node, message="association ended", calling_aet="LEAVER")
            )
    assert ended["outcome"] == "aborted by peer"
    assert received < INSTANCES
    assert lines(node, message="destination failed", calling_aet="LEAVER") == []
    assert lines(node, message="retrieval ended", calling_aet="LEAVER") == []
    dcmtk.echo(node)
