"""Every storage class is stored in every transfer syntax, unknown ones where a setting says so."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as StudyRootGet  # type: ignore[attr-defined]

from gateway.command_set import CommandField, CommandSet, encode
from lenticular.part10 import data_set_offset, file_head
from lenticular.sop_classes import STORAGE
from lenticular.transfer_syntaxes import BY_UID
from tests.cloud.deadline import eventually
from tests.cloud.standin import offline_cloud
from tests.encoded_data_sets import deflate
from tests.peers import dcmjs_dimse, dcmtk
from tests.peers.conftest import WORKSTATION, Clinic
from tests.peers.digesting_s3 import digesting_s3
from tests.peers.dimse import associate_rq, p_data
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.node_process import Node, running_node
from tests.peers.nodes_file import nodes_file
from tests.peers.pynetdicom_peer import association, store_bytes
from tests.ports import free_port

pytestmark = pytest.mark.peers

SUCCESS = 0x0000
CONTEXTS = 128
STUDY, SERIES = "1.2.826.0.1.91.1", "1.2.826.0.1.91.1.1"
PRIVATE_CLASS = "1.2.840.113619.4.30"
CLASS_OF_THE_NEXT_EDITION = "1.2.840.10008.5.1.4.1.1.9999"
OTHER_SERVICES = [
    "1.2.840.10008.5.1.4.1.1.201.2",
    "1.2.840.10008.5.1.1.9",
    "1.2.840.10008.5.1.4.31.9",
]


@dataclass(frozen=True)
class Small:
    """An instance without pixels, of any class and in any syntax."""

    sop_class_uid: str
    transfer_syntax_uid: str
    sop_instance_uid: str

    @cached_property
    def data_set(self) -> bytes:
        """The data set, as pydicom writes it."""
        syntax = BY_UID[self.transfer_syntax_uid]
        file = DicomBytesIO()
        file.is_little_endian = syntax.little_endian
        file.is_implicit_VR = not syntax.explicit
        data_set = Dataset()
        data_set.SOPClassUID = self.sop_class_uid
        data_set.SOPInstanceUID = self.sop_instance_uid
        data_set.Modality = "SR"
        data_set.PatientID = "P91"
        data_set.StudyInstanceUID = STUDY
        data_set.SeriesInstanceUID = SERIES
        write_dataset(file, data_set)
        encoded = bytes(file.getvalue())
        return deflate(encoded) if syntax.deflated else encoded

    @property
    def key(self) -> str:
        """The object that must keep it."""
        head = file_head(self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax_uid)
        sha256 = hashlib.sha256(head + self.data_set).hexdigest()
        return f"instances/{STUDY}/{SERIES}/{self.sop_instance_uid}/{sha256}.dcm"

    @property
    def command(self) -> bytes:
        """The C-STORE-RQ."""
        return encode(
            CommandSet(
                CommandField.C_STORE_RQ,
                message_id=1,
                affected_sop_class_uid=self.sop_class_uid,
                affected_sop_instance_uid=self.sop_instance_uid,
                priority=0,
                command_data_set_type=0,
            )
        )


def every_pair() -> list[Small]:
    """Return an instance of each storage class in each transfer syntax."""
    return [
        Small(abstract, transfer, f"{SERIES}.{number}")
        for number, (abstract, transfer) in enumerate(itertools.product(STORAGE, BY_UID), 1)
    ]


def batches(instances: Sequence[Small], length: int) -> list[Sequence[Small]]:
    return [instances[at : at + length] for at in range(0, len(instances), length)]


def store_with_raw_peers(gateway: Gateway, instances: Sequence[Small]) -> list[int | None]:
    """Store over associations that have a context for each instance; return the statuses."""
    with ThreadPoolExecutor(4) as senders:
        answered = senders.map(
            lambda batch: store_with_raw_peer(gateway, batch), batches(instances, CONTEXTS)
        )
        return list(itertools.chain.from_iterable(answered))


def store_with_raw_peer(gateway: Gateway, instances: Sequence[Small]) -> list[int | None]:
    """Store over one association that has a context for each; return the statuses."""
    contexts = [
        (number * 2 + 1, each.sop_class_uid, [each.transfer_syntax_uid])
        for number, each in enumerate(instances)
    ]
    statuses = []
    with gateway.connect() as peer:
        peer.send(associate_rq(contexts))
        kind, _ = peer.read_pdu()
        assert kind == 2
        for (context_id, _, _), each in zip(contexts, instances, strict=True):
            peer.send(
                p_data((context_id, 3, each.command)) + p_data((context_id, 2, each.data_set))
            )
            statuses.append(peer.read_response().status)
        peer.release()
    return statuses


def store_with_dcmjs(gateway: Gateway, instances: Sequence[Small]) -> list[int | None]:
    """Store with dcmjs-dimse, the instances of two classes over each association."""

    def context(each: Small) -> dict[str, object]:
        return {"abstract": each.sop_class_uid, "transfer": [each.transfer_syntax_uid]}

    # By itself it proposes Implicit VR along with Explicit VR alone, of which we prefer the latter.
    associations = [
        dcmjs_dimse.Association(
            [
                dcmjs_dimse.store_of(
                    each.sop_class_uid, each.sop_instance_uid, each.transfer_syntax_uid,
                    each.data_set,
                )
                for each in batch
            ],
            [context(each) for each in batch if each.transfer_syntax_uid == ImplicitVRLittleEndian],
        )
        for batch in batches(instances, 2 * len(BY_UID))
    ]  # fmt: skip
    return list(dcmjs_dimse.statuses(dcmjs_dimse.run_each(gateway, associations)))


@pytest.fixture(scope="module")
def stores() -> Iterator[Stores]:
    with offline_cloud() as cloud:
        yield Stores.in_cloud(cloud)


@pytest.mark.slow
@pytest.mark.parametrize("store", [store_with_raw_peers, store_with_dcmjs])
def test_every_storage_class_is_stored_in_every_transfer_syntax(
    stores: Stores, tmp_path: Path, store: Callable[[Gateway, Sequence[Small]], list[int | None]]
) -> None:
    instances = every_pair()
    with (
        digesting_s3() as (endpoint, held),
        running_gateway(
            tmp_path / "gateway.log", stores, {"AWS_ENDPOINT_URL_S3": endpoint}
        ) as gateway,
    ):
        statuses = store(gateway, instances)
        complaints = [line for line in gateway.lines() if line["level"] not in ("DEBUG", "INFO")]
    refused = [
        (each.sop_class_uid, each.transfer_syntax_uid, status)
        for each, status in zip(instances, statuses, strict=True)
        if status != SUCCESS
    ]
    assert refused == []
    assert held.objects.keys() == {each.key for each in instances}
    # The SHA-256 of a file is in its key: what came is what was sent, bit for bit.
    assert all(part.sha256 in key for key, [part] in held.objects.items())
    assert complaints == []


# Classes that this version does not know


@pytest.fixture(scope="module")
def promiscuous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Run a node that takes unknown classes."""
    folder = tmp_path_factory.mktemp("promiscuous")
    port = free_port()
    nodes = nodes_file(folder, {WORKSTATION: port, "READER": {"may": ["find", "move"]}})
    with running_node(
        folder / "node.log",
        "--nodes",
        str(nodes),
        settings={"LENTICULAR_UNKNOWN_CLASSES": "accept"},
    ) as node:
        yield Clinic(node, port)


def contexts_accepted(node: Node, abstract_syntax: str, calling_aet: str = "ANY") -> int:
    """Propose one class to a node with pynetdicom; return how many contexts it accepted."""
    ae = AE(ae_title=calling_aet)
    opened = ae.associate(
        node.host, node.port, [build_context(abstract_syntax, ExplicitVRLittleEndian)], node.aet
    )
    accepted = len(opened.accepted_contexts)
    opened.release() if opened.is_established else opened.abort()
    return accepted


@pytest.mark.parametrize("uid", [PRIVATE_CLASS, CLASS_OF_THE_NEXT_EDITION])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_an_unknown_class_is_stored_found_moved_and_got_where_the_setting_says_so(
    promiscuous: Clinic, tmp_path: Path, uid: str, syntax: UID
) -> None:
    node = promiscuous.node
    instance = Small(uid, syntax, f"{uid}.{len(syntax)}")
    with association(node, [(uid, syntax)]) as opened:
        assert store_bytes(opened, uid, instance.sop_instance_uid, instance.data_set) == SUCCESS
    keys = [
        "IMAGE", f"StudyInstanceUID={STUDY}", f"SeriesInstanceUID={SERIES}",
        f"SOPInstanceUID={instance.sop_instance_uid}",
    ]  # fmt: skip
    eventually(
        lambda: dcmtk.find(node, *keys, "SOPClassUID"),
        until=lambda found: [each["0008,0016"] for each in found] == [uid],
    )

    with dcmtk.receiver(
        tmp_path / "received", WORKSTATION, promiscuous.workstation_port, "--promiscuous"
    ) as received:
        dcmtk.move(node, WORKSTATION, *keys)
        [moved] = received.iterdir()
        whole = moved.read_bytes()
    assert whole[data_set_offset(whole) :] == instance.data_set

    assert got_by_c_get(node, uid, syntax, instance.sop_instance_uid) == [instance.data_set]


def got_by_c_get(node: Node, uid: str, syntax: str, sop_instance_uid: str) -> list[bytes]:
    """Get an instance with pynetdicom, as the SCP of its class; return data sets as they came."""
    got: list[bytes] = []

    def keep(event: evt.Event) -> int:
        assert isinstance(event.request, C_STORE)
        assert event.request.DataSet is not None
        got.append(event.request.DataSet.getvalue())
        return SUCCESS

    ae = AE(ae_title="READER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    opened = ae.associate(
        node.host,
        node.port,
        [build_context(StudyRootGet), build_context(uid, syntax)],
        node.aet,
        ext_neg=[build_role(uid, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    assert opened.is_established
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = STUDY
    identifier.SeriesInstanceUID = SERIES
    identifier.SOPInstanceUID = sop_instance_uid
    *_, (final, _) = opened.send_c_get(identifier, StudyRootGet)
    opened.release()
    assert final.Status == SUCCESS, final
    return got


@pytest.mark.parametrize("uid", [PRIVATE_CLASS, CLASS_OF_THE_NEXT_EDITION])
def test_an_unknown_class_is_refused_by_default(clinic: Clinic, uid: str) -> None:
    assert contexts_accepted(clinic.node, uid) == 0


@pytest.mark.parametrize("uid", OTHER_SERVICES)
def test_a_class_of_another_service_is_not_taken_for_storage(promiscuous: Clinic, uid: str) -> None:
    assert contexts_accepted(promiscuous.node, uid) == 0


def test_a_node_that_may_not_store_offers_no_unknown_class(promiscuous: Clinic) -> None:
    assert contexts_accepted(promiscuous.node, PRIVATE_CLASS, "READER") == 0
    assert contexts_accepted(promiscuous.node, PRIVATE_CLASS, WORKSTATION) == 1
