"""Whatever is stored, asked, retrieved or goes wrong: no log says whose it was."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
)

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.conftest import WORKSTATION
from tests.peers.ct_files import ct_file
from tests.peers.node_process import Node, running_node
from tests.peers.nodes_file import nodes_file
from tests.peers.pynetdicom_peer import association, store_bytes
from tests.ports import free_port

pytestmark = [
    pytest.mark.peers,
    # pydicom, as the client, says so of the UIDs it is made to send.
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
STUDY: Final = "1.2.826.0.1.97.1"
IMAGE: Final = f"{STUDY}.1.1"
NAME, PATIENT_ID, BIRTH_DATE = "Geheimrat^Eusebius", "PID-4711-SECRET", "19511203"
OTHER_NAME, OTHER_ID = "Hofrat^Leberecht", "PID-4712-SECRET"
DESCRIPTION, ACCESSION, PHYSICIAN = "Verdacht Syphilis", "ACC-081500", "Doktor^Allwissend"
SECRETS: Final = [
    *NAME.split("^"), PATIENT_ID, BIRTH_DATE, *OTHER_NAME.split("^"), OTHER_ID,
    "Syphilis", ACCESSION, *PHYSICIAN.split("^"),
]  # fmt: skip


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Run a node that tells as much as it can."""
    port = free_port()
    # Nobody listens there: retrieving fails.
    nodes = nodes_file(tmp_path, {WORKSTATION: port})
    settings = {"LENTICULAR_LOG_LEVEL": "DEBUG", "LENTICULAR_VALIDATION": "warn"}
    with running_node(tmp_path / "node.log", "--nodes", str(nodes), settings=settings) as running:
        yield running


def image(folder: Path, **changed: str) -> Path:
    folder.mkdir()
    attributes: dict[str, Any] = {
        "PatientName": NAME,
        "PatientID": PATIENT_ID,
        "PatientBirthDate": BIRTH_DATE,
        "StudyDescription": DESCRIPTION,
        "AccessionNumber": ACCESSION,
        "ReferringPhysicianName": PHYSICIAN,
        **changed,
    }
    return ct_file(folder, STUDY, f"{STUDY}.1", IMAGE, **attributes)


def send_bytes(node: Node, uid: str, data_set: bytes) -> None:
    with association(node, [(CT, EXPLICIT)]) as opened:
        store_bytes(opened, CT, uid, data_set)


def ask(node: Node, **keys: str) -> list[int]:
    """Ask what may be wrong to ask, with pynetdicom; return the statuses."""
    ae = AE(ae_title="ASKER")
    opened = ae.associate(
        node.host, node.port, [build_context(StudyRootFind, EXPLICIT)], ae_title=node.aet
    )
    assert opened.is_established
    identifier = Dataset()
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    statuses = [int(status.Status) for status, _ in opened.send_c_find(identifier, StudyRootFind)]
    opened.release()
    return statuses


@pytest.mark.slow
def test_no_log_says_whose_instances_they_were(node: Node, tmp_path: Path) -> None:
    sent = image(tmp_path / "first")
    # Stored, stored again, stored as another patient's, with values that nothing can read.
    dcmtk.store(node, sent, sent)
    dcmtk.store(node, image(tmp_path / "other", PatientName=OTHER_NAME, PatientID=OTHER_ID))
    dcmtk.store(node, image(tmp_path / "long", PatientID=PATIENT_ID * 9, PatientName=NAME * 9))
    data_set = sent.read_bytes()[132:]
    data_set = data_set[12 + int.from_bytes(data_set[8:12], "little") :]
    secret = "".join(SECRETS).encode()
    for uid, changed in {
        f"{IMAGE}.1": data_set,
        "../" + PATIENT_ID: data_set,
        IMAGE: data_set[: len(data_set) // 2],
        f"{IMAGE}.2": secret,
        f"{IMAGE}.3": data_set.replace(STUDY.encode(), PATIENT_ID.ljust(len(STUDY)).encode()),
    }.items():
        with contextlib.suppress(Exception):  # what the client itself cannot encode
            send_bytes(node, uid, changed)
    in_study = f"StudyInstanceUID={STUDY}"
    eventually(lambda: dcmtk.find(node, "STUDY", in_study, "PatientName"))

    # Asked well and badly.
    dcmtk.find(node, "STUDY", f"PatientName={NAME}", f"PatientBirthDate={BIRTH_DATE}")
    dcmtk.find(node, "PATIENT", f"PatientID={PATIENT_ID}", model="-P")
    assert ask(node, QueryRetrieveLevel="STUDY", PatientName=NAME)[-1] == 0
    assert ask(node, QueryRetrieveLevel=PATIENT_ID, PatientName=NAME)[-1] != 0
    assert ask(node, QueryRetrieveLevel="STUDY", StudyDate="Syphilis", PatientID=PATIENT_ID)[-1]
    assert ask(node, QueryRetrieveLevel="IMAGE", PatientName=NAME, SOPInstanceUID="")[-1] != 0

    # Retrieved: to nobody who listens, to nobody known, to the asker; by keys that are not enough.
    dcmtk.move(node, WORKSTATION, "STUDY", in_study)
    dcmtk.move(node, "NOBODY", "STUDY", in_study)
    dcmtk.move(node, WORKSTATION, "PATIENT", f"PatientID={PATIENT_ID}", model="-P")
    dcmtk.move(node, WORKSTATION, "STUDY", f"PatientName={NAME}")
    dcmtk.get(node, tmp_path / "got", "STUDY", in_study)
    dcmtk.get(node, tmp_path / "got", "STUDY", f"PatientName={NAME}")

    text = node.log.read_text("utf-8", "replace")
    # It did write down what happened, so it could have written more.
    for written in ("association ended", "instance quarantined", "retrieval ended", STUDY):
        assert written in text
    assert [secret for secret in SECRETS if secret in text] == []
