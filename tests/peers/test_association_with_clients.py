"""DCMTK and pynetdicom as clients of the DIMSE server."""

import logging
import subprocess
import threading
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    UserIdentityNegotiation,
)

from gateway.association import Association, Limits
from gateway.command_set import CommandField, CommandSet
from gateway.messages import BufferSink, DataSetSink, Message
from gateway.negotiation import Roles
from gateway.server import Server
from lenticular import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from tests.peers.dimse import (
    CT,
    EXPLICIT,
    IMPLICIT,
    JPEG_LOSSLESS,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    VERIFICATION,
    Keep,
    serving,
)

pytestmark = pytest.mark.peers


def dcmtk(program: str, server: Server, *arguments: str) -> str:
    """Run a DCMTK client and return what it printed."""
    host, port = server.address
    files = [part for part in arguments if part.startswith("/")]
    options = [part for part in arguments if part not in files]
    done = subprocess.run(
        [program, "-aec", "LENTICULAR", *options, host, str(port), *files],
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def ct_file(folder: Path, number: int = 1, size: int = 300_000) -> tuple[Path, bytes]:
    """Write an image and return it with its encoded data set."""
    data_set = Dataset()
    data_set.SOPClassUID = CT
    data_set.SOPInstanceUID = f"1.2.3.{number}"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1.2.3", "1.2.3.0"
    data_set.add_new(0x7FE00010, "OB", bytes(size))
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    path = folder / f"{number}.dcm"
    data_set.save_as(path, enforce_file_format=True)
    whole = path.read_bytes()
    meta = dcmread(path, specific_tags=[]).file_meta
    return path, whole[144 + meta.FileMetaInformationGroupLength :]


def test_dcmtk_verifies_the_connection() -> None:
    with serving() as server:
        told = dcmtk("echoscu", server, "-d", "--repeat", "3")
    assert told.count("Received Echo Response (Success)") == 3
    assert IMPLEMENTATION_CLASS_UID in told
    assert IMPLEMENTATION_VERSION_NAME in told


@pytest.mark.parametrize("max_send_pdu", ["4096", "16384", "131072"])
def test_a_data_set_arrives_bit_for_bit_whatever_the_pdu_length(
    tmp_path: Path, max_send_pdu: str
) -> None:
    files = [ct_file(tmp_path, number) for number in (1, 2, 3)]
    keep = Keep()
    with serving({CommandField.C_STORE_RQ: keep}) as server:
        dcmtk("storescu", server, "--max-send-pdu", max_send_pdu, *(str(path) for path, _ in files))
    assert keep.data == [data for _, data in files]
    assert keep.associations[0].peer.calling_aet == "STORESCU"


def test_dcmtk_hears_the_status_of_a_service_that_fails_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class FailsFirst(Keep):
        def handle(
            self, association: Association, message: Message, sink: DataSetSink | None
        ) -> None:
            if message.command.affected_sop_instance_uid == "1.2.3.1":
                raise RuntimeError("Doe^Jane")
            super().handle(association, message, sink)

    files = [ct_file(tmp_path, number) for number in (1, 2)]
    keep = FailsFirst()
    with serving({CommandField.C_STORE_RQ: keep}) as server:
        told = dcmtk("storescu", server, "-d", "-nh", *(str(path) for path, _ in files))
    assert "0xa702" in told.lower()
    assert keep.data == [files[1][1]]
    assert "service failed" in [record.getMessage() for record in caplog.records]


def test_a_sink_that_fails_costs_its_message_alone(tmp_path: Path) -> None:
    class FullDisk(BufferSink):
        discarded = 0

        def write(self, view: memoryview) -> None:  # noqa: ARG002
            raise OSError(28, "No space left on device")

        def discard(self) -> None:
            FullDisk.discarded += 1

    class FullAtFirst(Keep):
        def begin(self, association: Association, message: Message) -> DataSetSink:
            if message.command.affected_sop_instance_uid == "1.2.3.1":
                return FullDisk()
            return super().begin(association, message)

    files = [ct_file(tmp_path, number) for number in (1, 2)]
    keep = FullAtFirst()
    with serving({CommandField.C_STORE_RQ: keep}) as server:
        told = dcmtk("storescu", server, "-d", "-nh", *(str(path) for path, _ in files))
    assert "0xa702" in told.lower()
    assert FullDisk.discarded == 1
    assert keep.data == [files[1][1]]


def test_pynetdicom_negotiates_every_kind_of_item() -> None:
    keep = Keep()
    client = AE(ae_title="PYNETDICOM")
    client.add_requested_context(VERIFICATION, [JPEG_LOSSLESS, EXPLICIT])
    client.add_requested_context(CT, [IMPLICIT, EXPLICIT])
    client.add_requested_context("1.2.3.4.5", [IMPLICIT])
    client.add_requested_context(STUDY_ROOT_FIND, [JPEG_LOSSLESS])
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    window.maximum_number_operations_performed = 5
    with serving({CommandField.C_STORE_RQ: keep}) as server:
        association = client.associate(
            *server.address,
            ae_title="LENTICULAR",
            ext_neg=[window, build_role(CT, scu_role=True, scp_role=True)],
        )
        assert association.is_established
        accepted = {
            str(context.abstract_syntax): context for context in association.accepted_contexts
        }
        assert {uid: context.transfer_syntax for uid, context in accepted.items()} == {
            VERIFICATION: [EXPLICIT],
            CT: [EXPLICIT],
        }
        assert (accepted[CT].as_scu, accepted[CT].as_scp) == (True, True)
        results = {
            context.abstract_syntax: context.result for context in association.rejected_contexts
        }
        assert results == {"1.2.3.4.5": 3, STUDY_ROOT_FIND: 4}
        assert association.acceptor.asynchronous_operations == (1, 1)
        assert association.acceptor.implementation_class_uid == IMPLEMENTATION_CLASS_UID
        assert association.acceptor.maximum_length == Limits().max_pdu_bytes
        assert association.send_c_echo().Status == 0
        association.release()
        client.shutdown()


@pytest.mark.parametrize("response_requested", [False, True])
def test_who_the_user_is_makes_no_difference_and_is_not_written_down(
    caplog: pytest.LogCaptureFixture, response_requested: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    # PS3.7 D.3.3.7: user name, with passcode, Kerberos ticket, SAML assertion.
    for kind, secondary in ((1, b""), (2, b"sesame"), (3, b""), (4, b"")):
        identity = UserIdentityNegotiation()
        identity.user_identity_type = kind
        identity.positive_response_requested = response_requested
        identity.primary_field = b"anna"
        identity.secondary_field = secondary
        client = AE(ae_title="PYNETDICOM")
        client.add_requested_context(VERIFICATION)
        with serving() as server:
            association = client.associate(
                *server.address, ae_title="LENTICULAR", ext_neg=[identity]
            )
            assert association.is_established
            # Whoever answers the item claims to know the user.
            assert association.acceptor.user_identity is None
            assert association.send_c_echo().Status == 0
            association.release()
            client.shutdown()
    ours = [vars(record) for record in caplog.records if record.name.startswith("gateway")]
    assert [line["message"] for line in ours].count("association ended") == 4
    assert "anna" not in str(ours)
    assert "sesame" not in str(ours)


def test_dcmtk_stores_as_a_user_with_a_password(tmp_path: Path) -> None:
    path, data = ct_file(tmp_path)
    keep = Keep()
    with serving({CommandField.C_STORE_RQ: keep}) as server:
        dcmtk("storescu", server, "--user", "anna", "--password", "sesame", str(path))
    assert keep.data == [data]


class FindUntilCancelled:
    """Answers 1,000 times, or until the peer has had enough."""

    failure_status = 0xC001

    def __init__(self) -> None:
        self.sent = 0
        self.cancelled_after: int | None = None
        self.first_was_read = threading.Event()

    def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002
        """Take the identifier into memory."""
        return BufferSink()

    def handle(
        self,
        association: Association,
        message: Message,
        sink: DataSetSink | None,  # noqa: ARG002
    ) -> None:
        """Send answers and look for a cancel between them."""
        assert message.data
        while self.sent < 1000:
            if association.cancel_requested(message.command.message_id or 0):
                self.cancelled_after = self.sent
                association.send_response(message.context, message.command.response(0xFE00))
                return
            association.send_response(
                message.context, message.command.response(0xFF00), message.data
            )
            self.sent += 1
            if self.sent == 3:
                assert self.first_was_read.wait(10)
        association.send_response(message.context, message.command.response(0))


def test_a_query_streams_its_answers_and_stops_when_cancelled() -> None:
    find = FindUntilCancelled()
    client = AE()
    client.add_requested_context(STUDY_ROOT_FIND)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.PatientID = "42"
    with serving({CommandField.C_FIND_RQ: find}) as server:
        association = client.associate(*server.address, ae_title="LENTICULAR")
        responses = association.send_c_find(identifier, STUDY_ROOT_FIND, msg_id=77)
        status, answer = next(responses)
        assert status.Status == 0xFF00
        assert answer == identifier
        association.send_c_cancel(77, None, STUDY_ROOT_FIND)
        find.first_was_read.set()
        assert [status.Status for status, _ in responses][-1] == 0xFE00
        # The association lives on, with nothing of the cancelled operation left.
        find.sent = 997
        statuses = [
            status.Status for status, _ in association.send_c_find(identifier, STUDY_ROOT_FIND)
        ]
        assert statuses == [0xFF00] * 3 + [0]
        association.release()
        client.shutdown()
    assert find.cancelled_after is not None
    assert find.cancelled_after < 900


def test_a_cancel_that_comes_too_late_changes_nothing() -> None:
    client = AE()
    client.add_requested_context(VERIFICATION)
    with serving() as server:
        association = client.associate(*server.address, ae_title="LENTICULAR")
        association.send_c_cancel(1, None, VERIFICATION)
        assert association.send_c_echo().Status == 0
        association.release()
        client.shutdown()


class SendsBack:
    """C-GET as far as the transport goes: one C-STORE sub-operation on the same association."""

    failure_status = 0xC001

    def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002
        """Take the identifier into memory."""
        return BufferSink()

    def handle(
        self,
        association: Association,
        message: Message,
        sink: DataSetSink | None,  # noqa: ARG002
    ) -> None:
        """Store something at the requestor, then answer."""
        assert association.peer.roles_for(CT) == Roles(scu=True, scp=True)
        context = next(c for c in association.contexts.values() if c.abstract_syntax == CT)
        data_set = b"\x08\0\x18\0UI\x08\x001.2.3.9\0"
        response, _ = association.request(
            context,
            CommandSet(
                CommandField.C_STORE_RQ,
                affected_sop_class_uid=CT,
                affected_sop_instance_uid="1.2.3.9",
                priority=0,
            ),
            [data_set[:5], memoryview(data_set)[5:]],
        )
        assert response.status == 0
        final = message.command.response(0)
        final.number_of_completed_suboperations = 1
        association.send_response(message.context, final)


def test_a_sub_operation_runs_on_the_requestors_own_association() -> None:
    received: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0x0000

    client = AE()
    client.add_requested_context(STUDY_ROOT_GET)
    client.add_requested_context(CT, [EXPLICIT])
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    with serving({CommandField.C_GET_RQ: SendsBack()}) as server:
        association = client.associate(
            *server.address,
            ae_title="LENTICULAR",
            ext_neg=[build_role(CT, scu_role=True, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, keep)],
        )
        statuses = [status for status, _ in association.send_c_get(identifier, STUDY_ROOT_GET)]
        association.release()
        client.shutdown()
    assert [data_set.SOPInstanceUID for data_set in received] == ["1.2.3.9"]
    assert [status.Status for status in statuses] == [0]
