"""What every DIMSE-N request is asked, with pynetdicom against a service that remembers it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association

from gateway.association import Service
from gateway.command_set import CommandField
from gateway.normalized import Answer, NormalizedService, Operation, Refused, Request
from gateway.offers import Offer
from lenticular.errors import StoreUnavailable
from lenticular.nodes import Node
from lenticular.status import Status
from tests.peers.dimse import BIG_ENDIAN, EXPLICIT, IMPLICIT, policy, serving

pytestmark = pytest.mark.peers

COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
MPPS = "1.2.840.10008.3.1.2.3.3"
MPPS_RETRIEVE = "1.2.840.10008.3.1.2.3.4"
DEFLATED = "1.2.840.10008.1.2.1.99"
SYNTAXES = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)


class _Recorder:
    """Remembers requests; fails when told to."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.failure: Exception | None = None
        self.answer = Answer()
        self.responses: list[Dataset] = []

    def perform(self, request: Request) -> Answer:
        """Remember."""
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        return self.answer


@contextmanager
def _association(
    recorder: _Recorder, syntax: str = EXPLICIT, *, may: str = "commit", max_bytes: int = 1 << 20
) -> Iterator[Association]:
    operations = {COMMITMENT: Operation("commit", recorder.perform)}
    steps = {MPPS: Operation("mpps", recorder.perform, frozenset({MPPS_RETRIEVE}))}
    offers = {uid: Offer(frozenset(SYNTAXES)) for uid in (COMMITMENT, MPPS)}
    node = Node("MODALITY", "127.0.0.1", None, frozenset(may.split()))
    services: dict[int, Service] = {
        CommandField.N_ACTION_RQ: NormalizedService(operations, max_bytes=max_bytes),
        CommandField.N_CREATE_RQ: NormalizedService(steps),
        CommandField.N_GET_RQ: NormalizedService(steps),
    }
    with serving(services, acceptance=policy(node, access="known-aet", offers=offers)) as server:
        ae = AE("MODALITY")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        for uid in (COMMITMENT, MPPS):
            ae.add_requested_context(uid, syntax)
        # pynetdicom's own answer leaves elements of the command set out.
        opened = ae.associate(*server.address, ae_title="LENTICULAR", evt_handlers=[
            (evt.EVT_DIMSE_RECV, lambda event: recorder.responses.append(event.message.command_set))
        ])  # fmt: skip
        assert opened.is_established
        yield opened
        if opened.is_established:
            opened.release()


def _references(count: int) -> Dataset:
    information = Dataset()
    information.TransactionUID = "1.2.3"
    information.ReferencedSOPSequence = []
    for number in range(count):
        each = Dataset()
        each.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        each.ReferencedSOPInstanceUID = f"1.2.3.1{number:049}"
        information.ReferencedSOPSequence.append(each)
    return information


def _act(opened: Association, information: Dataset | None, uid: str = COMMITMENT_INSTANCE) -> Any:
    status, _ = opened.send_n_action(information, 1, COMMITMENT, uid)
    return status


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_action_information_is_read_in_every_syntax(syntax: str) -> None:
    recorder = _Recorder()
    with _association(recorder, syntax) as opened:
        status = _act(opened, _references(3))
    assert status.Status == Status.SUCCESS
    [request] = recorder.requests
    assert (request.sop_class_uid, request.sop_instance_uid) == (COMMITMENT, COMMITMENT_INSTANCE)
    assert request.action_type_id == 1
    assert [item["00081155"]["Value"] for item in request.elements[0x00081199]["Value"]] == [
        [f"1.2.3.1{number:049}"] for number in range(3)
    ]


def test_ten_thousand_references_arrive() -> None:
    recorder = _Recorder()
    with _association(recorder, max_bytes=8 << 20) as opened:
        status = _act(opened, _references(10_000))
    assert status.Status == Status.SUCCESS
    assert len(recorder.requests[0].elements[0x00081199]["Value"]) == 10_000


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_a_longer_data_set_is_refused_and_the_association_goes_on(syntax: str) -> None:
    recorder = _Recorder()
    with _association(recorder, syntax, max_bytes=20_000) as opened:
        refused = _act(opened, _references(1_000))
        # Deflated it is short, and only its reader finds out.
        expected = (
            Status.INVALID_ARGUMENT_VALUE if syntax == DEFLATED else Status.RESOURCE_LIMITATION
        )
        assert refused.Status == expected
        assert _act(opened, _references(1)).Status == Status.SUCCESS
    assert len(recorder.requests) == 1


def test_a_node_without_the_permission_is_refused() -> None:
    recorder = _Recorder()
    with _association(recorder, may="store mpps") as opened:
        assert _act(opened, _references(1)).Status == Status.NOT_AUTHORIZED
    assert not recorder.requests


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["..", "1..2", "1.2a", "../../etc/passwd"])
def test_what_is_no_uid_is_refused(uid: str) -> None:
    recorder = _Recorder()
    with _association(recorder) as opened:
        status, _ = opened.send_n_get([], MPPS, uid)
    assert status.Status == Status.NOT_AUTHORIZED  # asked first
    with _association(recorder, may="mpps") as opened:
        status, _ = opened.send_n_get([], MPPS, uid)
    assert status.Status == Status.INVALID_OBJECT_INSTANCE
    assert not recorder.requests


def test_a_sop_class_of_another_context_is_refused() -> None:
    recorder = _Recorder()
    with _association(recorder, may="mpps") as opened:
        status, _ = opened.send_n_get([], COMMITMENT, "1.2", meta_uid=MPPS)
        assert status.Status == Status.NO_SUCH_SOP_CLASS
        status, _ = opened.send_n_get([], MPPS_RETRIEVE, "1.2", meta_uid=MPPS)
    assert status.Status == Status.SUCCESS
    assert [request.sop_class_uid for request in recorder.requests] == [MPPS_RETRIEVE]


def test_an_operation_that_a_sop_class_does_not_have_is_not_recognized() -> None:
    recorder = _Recorder()
    with _association(recorder, may="mpps commit") as opened:
        status, _ = opened.send_n_action(None, 1, MPPS, "1.2")
        assert status.Status == Status.UNRECOGNIZED_OPERATION
        status = opened.send_n_delete(MPPS, "1.2")
        assert status.Status == Status.UNRECOGNIZED_OPERATION
    assert not recorder.requests


def test_a_refusal_says_why_and_which_attributes() -> None:
    recorder = _Recorder()
    recorder.failure = Refused(
        Status.MISSING_ATTRIBUTE, "no Modality", attributes=(0x00080060,), error_id=0xA710
    )
    with _association(recorder) as opened:
        status = _act(opened, _references(1))
    assert status.Status == Status.MISSING_ATTRIBUTE
    assert status.ErrorComment == "no Modality"
    assert status.ErrorID == 0xA710
    assert recorder.responses[0].AttributeIdentifierList == 0x00080060


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (StoreUnavailable("S3 refused: SlowDown"), Status.RESOURCE_LIMITATION),
        (ZeroDivisionError(), Status.PROCESSING_FAILURE),
    ],
)
def test_a_failure_of_ours_is_told_and_the_association_goes_on(
    failure: Exception, expected: Status
) -> None:
    recorder = _Recorder()
    with _association(recorder) as opened:
        recorder.failure = failure
        assert _act(opened, _references(1)).Status == expected
        recorder.failure = None
        assert _act(opened, _references(1)).Status == Status.SUCCESS


def test_an_answer_has_its_data_set_in_the_syntax_of_the_context() -> None:
    recorder = _Recorder()
    recorder.answer = Answer(
        sop_instance_uid="1.2.3.4",
        elements={
            0x00080005: {"vr": "CS", "Value": ["ISO_IR 100"]},
            0x00100010: {"vr": "PN", "Value": [{"Alphabetic": "Müller^Eva"}]},
        },
        character_set=("ISO_IR 100",),
    )
    for syntax in SYNTAXES:
        with _association(recorder, syntax, may="mpps") as opened:
            status, attributes = opened.send_n_create(_references(1), MPPS)
        assert status.Status == Status.SUCCESS
        assert recorder.responses.pop().AffectedSOPInstanceUID == "1.2.3.4"
        assert attributes is not None
        assert attributes.PatientName == "Müller^Eva"
        assert attributes.SpecificCharacterSet == "ISO_IR 100"
