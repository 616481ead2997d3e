"""What a gateway with a spool acknowledged gets into the bucket as if there were none."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from pydicom.data import get_testdata_file

from lenticular.part10 import file_head
from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.custody import (
    AT_ONCE,
    KIB,
    LONG,
    MIB,
    S3_IS_AWAY,
    SHORT,
    SMALL_MEMORY,
    SUCCESS,
    StartGateway,
    complaints,
    in_bucket,
    kept,
    once,
    versions_in_bucket,
)
from tests.peers.dimse import CT, EXPLICIT, associate_rq, p_data, store_rq_command
from tests.peers.faulty_s3 import Fault, FaultyS3
from tests.peers.gateway_process import Gateway
from tests.peers.instances import altered, study
from tests.peers.spooling import entries, left_in, spooling, wait_for_bucket
from tests.peers.storing import store, storing

pytestmark = [pytest.mark.peers, pytest.mark.slow]

WARNED: Final = 0xB007
MISMATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000


def heads(gateway: Gateway) -> dict[str, Any]:
    """Return what S3 says of each object."""
    s3 = gateway.client("s3")
    return {key: s3.head_object(Bucket=gateway.bucket, Key=key) for key in gateway.object_keys()}


# Before S3 has it


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_an_instance_is_acknowledged_before_s3_has_it_and_gets_there_unchanged(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path, size: int
) -> None:
    gateway = start(spooling(spool))
    instances = study(tmp_path / "sent", 5, size=size)
    s3.fail(Fault.HELD)
    assert store(gateway, *instances) == [SUCCESS] * 5
    assert gateway.object_keys() == []
    assert len(entries(spool)) == 5
    s3.heal()
    wait_for_bucket(gateway, kept(instances))
    eventually(lambda: left_in(spool), until=lambda left: left == [])
    assert versions_in_bucket(gateway) == once(instances)
    assert complaints(gateway) == []


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_an_object_that_came_through_the_spool_is_like_one_that_did_not(
    start: StartGateway, s3: FaultyS3, spool_settings: dict[str, str], tmp_path: Path, size: int
) -> None:
    direct, spooled = study(tmp_path / "sent", 2, size=size)
    assert store(start({**AT_ONCE, **SMALL_MEMORY}), direct) == [SUCCESS]
    gateway = start(spool_settings)
    s3.fail(Fault.HELD)
    before = datetime.now(UTC)
    assert store(gateway, spooled) == [SUCCESS]
    after = datetime.now(UTC)
    gateway.kill()
    s3.heal()
    # The one who uploads it is not the one who received it.
    gateway = start(spool_settings)
    wait_for_bucket(gateway, kept([direct, spooled]))
    found = heads(gateway)
    received = found[spooled.key]["Metadata"].pop("received")
    assert before <= datetime.fromisoformat(received) <= after
    del found[direct.key]["Metadata"]["received"]
    for fact in ("Metadata", "ContentType", "StorageClass", "ServerSideEncryption"):
        assert found[spooled.key].get(fact) == found[direct.key].get(fact), fact
    assert found[spooled.key]["Metadata"] == {"calling-aet": "STORESCU", "called-aet": gateway.aet}


def test_what_is_wrong_with_an_instance_is_told_at_once_and_it_goes_to_quarantine(
    start: StartGateway, s3: FaultyS3, spool_settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start(spool_settings)
    s3.fail(Fault.HELD)
    for size in (SHORT, LONG):
        [instance] = study(tmp_path / str(size), 1, size=size)
        data_set = instance.path.read_bytes()[instance.data_set_offset :]
        assert store_as(gateway, "1.2.3.4", data_set) == MISMATCH
        assert store_as(gateway, instance.sop_instance_uid, data_set[:50]) == CANNOT_UNDERSTAND
        # Behind the UIDs, in the pixel data.
        assert store_as(gateway, instance.sop_instance_uid, data_set[:-1]) == CANNOT_UNDERSTAND
    assert gateway.object_keys() == []
    s3.heal()
    keys = eventually(gateway.object_keys, until=lambda keys: len(keys) == 6)
    assert all(key.startswith("quarantine/") for key in keys)
    assert in_bucket(gateway) == {key: key.split("/")[2][:64] for key in keys}


@pytest.mark.parametrize("validation", ["warn", "reject"])
def test_an_instance_is_held_against_its_iod_before_it_is_in_the_journal(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path, validation: str
) -> None:
    settings = spooling(spool, LENTICULAR_VALIDATION=validation)
    valid = Path(str(get_testdata_file("CT_small.dcm")))
    [short], [long] = study(tmp_path / "1", 1), study(tmp_path / "2", 1, size=LONG)
    status, taken = (WARNED, [short, long]) if validation == "warn" else (MISMATCH, [])
    gateway = start(settings)
    s3.fail(Fault.HELD)
    files = (short.path, long.path, valid)
    assert dcmtk.store(gateway, *files, options=("-nh",)) == [status, status, SUCCESS]
    # What is refused is gone when its sender hears so.
    assert len(left_in(spool)) == len(entries(spool)) == len(taken) + 1
    gateway.kill()
    s3.heal()
    gateway = start(settings)
    eventually(lambda: left_in(spool), until=lambda left: left == [])
    found = in_bucket(gateway)
    assert kept(taken).items() <= found.items()
    assert len(found) == len(taken) + 1


def store_as(gateway: Gateway, uid: str, data_set: bytes) -> int | None:
    """Send a data set under a SOP Instance UID and return the status."""
    with gateway.connect() as peer:
        peer.send(associate_rq([(1, CT, (EXPLICIT,))], called=gateway.aet))
        assert peer.read_pdu()[0] == 2
        peer.send(p_data((1, 3, store_rq_command(uid=uid))))
        for at in range(0, len(data_set), 16 * KIB):
            last = 2 if at + 16 * KIB >= len(data_set) else 0
            peer.send(p_data((1, last, data_set[at : at + 16 * KIB])))
        status = peer.read_response().status
        peer.release()
        return status


def test_a_long_instance_is_written_to_the_spool_while_it_arrives_and_nowhere_else(
    start: StartGateway, spool: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    gateway = start(spooling(spool, LENTICULAR_SCRATCH_DIR=str(scratch)))
    [instance] = study(tmp_path / "sent", 1, size=40 * MIB)
    head = file_head(CT, instance.sop_instance_uid, EXPLICIT)
    data_set = instance.path.read_bytes()[instance.data_set_offset :]
    with gateway.connect() as peer:
        peer.send(associate_rq([(1, CT, (EXPLICIT,))], called=gateway.aet))
        assert peer.read_pdu()[0] == 2
        peer.send(p_data((1, 3, store_rq_command(uid=instance.sop_instance_uid))))
        half = 20 * MIB
        for at in range(0, half, 64 * KIB):
            peer.send(p_data((1, 0, data_set[at : at + 64 * KIB])))
        part = eventually(lambda: list(spool.glob("journal-*/*.part")))[0]
        eventually(lambda: part.stat().st_size, until=lambda size: size == half + len(head))
        for at in range(half, len(data_set), 64 * KIB):
            last = 2 if at + 64 * KIB >= len(data_set) else 0
            peer.send(p_data((1, last, data_set[at : at + 64 * KIB])))
        assert peer.read_response().status == SUCCESS
        peer.release()
    wait_for_bucket(gateway, kept([instance]))
    assert list(scratch.iterdir()) == []
    eventually(lambda: left_in(spool), until=lambda left: left == [])


def test_memory_does_not_grow_with_an_instance_in_the_spool(
    start: StartGateway, spool: Path, tmp_path: Path
) -> None:
    settings = spooling(spool)
    del settings["LENTICULAR_MEMORY_BYTES"]
    gateway = start(settings)
    [short] = study(tmp_path / "short", 1)
    assert store(gateway, short) == [SUCCESS]
    wait_for_bucket(gateway, kept([short]))
    before = gateway.peak_bytes()
    [long] = study(tmp_path / "long", 1, size=300 * MIB)
    assert store(gateway, long) == [SUCCESS]
    wait_for_bucket(gateway, kept([short, long]))
    grown = gateway.peak_bytes() - before
    print(f"300 MiB instance: {grown / MIB:.0f} MiB more memory at most")
    assert grown < 200 * MIB


# The same instance again


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_an_instance_sent_again_before_s3_has_it_is_one_object(
    start: StartGateway, s3: FaultyS3, spool_settings: dict[str, str], tmp_path: Path, size: int
) -> None:
    gateway = start(spool_settings)
    instances = study(tmp_path / "sent", 2, size=size)
    s3.fail(Fault.HELD)
    with storing(gateway, instances, instances) as clients:
        assert clients.finish() == [SUCCESS] * 4
    assert store(gateway, *instances) == [SUCCESS] * 2
    eventually(lambda: s3.held, until=lambda held: held >= 2)
    # One upload of each: of long ones, two at the same moment would become two versions.
    assert s3.held == 2
    s3.heal()
    wait_for_bucket(gateway, kept(instances))
    assert versions_in_bucket(gateway) == once(instances)


def test_different_contents_of_one_sop_instance_uid_are_both_kept(
    start: StartGateway, spool_settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start(spool_settings)
    [instance] = study(tmp_path / "first", 1)
    both = [instance, altered(instance, tmp_path / "second")]
    assert store(gateway, *both) == [SUCCESS, SUCCESS]
    wait_for_bucket(gateway, kept(both))
    assert len(kept(both)) == 2


# S3 fails


@pytest.mark.parametrize(
    "fault",
    [
        Fault.SLOW_DOWN,
        Fault.ACCESS_DENIED,
        Fault.NO_SUCH_BUCKET,
        Fault.CONFLICT,
        Fault.CONNECTION_RESET,
        Fault.BODY_ALTERED,
        Fault.ANSWER_LOST,
    ],
    ids=lambda fault: fault.name,
)
def test_senders_do_not_notice_that_s3_is_away_and_nothing_is_lost(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path, fault: Fault
) -> None:
    gateway = start(spooling(spool))
    instances = study(tmp_path / "short", 10) + study(tmp_path / "long", 2, size=LONG)
    s3.fail(fault, where="PUT " if fault is Fault.BODY_ALTERED else "")
    assert store(gateway, *instances) == [SUCCESS] * 12
    eventually(lambda: gateway.lines(message=S3_IS_AWAY))
    s3.heal()
    wait_for_bucket(gateway, kept(instances))
    eventually(lambda: left_in(spool), until=lambda left: left == [])
    assert len(gateway.lines(message=S3_IS_AWAY)) == 1
    assert len(gateway.lines(message="the spool can be uploaded again")) == 1


def test_an_instance_that_s3_does_not_take_holds_up_no_other(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path
) -> None:
    gateway = start(spooling(spool, LENTICULAR_SPOOL_UPLOADS="1"))
    stuck, *others = study(tmp_path / "sent", 10)
    s3.fail(Fault.ACCESS_DENIED, where=stuck.sop_instance_uid)
    assert store(gateway, stuck, *others) == [SUCCESS] * 10
    wait_for_bucket(gateway, kept(others))
    assert len(entries(spool)) == 1
    s3.heal()
    wait_for_bucket(gateway, kept([stuck, *others]))


def test_a_gateway_that_starts_while_the_table_is_away_too_takes_what_comes(
    start: StartGateway, s3: FaultyS3, spool_settings: dict[str, str], tmp_path: Path
) -> None:
    instances = study(tmp_path / "sent", 6)
    s3.fail(Fault.CONNECTION_RESET)
    gateway = start({**spool_settings, "AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1"})
    with storing(gateway, instances[:2], instances[2:4], instances[4:]) as clients:
        assert clients.finish() == [SUCCESS] * 6
    s3.heal()
    wait_for_bucket(gateway, kept(instances))


# The gateway is stopped


def test_a_gateway_that_is_stopped_empties_its_spool(
    start: StartGateway, s3: FaultyS3, spool: Path, spool_settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start(spool_settings)
    instances = study(tmp_path / "sent", 30)
    s3.fail(Fault.HELD)
    assert store(gateway, *instances) == [SUCCESS] * 30
    gateway.terminate()
    eventually(lambda: gateway.lines(message="stopped"))
    assert gateway.process.poll() is None
    s3.heal()
    assert gateway.process.wait(60) == 0
    assert in_bucket(gateway) == kept(instances)
    assert list(spool.iterdir()) == []
    assert complaints(gateway) == []


def test_a_gateway_that_is_stopped_leaves_at_its_deadline_what_s3_does_not_take(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path
) -> None:
    gateway = start(spooling(spool, LENTICULAR_DRAIN_SECONDS="1"))
    instances = study(tmp_path / "sent", 5)
    s3.fail(Fault.SLOW_DOWN)
    assert store(gateway, *instances) == [SUCCESS] * 5
    size = sum(path.stat().st_size for path in entries(spool))
    gateway.terminate()
    assert gateway.process.wait(60) == 0
    [line] = gateway.lines(message="instances are left in the spool")
    assert (line["instances"], line["bytes_in_spool"]) == (5, size)
    assert len(entries(spool)) == 5
    s3.heal()
    wait_for_bucket(start(spooling(spool)), kept(instances))


# What others see of it


def test_depth_bytes_and_age_of_the_spool_are_metrics(
    start: StartGateway, s3: FaultyS3, spool: Path, spool_settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start(spool_settings)
    instances = study(tmp_path / "sent", 3)
    s3.fail(Fault.SLOW_DOWN)
    assert store(gateway, *instances) == [SUCCESS] * 3
    size = sum(path.stat().st_size for path in entries(spool))
    gateway.kill()
    heir = start({**spool_settings, "LENTICULAR_METRICS": "emf", "LENTICULAR_DRAIN_SECONDS": "0"})
    eventually(lambda: heir.lines(message="a journal is taken over"))
    heir.terminate()
    assert heir.process.wait(60) == 0
    assert heir.process.stdout is not None
    # One as it starts, which may be before it has taken over anything, and one at its end.
    gauges = [
        line for line in map(json.loads, heir.process.stdout.read().splitlines())
        if "SpoolDepth" in line
    ]  # fmt: skip
    assert len(gauges) == 2
    assert (gauges[-1]["SpoolDepth"], gauges[-1]["SpoolBytes"]) == (3, size)
    assert gauges[-1]["SpoolOldestAge"] > 0
