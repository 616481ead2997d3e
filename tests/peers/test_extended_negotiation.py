"""Options of the query classes, negotiated by pynetdicom: PS3.4 C.5.1.1, C.5.2.1, C.5.3.1."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet as StudyRootGet,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,
)

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.conftest import WORKSTATION, Clinic
from tests.peers.ct_files import ct_file
from tests.peers.node_process import Node

pytestmark = pytest.mark.peers

ROOT_UID = "1.2.826.0.1.79"
#: Study number: its date, its time, the modality of its one series.
STUDIES = {
    1: ("20240701", "090000", "CT"),
    2: ("20240701", "110000", "CT"),
    3: ("20240703", "200000", "PT"),
    4: ("20240705", "190000", "CT"),
}
IMAGE = f"{ROOT_UID}.3.1.1"
REFUSED = 0xA900


@pytest.fixture(scope="module")
def node(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Store the studies, each of one instance, and wait until they can be found."""
    folder = tmp_path_factory.mktemp("studies")
    files = [
        ct_file(
            folder, f"{ROOT_UID}.{number}", f"{ROOT_UID}.{number}.1", f"{ROOT_UID}.{number}.1.1",
            PatientID="P79X", StudyDate=date, StudyTime=time, Modality=modality,
        )
        for number, (date, time, modality) in STUDIES.items()
    ]  # fmt: skip
    assert dcmtk.store(clinic.node, *files) == [0] * len(files)
    eventually(
        lambda: dcmtk.find(clinic.node, "STUDY", "PatientID=P79X"),
        until=lambda answers: len(answers) == len(files),
    )
    return clinic.node


@contextmanager
def associated(node: Node, options: bytes | None) -> Iterator[tuple[Association, list[str]]]:
    """Open an association that asks for options; yield it and the SOP Instance UIDs it receives."""
    received: list[str] = []

    def on_store(event: evt.Event) -> int:
        received.append(str(event.dataset.SOPInstanceUID))
        return 0

    ae = AE(ae_title="ASKER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    items = []
    for uid in (StudyRootFind, StudyRootMove, StudyRootGet):
        ae.add_requested_context(uid)
        if options is not None:
            item = SOPClassExtendedNegotiation()
            item.sop_class_uid = UID(uid)
            item.service_class_application_information = options
            items.append(item)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    opened = ae.associate(
        node.host,
        node.port,
        ae_title=node.aet,
        ext_neg=[*items, build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, on_store)],
    )
    assert opened.is_established
    try:
        yield opened, received
    finally:
        opened.release()


def identifier(level: str, **keys: str) -> Dataset:
    """Make an identifier that asks for the studies' UIDs, restricted by keys."""
    data_set = Dataset()
    data_set.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(data_set, keyword, value)
    return data_set


def find(node: Node, options: bytes | None, query: Dataset) -> tuple[int, set[int]]:
    """Ask, and return the final status and the numbers of the studies that were found."""
    with associated(node, options) as (association, _):
        found = set()
        for status, answer in association.send_c_find(query, StudyRootFind):
            if answer is not None and status.Status in (0xFF00, 0xFF01):
                found.add(int(answer.StudyInstanceUID.removeprefix(f"{ROOT_UID}.")))
        return status.Status, found


@pytest.mark.parametrize(
    ("asked", "query", "retrieve"),
    [
        (b"\1\1\1\1", b"\1\1\0\0", b"\1\0\0\0"),
        (b"\1\0\0", b"\1\0\0", b"\1\0\0"),
        (b"\0\1\0\0\1", b"\0\1\0\0\0", b"\0\0\0\0\0"),
        (b"\1", b"\1", b"\1"),
        (None, None, None),
    ],
)
def test_each_option_is_answered_by_whether_we_can(
    node: Node, asked: bytes | None, query: bytes | None, retrieve: bytes | None
) -> None:
    with associated(node, asked) as (association, _):
        answered = association.acceptor.sop_class_extended
    assert answered.get(StudyRootFind) == query
    assert answered.get(StudyRootMove) == retrieve
    assert answered.get(StudyRootGet) == retrieve


@pytest.mark.parametrize(
    ("options", "studies"), [(b"\0\1\0\0", {2, 3}), (b"\0\0\0\0", {2}), (None, {2})]
)
def test_ranges_of_date_and_time_are_one_range_where_that_was_agreed(
    node: Node, options: bytes | None, studies: set[int]
) -> None:
    query = identifier(
        "STUDY", PatientID="P79X", StudyDate="20240701-20240705", StudyTime="100000-180000",
        StudyInstanceUID="",
    )  # fmt: skip
    assert find(node, options, query) == (0x0000, studies)


@pytest.mark.parametrize(
    ("level", "keys", "studies"),
    [
        ("IMAGE", {"SOPInstanceUID": IMAGE}, {3}),
        ("SERIES", {"PatientID": "P79X", "Modality": "CT"}, {1, 2, 4}),
        ("SERIES", {"PatientID": "P79X", "SOPInstanceUID": IMAGE}, {3}),
        ("STUDY", {"PatientID": "P79X", "Modality": "PT"}, {3}),
        ("STUDY", {"SeriesInstanceUID": f"{ROOT_UID}.2.1"}, {2}),
        ("STUDY", {"PatientID": "P79X", "SOPClassUID": CTImageStorage}, {1, 2, 3, 4}),
        ("STUDY", {"PatientID": "P79X", "InstanceNumber": "77"}, set()),
    ],
)
def test_keys_of_any_level_restrict_a_relational_query(
    node: Node, level: str, keys: dict[str, str], studies: set[int]
) -> None:
    query = identifier(level, **{"StudyInstanceUID": "", **keys})
    assert find(node, b"\1", query) == (0x0000, studies)


@pytest.mark.parametrize(
    ("level", "keys"),
    [("IMAGE", {"SOPInstanceUID": IMAGE}), ("STUDY", {"SeriesInstanceUID": f"{ROOT_UID}.2.1"})],
)
def test_without_relational_queries_such_keys_are_refused(
    node: Node, level: str, keys: dict[str, str]
) -> None:
    query = identifier(level, **keys)
    assert find(node, None, query) == (REFUSED, set())
    assert find(node, b"\0\1", query) == (REFUSED, set())


def test_an_image_is_got_by_its_uid_alone_where_relational_retrieval_was_agreed(node: Node) -> None:
    query = identifier("IMAGE", SOPInstanceUID=IMAGE)
    for options, status, uids in ((b"\1", 0x0000, [IMAGE]), (None, REFUSED, [])):
        with associated(node, options) as (association, received):
            *_, (final, _) = association.send_c_get(query, StudyRootGet)
        assert (final.Status, received) == (status, uids)


def test_a_series_is_moved_by_its_uid_alone_where_relational_retrieval_was_agreed(
    node: Node, workstation: Path
) -> None:
    query = identifier("SERIES", SeriesInstanceUID=f"{ROOT_UID}.2.1")
    with associated(node, None) as (association, _):
        *_, (final, _) = association.send_c_move(query, WORKSTATION, StudyRootMove)
    assert final.Status == REFUSED
    with associated(node, b"\1") as (association, _):
        *_, (final, _) = association.send_c_move(query, WORKSTATION, StudyRootMove)
    assert final.Status == 0x0000
    assert len(list(workstation.iterdir())) == 1
