"""What the gateway acknowledged is in the bucket, whatever happens to it, to S3 and to the disk."""

import os
import random
import socket
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.custody import (
    AT_ONCE,
    DISK,
    KIB,
    LONG,
    MIB,
    OUT_OF_RESOURCES,
    SHORT,
    SMALL_MEMORY,
    SUCCESS,
    StartGateway,
    complaints,
    in_bucket,
    kept,
    kill_while_clients_send,
    once,
    refused,
    unfinished_uploads,
    versions_in_bucket,
)
from tests.peers.dimse import CT, EXPLICIT, RawPeer, associate_rq, p_data, store_rq_command
from tests.peers.faulty_s3 import Fault, FaultyS3
from tests.peers.instances import altered, study
from tests.peers.storing import store, storing

pytestmark = pytest.mark.peers

#: After this many senders no longer wait for an answer.
IMPATIENT_SECONDS: Final = 30


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return an empty folder for scratch files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


# The gateway is killed


@pytest.mark.slow
def test_no_acknowledged_instance_is_lost_when_the_gateway_is_killed(
    start: StartGateway, tmp_path: Path
) -> None:
    moments = [0, 1, 2, 3, 5, 8, 13, 17, 20, 23]
    kill_while_clients_send(start, tmp_path, moments, batch=6, associations=4)


@pytest.mark.slow
@pytest.mark.parametrize("run", range(10))
def test_no_acknowledged_instance_is_lost_in_a_hundred_kills(
    start: StartGateway, tmp_path: Path, run: int
) -> None:
    moments = random.Random(run).sample(range(79), 10)  # noqa: S311 - no secret
    kill_while_clients_send(start, tmp_path, moments, batch=10, associations=8)


def test_a_client_hears_nothing_of_an_instance_that_s3_has_not_taken_when_the_gateway_is_killed(
    start: StartGateway, s3: FaultyS3, tmp_path: Path
) -> None:
    gateway = start()
    taken, held = study(tmp_path / "sent", 2)
    s3.fail(Fault.HELD, where=held.sop_instance_uid)
    with storing(gateway, [taken, held]) as clients:
        eventually(lambda: s3.held)
        gateway.kill()
        assert clients.finish() == [SUCCESS]
    assert in_bucket(gateway) == kept([taken])


def test_a_killed_gateway_leaves_nothing_on_the_scratch_disk(
    start: StartGateway, s3: FaultyS3, scratch: Path, tmp_path: Path
) -> None:
    gateway = start({**SMALL_MEMORY, "LENTICULAR_SCRATCH_DIR": str(scratch)})
    instances = study(tmp_path / "sent", 1, size=LONG)
    s3.fail(Fault.HELD)
    with storing(gateway, instances) as clients:
        eventually(lambda: s3.held)
        assert any(str(scratch) in file for file in gateway.open_files())
        gateway.kill()
        assert clients.finish() == []
    assert list(scratch.iterdir()) == []


# S3 fails

#: Of a request that S3 did not do.
REFUSALS: Final = [
    Fault.SLOW_DOWN,
    Fault.INTERNAL_ERROR,
    Fault.ACCESS_DENIED,
    Fault.NO_SUCH_BUCKET,
    Fault.CONFLICT,
    Fault.CONNECTION_RESET,
    Fault.RESET_WITHIN_BODY,
    Fault.BODY_ALTERED,
]


@pytest.mark.parametrize("fault", REFUSALS, ids=lambda fault: fault.name)
def test_an_instance_that_s3_does_not_take_is_refused_and_the_association_goes_on(
    start: StartGateway, s3: FaultyS3, tmp_path: Path, fault: Fault
) -> None:
    gateway = start()
    first, second, third = instances = study(tmp_path / "sent", 3)
    s3.fail(fault, where=second.sop_instance_uid)
    assert store(gateway, *instances) == [SUCCESS, OUT_OF_RESOURCES, SUCCESS]
    assert in_bucket(gateway) == kept([first, third])
    assert complaints(gateway) == refused(second)
    s3.heal()
    assert store(gateway, *instances) == [SUCCESS] * 3
    assert in_bucket(gateway) == kept(instances)


#: A long instance goes to S3 in several requests, each of which can fail.
REFUSALS_OF_A_LONG_INSTANCE: Final = [
    (Fault.SLOW_DOWN, "HEAD "),
    (Fault.SLOW_DOWN, "?uploads"),
    (Fault.SLOW_DOWN, "partNumber=1"),
    (Fault.SLOW_DOWN, "POST "),
    (Fault.ACCESS_DENIED, "HEAD "),
    (Fault.NO_SUCH_BUCKET, "?uploads"),
    (Fault.CONNECTION_RESET, "partNumber=1"),
    (Fault.BODY_ALTERED, "partNumber=1"),
    (Fault.CONNECTION_RESET, ".dcm?uploadId="),
    (Fault.ERROR_WITHIN_SUCCESS, ".dcm?uploadId="),
]


@pytest.mark.parametrize(("fault", "where"), REFUSALS_OF_A_LONG_INSTANCE)
def test_a_long_instance_that_s3_does_not_take_is_refused_and_the_association_goes_on(
    start: StartGateway, s3: FaultyS3, tmp_path: Path, fault: Fault, where: str
) -> None:
    gateway = start({**AT_ONCE, **SMALL_MEMORY})
    [long] = study(tmp_path / "long", 1, size=LONG)
    [short] = study(tmp_path / "short", 1)
    s3.fail(fault, where=where, times=1)
    assert store(gateway, long, short) == [OUT_OF_RESOURCES, SUCCESS]
    assert in_bucket(gateway) == kept([short])
    assert complaints(gateway) == refused(long)
    assert unfinished_uploads(gateway) == []
    s3.heal()
    assert store(gateway, long) == [SUCCESS]
    assert in_bucket(gateway) == kept([long, short])


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_a_lost_answer_of_s3_is_never_a_lost_instance(
    start: StartGateway, s3: FaultyS3, tmp_path: Path, size: int
) -> None:
    gateway = start({**AT_ONCE, **SMALL_MEMORY})
    instances = study(tmp_path / "sent", 3, size=size)
    s3.fail(Fault.ANSWER_LOST)
    statuses = store(gateway, *instances)
    s3.heal()
    found = in_bucket(gateway)
    for instance, status in zip(instances, statuses, strict=True):
        assert status == OUT_OF_RESOURCES or found[instance.key] == instance.kept_sha256
    assert store(gateway, *instances) == [SUCCESS] * 3
    assert in_bucket(gateway) == kept(instances)
    assert versions_in_bucket(gateway) == once(instances)


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_a_client_does_not_notice_that_s3_was_busy_for_a_moment(
    start: StartGateway, s3: FaultyS3, tmp_path: Path, size: int
) -> None:
    gateway = start(SMALL_MEMORY)
    instances = study(tmp_path / "sent", 2, size=size)
    for fault in (Fault.SLOW_DOWN, Fault.CONNECTION_RESET, Fault.ANSWER_LOST, Fault.BODY_ALTERED):
        s3.fail(fault, where="PUT ", times=1)
    s3.fail(Fault.SLOW_DOWN, times=6)
    s3.fail(Fault.INTERNAL_ERROR, times=2)
    assert store(gateway, *instances) == [SUCCESS, SUCCESS]
    assert in_bucket(gateway) == kept(instances)
    assert versions_in_bucket(gateway) == once(instances)
    assert complaints(gateway) == []


@pytest.mark.parametrize(
    ("fault", "size"),
    [
        (Fault.SLOW_DOWN, SHORT),
        (Fault.CONNECTION_RESET, SHORT),
        (Fault.ACCESS_DENIED, LONG),
        (Fault.CONNECTION_RESET, LONG),
    ],
)
def test_failures_leave_no_thread_connection_file_or_memory_behind(
    start: StartGateway, s3: FaultyS3, scratch: Path, fault: Fault, size: int
) -> None:
    gateway = start({**AT_ONCE, **SMALL_MEMORY, "LENTICULAR_SCRATCH_DIR": str(scratch)})
    instances = study(scratch.parent / "sent", 50, size=size)

    def resources() -> tuple[int, int]:
        return gateway.threads(), len(gateway.open_files())

    # What the first instances take is kept for the next: S3 connections and their threads.
    assert store(gateway, *instances[:2]) == [SUCCESS] * 2
    s3.fail(fault)
    assert store(gateway, *instances[2:4]) == [OUT_OF_RESOURCES] * 2
    eventually(
        lambda: gateway.lines(message="association ended"), until=lambda ends: len(ends) == 2
    )
    before, memory = resources(), gateway.resident_bytes()
    assert store(gateway, *instances[4:]) == [OUT_OF_RESOURCES] * 46
    eventually(resources, until=lambda now: now[0] <= before[0] and now[1] <= before[1])
    # The long ones have eleven MiB; of short ones, see test_failures.
    assert gateway.resident_bytes() - memory < 4 * MIB
    assert list(scratch.iterdir()) == []
    assert complaints(gateway) == refused(*instances[2:])
    s3.heal()
    assert store(gateway, *instances) == [SUCCESS] * 50
    assert in_bucket(gateway) == kept(instances)


@pytest.mark.slow
def test_an_instance_is_refused_when_s3_never_answers(
    start: StartGateway, s3: FaultyS3, tmp_path: Path
) -> None:
    gateway = start({})
    first, second, third = instances = study(tmp_path / "sent", 3)
    s3.fail(Fault.HELD, where=second.sop_instance_uid)
    began = monotonic()
    assert store(gateway, *instances) == [SUCCESS, OUT_OF_RESOURCES, SUCCESS]
    assert monotonic() - began < IMPATIENT_SECONDS
    assert in_bucket(gateway) == kept([first, third])
    assert complaints(gateway) == refused(second)


# The scratch disk


def test_a_long_instance_waits_on_the_scratch_disk_and_is_kept_byte_for_byte(
    start: StartGateway, s3: FaultyS3, scratch: Path, tmp_path: Path
) -> None:
    gateway = start({**SMALL_MEMORY, "LENTICULAR_SCRATCH_DIR": str(scratch)})
    # Parts are of 16 MiB.
    instances = study(tmp_path / "sent", 1, size=40 * MIB)
    s3.fail(Fault.HELD)
    with storing(gateway, instances) as clients:
        eventually(lambda: s3.held)
        assert any(str(scratch) in file for file in gateway.open_files())
        s3.heal()
        assert clients.finish() == [SUCCESS]
    assert in_bucket(gateway) == kept(instances)
    assert not any(str(scratch) in file for file in gateway.open_files())
    assert list(scratch.iterdir()) == []


def test_an_instance_longer_than_the_scratch_disk_is_refused_and_the_association_goes_on(
    start: StartGateway, small_disk: Path, tmp_path: Path
) -> None:
    gateway = start({**SMALL_MEMORY, "LENTICULAR_SCRATCH_DIR": str(small_disk)})
    [too_long] = study(tmp_path / "too long", 1, size=4 * LONG)
    [long] = study(tmp_path / "long", 1, size=LONG)
    [short] = study(tmp_path / "short", 1)
    statuses = store(gateway, too_long, short, long, too_long, long)
    assert statuses == [OUT_OF_RESOURCES, SUCCESS, SUCCESS, OUT_OF_RESOURCES, SUCCESS]
    assert in_bucket(gateway) == kept([long, short])
    assert complaints(gateway) == refused(too_long, too_long)
    assert list(small_disk.iterdir()) == []
    assert os.statvfs(small_disk).f_bfree == os.statvfs(small_disk).f_blocks


def test_an_instance_that_nearly_fits_on_the_scratch_disk_is_never_kept_in_part(
    start: StartGateway, small_disk: Path, tmp_path: Path
) -> None:
    gateway = start({**SMALL_MEMORY, "LENTICULAR_SCRATCH_DIR": str(small_disk)})
    instances = [
        one
        for size in range(DISK - 8 * KIB, DISK + 8 * KIB, KIB)
        for one in study(tmp_path / "sent", 1, size=size)
    ]
    statuses = store(gateway, *instances)
    assert set(statuses) == {SUCCESS, OUT_OF_RESOURCES}
    taken = statuses.count(SUCCESS)
    assert statuses == [SUCCESS] * taken + [OUT_OF_RESOURCES] * (len(instances) - taken)
    assert in_bucket(gateway) == kept(instances[:taken])
    assert complaints(gateway) == refused(*instances[taken:])


def test_a_client_that_dies_within_an_instance_leaves_nothing_behind(
    start: StartGateway, scratch: Path
) -> None:
    gateway = start({**SMALL_MEMORY, "LENTICULAR_SCRATCH_DIR": str(scratch)})
    peers = [RawPeer(socket.create_connection((gateway.host, gateway.port))) for _ in range(5)]
    for peer in peers:
        peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
        peer.read_pdu()
        peer.send(p_data((1, 3, store_rq_command())))
        for _ in range(8):
            peer.send(p_data((1, 0, bytes(16 * KIB))))

    def scratch_files() -> int:
        return sum(str(scratch) in file for file in gateway.open_files())

    eventually(scratch_files, until=lambda files: files == len(peers))
    for peer in peers:
        peer.sock.close()
    eventually(scratch_files, until=lambda files: files == 0)
    assert list(scratch.iterdir()) == []
    assert in_bucket(gateway) == {}


# The same instance again


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_an_instance_sent_again_is_acknowledged_and_changes_nothing(
    start: StartGateway, tmp_path: Path, size: int
) -> None:
    gateway = start(SMALL_MEMORY)
    instances = study(tmp_path / "sent", 2, size=size)
    assert store(gateway, *instances, *instances) == [SUCCESS] * 4
    assert store(gateway, *instances) == [SUCCESS] * 2
    assert in_bucket(gateway) == kept(instances)
    assert versions_in_bucket(gateway) == once(instances)


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_an_instance_sent_on_two_associations_at_once_is_one_object(
    start: StartGateway, s3: FaultyS3, tmp_path: Path, size: int
) -> None:
    gateway = start(SMALL_MEMORY)
    instances = study(tmp_path / "sent", 1, size=size)
    s3.fail(Fault.HELD)
    with storing(gateway, instances, instances) as clients:
        eventually(lambda: s3.held, until=lambda held: held == 2)
        s3.heal()
        assert clients.finish() == [SUCCESS, SUCCESS]
    assert in_bucket(gateway) == kept(instances)
    assert versions_in_bucket(gateway) == once(instances)
    assert complaints(gateway) == []


def test_different_contents_of_one_sop_instance_uid_are_both_kept(
    start: StartGateway, tmp_path: Path
) -> None:
    gateway = start()
    [instance] = study(tmp_path / "first", 1)
    both = [instance, altered(instance, tmp_path / "second")]
    assert store(gateway, *both) == [SUCCESS, SUCCESS]
    assert in_bucket(gateway) == kept(both)
    assert len(kept(both)) == 2


# Memory


@pytest.mark.slow
def test_memory_does_not_grow_with_the_instance(start: StartGateway, tmp_path: Path) -> None:
    gateway = start({})
    [short] = study(tmp_path / "short", 1)
    assert store(gateway, short) == [SUCCESS]
    before = gateway.peak_bytes()
    [long] = study(tmp_path / "long", 1, size=300 * MIB)
    assert store(gateway, long) == [SUCCESS]
    grown = gateway.peak_bytes() - before
    assert in_bucket(gateway) == kept([short, long])
    print(f"300 MiB instance: {grown / MIB:.0f} MiB more memory at most")
    assert grown < 200 * MIB


# The gateway is stopped


def test_a_gateway_that_is_stopped_takes_what_is_being_sent_and_nobody_new(
    start: StartGateway, s3: FaultyS3, tmp_path: Path
) -> None:
    gateway = start()
    instances = study(tmp_path / "sent", 20)
    s3.fail(Fault.HELD, where=instances[9].sop_instance_uid)
    with storing(gateway, instances) as clients:
        eventually(lambda: s3.held)
        gateway.terminate()
        eventually(lambda: gateway.lines(message="draining"))
        with pytest.raises(dcmtk.PeerFailed):
            dcmtk.echo(gateway)
        s3.heal()
        assert clients.finish() == [SUCCESS] * 20
    assert gateway.process.wait(30) == 0
    assert in_bucket(gateway) == kept(instances)
    assert complaints(gateway) == []


def test_a_gateway_that_is_stopped_gives_up_at_its_deadline_what_s3_does_not_take(
    start: StartGateway, s3: FaultyS3, tmp_path: Path
) -> None:
    gateway = start({"LENTICULAR_DRAIN_SECONDS": "1"})
    taken, held = study(tmp_path / "sent", 2)
    s3.fail(Fault.HELD, where=held.sop_instance_uid)
    with storing(gateway, [taken, held]) as clients:
        eventually(lambda: s3.held)
        gateway.terminate()
        assert clients.finish() == [SUCCESS]
        # By default it would wait for 100 s, and S3 holds the instance for as long as we do.
        assert gateway.process.wait(30) == 0
    assert in_bucket(gateway) == kept([taken])
