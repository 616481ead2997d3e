"""C-GET with DCMTK and pynetdicom: what a viewer behind a firewall does, and what fails for it."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    MRImageStorage,
)
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyRootGet  # type: ignore[attr-defined]
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.archived import data_set_of
from tests.peers.ct_files import ct_file
from tests.peers.destination import counts
from tests.peers.node_process import Node, running_node
from tests.peers.nodes_file import nodes_file

pytestmark = pytest.mark.peers

STUDY, OTHER_STUDY, LOST_STUDY = "1.2.826.0.1.78.1", "1.2.826.0.1.78.2", "1.2.826.0.1.78.3"
MIXED_STUDY = "1.2.826.0.1.78.4"
IMAGES = [f"{STUDY}.{series}.{number}" for series in (1, 2) for number in (1, 2)]
OTHER_IMAGE = f"{OTHER_STUDY}.1.1"


@dataclass(frozen=True)
class Stored:
    """Two studies of one patient in a node: two series of two instances, and one of one."""

    node: Node
    files: dict[str, Path]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """Run a node that knows who may what, store both studies, wait until they can be found."""
    folder = tmp_path_factory.mktemp("get")
    nodes = nodes_file(folder, {"READER": {"may": ["move"]}, "SCANNER": {"may": ["store"]}})
    files = {
        uid: ct_file(
            folder, uid.rsplit(".", 2)[0], uid.rsplit(".", 1)[0], uid,
            PatientName="Müller^Jürgen", PatientID="P78", InstanceNumber=uid[-1],
        )
        for uid in (*IMAGES, OTHER_IMAGE)
    }  # fmt: skip
    with running_node(folder / "node.log", "--nodes", str(nodes)) as node:
        assert dcmtk.store(node, *files.values()) == [0] * len(files)
        wait_for_instances(node, "PatientID=P78", ["1", "4"])
        yield Stored(node, files)


def wait_for_instances(node: Node, key: str, counts: Sequence[str]) -> None:
    """Wait until the studies that a key finds have so many instances."""
    eventually(
        lambda: dcmtk.find(node, "STUDY", key, "NumberOfStudyRelatedInstances"),
        until=lambda answers: sorted(each["0020,1208"] for each in answers) == list(counts),
    )


@pytest.mark.parametrize(
    ("model", "level", "keys", "uids"),
    [
        ("-P", "PATIENT", ["PatientID=P78"], [*IMAGES, OTHER_IMAGE]),
        ("-S", "STUDY", [f"StudyInstanceUID={STUDY}"], IMAGES),
    ],
)
def test_what_is_named_comes_bit_for_bit(  # noqa: PLR0913, PLR0917 - what is asked, and what must come
    stored: Stored, tmp_path: Path, model: str, level: str, keys: list[str], uids: list[str]
) -> None:
    output = dcmtk.get(stored.node, tmp_path, level, *keys, model=model)
    final = output.rpartition("C-GET RSP")[2]
    assert re.search(r"DIMSE Status\s*: 0x0000", final), output[-3000:]
    assert re.search(rf"Completed Suboperations\s*: {len(uids)}\b", final)
    received = {data_set_of(path.read_bytes()) for path in tmp_path.iterdir()}
    assert received == {data_set_of(stored.files[uid].read_bytes()) for uid in uids}


@dataclass
class Viewer:
    """A pynetdicom requestor of C-GET and what it heard."""

    association: Association
    received: list[str]

    def get(
        self, *studies: str, after_first_pending: Callable[[], None] = lambda: None
    ) -> tuple[list[tuple[int, ...]], Dataset, list[str]]:
        """Get studies; return the counts of each pending response, the last one, and its list.

        Counts are remaining, completed, failed, warning.
        """
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "STUDY"
        identifier.StudyInstanceUID = list(studies)
        pending: list[tuple[int, ...]] = []
        for status, data_set in self.association.send_c_get(identifier, StudyRootGet, msg_id=7):
            if status.Status != 0xFF00:
                return pending, status, _failed(data_set)
            pending.append(counts(status))
            if len(pending) == 1:
                after_first_pending()
        raise AssertionError("no final response came")


def _failed(data_set: Dataset | None) -> list[str]:
    # pynetdicom makes an empty one of none where the status lets it expect one.
    uids = data_set.get("FailedSOPInstanceUIDList", []) if data_set else []
    return [str(uids)] if isinstance(uids, str) else [str(uid) for uid in uids]


@contextmanager
def viewer(  # noqa: PLR0913 - whatever may differ between two viewers
    node: Node,
    *,
    storage: str = CTImageStorage,
    syntaxes: Sequence[str] = (ExplicitVRLittleEndian,),
    role: bool = True,
    answers: Sequence[int] = (),
    calling_aet: str = "VIEWER",
) -> Iterator[Viewer]:
    """Open an association for C-GET, with a storage context for each transfer syntax.

    `answers` are the statuses of the first sub-operations.
    """
    received: list[str] = []

    def on_store(event: evt.Event) -> int:
        assert isinstance(event.request, C_STORE)
        received.append(str(event.request.AffectedSOPInstanceUID))
        return answers[len(received) - 1] if len(received) <= len(answers) else 0

    ae = AE(ae_title=calling_aet)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    opened = ae.associate(
        node.host,
        node.port,
        contexts=[
            build_context(Verification),
            build_context(StudyRootGet),
            *(build_context(storage, syntax) for syntax in syntaxes),
        ],
        ae_title=node.aet,
        ext_neg=[build_role(storage, scp_role=True)] if role else [],
        evt_handlers=[(evt.EVT_C_STORE, on_store)],
    )
    assert opened.is_established
    try:
        yield Viewer(opened, received)
    finally:
        if opened.is_established:
            opened.release()


def test_every_pending_response_counts_and_the_final_one_has_nothing_remaining(
    stored: Stored,
) -> None:
    with viewer(stored.node) as peer:
        pending, final, failed = peer.get(STUDY)
    assert pending == [(4, 0, 0, 0), (3, 1, 0, 0), (2, 2, 0, 0), (1, 3, 0, 0)]
    assert (final.Status, counts(final), failed) == (0x0000, (-1, 4, 0, 0), [])
    assert sorted(peer.received) == IMAGES


def test_several_retrievals_go_over_one_association(stored: Stored) -> None:
    with viewer(stored.node) as peer:
        assert peer.get(OTHER_STUDY)[1].Status == 0x0000
        assert peer.get(STUDY)[1].Status == 0x0000
    assert sorted(peer.received) == [*IMAGES, OTHER_IMAGE]


def test_what_the_requestor_does_not_take_is_counted_and_listed(stored: Stored) -> None:
    with viewer(stored.node, answers=[0xA700, 0xB000]) as peer:
        _, final, failed = peer.get(STUDY)
    assert (final.Status, counts(final)) == (0xB000, (-1, 2, 1, 1))
    assert failed == peer.received[:1]


def test_each_instance_goes_over_the_context_of_its_transfer_syntax(
    stored: Stored, tmp_path: Path
) -> None:
    uids = [f"{MIXED_STUDY}.1.{number}" for number in (1, 2)]
    files = [
        ct_file(tmp_path, MIXED_STUDY, f"{MIXED_STUDY}.1", uid, PatientID="P80M") for uid in uids
    ]
    # storescu sends as it is told and converts what is otherwise.
    assert dcmtk.store(stored.node, files[0]) == [0]
    assert dcmtk.store(stored.node, files[1], options=("-xi",)) == [0]
    wait_for_instances(stored.node, "PatientID=P80M", ["2"])
    with viewer(stored.node, syntaxes=[ImplicitVRLittleEndian, ExplicitVRLittleEndian]) as peer:
        assert peer.get(MIXED_STUDY)[1].Status == 0x0000
    assert sorted(peer.received) == uids
    with viewer(stored.node, syntaxes=[ImplicitVRLittleEndian]) as peer:
        assert peer.get(MIXED_STUDY)[1].Status == 0x0000
    assert sorted(peer.received) == uids


@pytest.mark.parametrize(
    ("storage", "syntax", "role"),
    [
        (MRImageStorage, ExplicitVRLittleEndian, True),
        (CTImageStorage, JPEGLosslessSV1, True),
        (CTImageStorage, ExplicitVRLittleEndian, False),
    ],
    ids=["another-sop-class", "another-compressed-transfer-syntax", "no-scp-role"],
)
def test_instances_without_a_context_to_go_over_fail(
    stored: Stored, storage: str, syntax: str, role: bool
) -> None:
    with viewer(stored.node, storage=storage, syntaxes=[syntax], role=role) as peer:
        _, final, failed = peer.get(STUDY)
    assert (final.Status, counts(final)) == (0xA702, (-1, 0, 4, 0))
    assert sorted(failed) == IMAGES
    assert peer.received == []


def test_a_cancelled_retrieval_stops_and_says_what_remains(stored: Stored) -> None:
    with viewer(stored.node) as peer:
        # Sent before the first instance is answered, so the second never comes.
        _, final, _ = peer.get(
            STUDY,
            after_first_pending=lambda: peer.association.send_c_cancel(7, query_model=StudyRootGet),
        )
        completed = len(peer.received)
        assert completed <= 1
        assert (final.Status, counts(final)) == (0xFE00, (4 - completed, completed, 0, 0))
        assert peer.get(OTHER_STUDY)[1].Status == 0x0000


def test_an_instance_the_bucket_lost_fails_alone(stored: Stored, tmp_path: Path) -> None:
    node = stored.node
    uids = [f"{LOST_STUDY}.1.{number}" for number in (1, 2)]
    files = [ct_file(tmp_path, LOST_STUDY, f"{LOST_STUDY}.1", uid, PatientID="P79") for uid in uids]
    assert dcmtk.store(node, *files) == [0, 0]
    wait_for_instances(node, "PatientID=P79", ["2"])
    (key,) = node.object_keys(f"instances/{LOST_STUDY}/{LOST_STUDY}.1/{uids[0]}/")
    node.client("s3").delete_object(Bucket=node.bucket, Key=key)
    with viewer(node) as peer:
        _, final, failed = peer.get(LOST_STUDY)
    assert (final.Status, counts(final)) == (0xB000, (-1, 1, 1, 0))
    assert failed == uids[:1]


def test_a_node_that_may_only_move_receives_but_does_not_store(stored: Stored) -> None:
    with viewer(stored.node, calling_aet="READER") as peer:
        assert peer.get(OTHER_STUDY)[1].Status == 0x0000
        # pynetdicom keeps to the roles that were agreed; others do not.
        (context,) = (
            each
            for each in peer.association.accepted_contexts
            if each.abstract_syntax == CTImageStorage
        )
        assert not context.as_scu
        context._as_scu = True
        status = peer.association.send_c_store(stored.files[OTHER_IMAGE])
    assert status.Status == 0x0124
    assert peer.received == [OTHER_IMAGE]


def test_a_node_that_may_only_store_gets_nothing(stored: Stored) -> None:
    with viewer(stored.node, calling_aet="SCANNER") as peer:
        rejected = {each.abstract_syntax for each in peer.association.rejected_contexts}
        assert rejected == {StudyRootGet, CTImageStorage}
