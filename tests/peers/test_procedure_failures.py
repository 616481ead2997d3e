"""Performed procedure steps when S3 fails, the gateway dies, or the sender may not."""

import threading
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from lenticular.archive import procedure_prefix
from lenticular.status import Status
from tests.cloud.deadline import eventually
from tests.peers.custody import AT_ONCE, StartGateway
from tests.peers.faulty_s3 import Fault, FaultyS3
from tests.peers.node_process import running_node
from tests.peers.nodes_file import nodes_file
from tests.peers.procedures import Modality, ended, modality, send_by_dcmjs, series, started

pytestmark = [pytest.mark.peers, pytest.mark.slow]

OBJECTS = "PUT /"


def _state(asking: Modality, step: str) -> str:
    assert asking.get(step, "PerformedProcedureStepStatus") == Status.SUCCESS
    assert asking.returned is not None
    return str(asking.returned.PerformedProcedureStepStatus)


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.INTERNAL_ERROR, Fault.CONFLICT])
def test_what_s3_does_not_take_is_refused_and_may_be_sent_again(
    start: StartGateway, s3: FaultyS3, fault: Fault
) -> None:
    gateway = start(AT_ONCE)
    step, study = generate_uid(None), generate_uid(None)
    with modality(gateway) as sending:
        s3.fail(fault, where=OBJECTS)
        assert sending.create(step, started(study)) == Status.RESOURCE_LIMITATION
        s3.heal()
        assert sending.create(step, started(study)) == Status.SUCCESS
        s3.fail(fault, where=OBJECTS)
        assert sending.set(step, ended(series("1.2.3"))) == Status.RESOURCE_LIMITATION
        assert _state(sending, step) == "IN PROGRESS"
        s3.heal()
        assert sending.set(step, ended(series("1.2.3"))) == Status.SUCCESS
        assert _state(sending, step) == "COMPLETED"


@pytest.mark.parametrize("retry_seconds", ["0", "20"])
def test_a_lost_answer_of_s3_neither_loses_a_state_nor_makes_another(
    start: StartGateway, s3: FaultyS3, retry_seconds: str
) -> None:
    gateway = start({"LENTICULAR_RETRY_SECONDS": retry_seconds})
    step, study = generate_uid(None), generate_uid(None)
    # Asked once, S3's answer is lost for good: the sender hears so, and sends again.
    lost = [Status.RESOURCE_LIMITATION] if retry_seconds == "0" else []
    with modality(gateway) as sending:
        s3.fail(Fault.ANSWER_LOST, where=OBJECTS, times=1)
        assert [sending.create(step, started(study)) for _ in [*lost, 0]] == [*lost, 0]
        s3.fail(Fault.ANSWER_LOST, where=OBJECTS, times=1)
        assert [sending.set(step, ended(series("1.2.3"))) for _ in [*lost, 0]] == [*lost, 0]
        assert _state(sending, step) == "COMPLETED"
    assert len(gateway.object_keys(procedure_prefix(step))) == 2


def test_a_step_that_cannot_be_read_is_not_an_unknown_one(
    start: StartGateway, s3: FaultyS3
) -> None:
    gateway = start(AT_ONCE)
    step = generate_uid(None)
    with modality(gateway) as sending:
        assert sending.create(step, started(generate_uid(None))) == Status.SUCCESS
        s3.fail(Fault.ACCESS_DENIED, where="GET /")
        assert sending.get(step) == Status.RESOURCE_LIMITATION
        assert sending.set(step, ended(series("1.2.3"))) == Status.RESOURCE_LIMITATION
        s3.heal()
        assert sending.get(step) == Status.SUCCESS


def test_a_gateway_that_is_killed_has_said_nothing_that_is_not_so(
    start: StartGateway, s3: FaultyS3
) -> None:
    step, study = generate_uid(None), generate_uid(None)
    gateway = start()
    with modality(gateway) as sending:
        assert sending.create(step, started(study)) == Status.SUCCESS
        s3.fail(Fault.HELD, where=OBJECTS)
        heard: list[int | None] = []
        end = ended(series("1.2.3"))
        waiting = threading.Thread(target=lambda: heard.append(sending.set(step, end)))
        waiting.start()
        eventually(lambda: s3.held)
        gateway.kill()
        waiting.join()
        assert heard == [None]
    s3.heal()
    again = start()
    with modality(again) as sending:
        # The PUT may have come through or not: the same request is right either way.
        assert sending.set(step, ended(series("1.2.3"))) == Status.SUCCESS
        assert _state(sending, step) == "COMPLETED"
        assert sending.set(step, ended(series("1.2.3"))) == Status.PROCESSING_FAILURE
    assert len(again.object_keys(procedure_prefix(step))) == 2


def test_who_may_not_send_steps_is_not_let(tmp_path: Path) -> None:
    rights = {"CT1": {"may": ["store", "mpps"]}, "VIEWER": {"may": ["find", "move"]}}
    nodes = nodes_file(tmp_path, rights)
    step = generate_uid(None)
    with running_node(tmp_path / "node.log", "--nodes", str(nodes)) as node:
        [created] = send_by_dcmjs(
            node, step, ("n-create", started(generate_uid(None))), calling="CT1"
        )
        assert created["status"] == Status.SUCCESS
        with pytest.raises(AssertionError, match="refused"), modality(node, aet="VIEWER"):
            pass
