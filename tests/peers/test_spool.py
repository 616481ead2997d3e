"""What a gateway with a spool acknowledged gets into the bucket, whatever happens in between."""

import contextlib
import json
import os
import random
import signal
import socket
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from pydicom.data import get_testdata_file

from gateway.journal_entry import END_BYTES
from lenticular.part10 import file_head
from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.custody import (
    AT_ONCE,
    KIB,
    LONG,
    MIB,
    OUT_OF_RESOURCES,
    S3_IS_AWAY,
    SHORT,
    SMALL_MEMORY,
    SUCCESS,
    StartGateway,
    complaints,
    in_bucket,
    kept,
    kill_gateways_with_a_spool,
    once,
    refused,
    versions_in_bucket,
)
from tests.peers.dimse import CT, EXPLICIT, RawPeer, associate_rq, p_data, store_rq_command
from tests.peers.faulty_s3 import Fault, FaultyS3
from tests.peers.gateway_process import Gateway, ask
from tests.peers.instances import altered, study
from tests.peers.storing import store, storing

pytestmark = [pytest.mark.peers, pytest.mark.slow]

WARNED: Final = 0xB007
MISMATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

#: What a killed gateway has asked S3 for may still come to pass; with this it asks nobody.
S3_IS_NOWHERE: Final = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Return an empty folder for the spool."""
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(spool: Path) -> dict[str, str]:
    """Return the settings of a gateway with a spool; what is longer than 64 KiB is long."""
    return spooling(spool)


def spooling(folder: Path, **more: str) -> dict[str, str]:
    return {
        **SMALL_MEMORY,
        "LENTICULAR_CUSTODY": "spool",
        "LENTICULAR_SPOOL_DIR": str(folder),
        **more,
    }


def entries(spool: Path) -> list[Path]:
    """Return the files of instances that S3 does not have yet."""
    return sorted(spool.glob("journal-*/*.entry"))


def wait_for_bucket(gateway: Gateway, expected: Mapping[str, str]) -> None:
    """Wait until the bucket holds exactly these contents under these keys."""
    eventually(lambda: len(gateway.object_keys()), until=lambda count: count >= len(expected))
    assert in_bucket(gateway) == expected


def heads(gateway: Gateway) -> dict[str, Any]:
    """Return what S3 says of each object."""
    s3 = gateway.client("s3")
    return {key: s3.head_object(Bucket=gateway.bucket, Key=key) for key in gateway.object_keys()}


def left_in(spool: Path) -> list[str]:
    """Name everything that is in the spool but the journals' own directories and locks."""
    return [path.name for path in spool.rglob("*") if not path.is_dir() and path.suffix != ".lock"]


def journals(spool: Path) -> set[str]:
    return {path.name for path in spool.glob("journal-*") if path.is_dir()}


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
    start: StartGateway, s3: FaultyS3, settings: dict[str, str], tmp_path: Path, size: int
) -> None:
    direct, spooled = study(tmp_path / "sent", 2, size=size)
    assert store(start({**AT_ONCE, **SMALL_MEMORY}), direct) == [SUCCESS]
    gateway = start(settings)
    s3.fail(Fault.HELD)
    before = datetime.now(UTC)
    assert store(gateway, spooled) == [SUCCESS]
    after = datetime.now(UTC)
    gateway.kill()
    s3.heal()
    # The one who uploads it is not the one who received it.
    gateway = start(settings)
    wait_for_bucket(gateway, kept([direct, spooled]))
    found = heads(gateway)
    received = found[spooled.key]["Metadata"].pop("received")
    assert before <= datetime.fromisoformat(received) <= after
    del found[direct.key]["Metadata"]["received"]
    for fact in ("Metadata", "ContentType", "StorageClass", "ServerSideEncryption"):
        assert found[spooled.key].get(fact) == found[direct.key].get(fact), fact
    assert found[spooled.key]["Metadata"] == {"calling-aet": "STORESCU", "called-aet": gateway.aet}


def test_what_is_wrong_with_an_instance_is_told_at_once_and_it_goes_to_quarantine(
    start: StartGateway, s3: FaultyS3, settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start(settings)
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


def test_what_is_refused_by_its_iod_takes_no_room(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path
) -> None:
    room = {"LENTICULAR_VALIDATION": "reject", "LENTICULAR_SPOOL_BYTES": str(3 * LONG)}
    gateway = start(spooling(spool, **room))
    s3.fail(Fault.HELD)
    instances = study(tmp_path / "sent", 12, size=LONG)
    assert store(gateway, *instances) == [MISMATCH] * len(instances)
    assert left_in(spool) == []
    s3.heal()
    assert gateway.object_keys() == []


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


@pytest.mark.slow
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
    start: StartGateway, s3: FaultyS3, settings: dict[str, str], tmp_path: Path, size: int
) -> None:
    gateway = start(settings)
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
    start: StartGateway, settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start(settings)
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
    start: StartGateway, s3: FaultyS3, settings: dict[str, str], tmp_path: Path
) -> None:
    instances = study(tmp_path / "sent", 6)
    s3.fail(Fault.CONNECTION_RESET)
    gateway = start({**settings, "AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1"})
    with storing(gateway, instances[:2], instances[2:4], instances[4:]) as clients:
        assert clients.finish() == [SUCCESS] * 6
    s3.heal()
    wait_for_bucket(gateway, kept(instances))


# The spool is full


def said_once_a_minute(gateway: Gateway, reason: str) -> bool:
    """Tell whether it said that its spool takes no more, for this reason alone and not for each."""
    said = gateway.lines(message="the spool takes no more")
    assert {line["reason"] for line in said} == {reason}
    times = [datetime.fromisoformat(line["time"]) for line in said]
    return all(after - before > timedelta(seconds=59) for before, after in pairwise(times))


def test_a_full_spool_turns_instances_away_until_s3_has_taken_some(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path
) -> None:
    limit = 10 * (SHORT + 4 * KIB)
    gateway = start(spooling(spool, LENTICULAR_SPOOL_BYTES=str(limit)))
    instances = study(tmp_path / "sent", 15)
    [long] = study(tmp_path / "long", 1, size=LONG)
    s3.fail(Fault.HELD)
    statuses = store(gateway, *instances)
    taken = statuses.count(SUCCESS)
    assert 9 <= taken <= 11
    assert statuses == [SUCCESS] * taken + [OUT_OF_RESOURCES] * (15 - taken)
    assert store(gateway, long) == [OUT_OF_RESOURCES]
    assert sum(path.stat().st_size for path in entries(spool)) <= limit
    assert list(spool.glob("*/*.part")) == []
    assert said_once_a_minute(gateway, "the spool is full")
    assert gateway.lines(message="the spool takes instances again") == []
    s3.heal()
    eventually(lambda: gateway.lines(message="the spool takes instances again"))
    wait_for_bucket(gateway, kept(instances[:taken]))
    for one in (*instances[taken:], long):
        eventually(lambda: entries(spool), until=lambda left: left == [])
        assert store(gateway, one) == [SUCCESS]
    wait_for_bucket(gateway, kept([*instances, long]))
    assert said_once_a_minute(gateway, "the spool is full")
    assert len(gateway.lines(message="instance not stored")) == 16 - taken


def test_an_instance_longer_than_all_of_the_spool_is_turned_away_and_others_are_not(
    start: StartGateway, spool: Path, tmp_path: Path
) -> None:
    gateway = start(spooling(spool, LENTICULAR_SPOOL_BYTES=str(2 * LONG)))
    [too_long] = study(tmp_path / "too long", 1, size=3 * LONG)
    instances = study(tmp_path / "sent", 2)
    assert store(gateway, too_long, *instances) == [OUT_OF_RESOURCES, SUCCESS, SUCCESS]
    wait_for_bucket(gateway, kept(instances))
    assert complaints(gateway) == refused(too_long)


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_a_full_disk_turns_instances_away_and_what_was_acknowledged_is_kept(
    start: StartGateway, s3: FaultyS3, small_disk: Path, tmp_path: Path, size: int
) -> None:
    gateway = start(spooling(small_disk))
    instances = study(tmp_path / "sent", 15, size=size)
    s3.fail(Fault.HELD)
    statuses = store(gateway, *instances)
    assert set(statuses) == {SUCCESS, OUT_OF_RESOURCES}
    taken = [one for one, status in zip(instances, statuses, strict=True) if status == SUCCESS]
    others = [one for one in instances if one not in taken]
    assert len(entries(small_disk)) == len(taken)
    assert list(small_disk.glob("*/*.part")) == []
    assert said_once_a_minute(gateway, "the disk failed: No space left on device")
    s3.heal()
    wait_for_bucket(gateway, kept(taken))
    eventually(lambda: left_in(small_disk), until=lambda left: left == [])
    for one in others:
        eventually(lambda: left_in(small_disk), until=lambda left: left == [])
        assert store(gateway, one) == [SUCCESS]
        wait_for_bucket(gateway, kept([*taken, one]))
        taken.append(one)
    assert len(gateway.lines(message="the spool takes instances again")) == 1


def test_a_client_that_dies_within_an_instance_leaves_nothing_in_the_spool(
    start: StartGateway, spool: Path, settings: dict[str, str]
) -> None:
    gateway = start(settings)
    peers = [half_sent(gateway) for _ in range(5)]
    eventually(lambda: len(left_in(spool)), until=lambda files: files == 5)
    for peer in peers:
        peer.sock.close()
    eventually(lambda: left_in(spool), until=lambda left: left == [])
    assert gateway.object_keys() == []


def half_sent(gateway: Gateway) -> RawPeer:
    """Begin to send an instance too long for memory."""
    peer = RawPeer(socket.create_connection((gateway.host, gateway.port)))
    peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
    peer.read_pdu()
    peer.send(p_data((1, 3, store_rq_command())))
    for _ in range(8):
        peer.send(p_data((1, 0, bytes(16 * KIB))))
    return peer


# The gateway is killed


def test_what_a_killed_gateway_acknowledged_is_uploaded_by_the_next(
    start: StartGateway, s3: FaultyS3, spool: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start({**settings, **S3_IS_NOWHERE})
    instances = study(tmp_path / "short", 10) + study(tmp_path / "long", 2, size=LONG)
    assert store(gateway, *instances) == [SUCCESS] * 12
    gateway.kill()
    assert len(entries(spool)) == 12
    s3.fail(Fault.HELD)
    gateway = start(settings)
    [line] = eventually(lambda: gateway.lines(message="a journal is taken over"))
    assert (line["instances"], line["unfinished"]) == (12, 0)
    s3.heal()
    wait_for_bucket(gateway, kept(instances))
    assert versions_in_bucket(gateway) == once(instances)
    # Of the one that was killed nothing is left, of its heir an empty journal.
    eventually(lambda: len(journals(spool)), until=lambda count: count == 1, within=60)
    assert left_in(spool) == []


def test_what_was_not_wholly_written_when_the_gateway_was_killed_is_removed(
    start: StartGateway, spool: Path, settings: dict[str, str]
) -> None:
    gateway = start(settings)
    with contextlib.closing(half_sent(gateway).sock):
        [torn] = eventually(lambda: list(spool.glob("*/*.part")))
        gateway.kill()
    assert torn.exists()
    gateway = start(settings)
    [line] = eventually(lambda: gateway.lines(message="a journal is taken over"))
    assert (line["instances"], line["unfinished"]) == (0, 1)
    assert not torn.exists()
    assert left_in(spool) == []
    assert complaints(gateway) == []
    assert gateway.object_keys() == []


#: Where an entry is damaged, from its start (in the file) or its end (in the trailer).
DAMAGES: Final = {"head": 200, "pixels": 20_000, "trailer": -END_BYTES - 10, "end": -1}


@pytest.mark.parametrize("damage", [*DAMAGES, "cut", "emptied"])
def test_an_entry_that_the_disk_has_damaged_is_set_aside_and_the_others_are_uploaded(
    start: StartGateway, spool: Path, tmp_path: Path, damage: str
) -> None:
    settings = spooling(spool)
    gateway = start({**settings, **S3_IS_NOWHERE})
    # One of several parts is damaged, one of a single part is cut off.
    size = {"pixels": 20 * MIB, "cut": LONG}.get(damage, SHORT)
    instances = study(tmp_path / "sent", 3, size=size)
    assert store(gateway, *instances) == [SUCCESS] * 3
    gateway.kill()
    entry = entries(spool)[1]
    content = bytearray(entry.read_bytes())
    if damage in DAMAGES:
        content[DAMAGES[damage]] ^= 1
    entry.write_bytes(content[: {"cut": len(content) - 1000, "emptied": 0}.get(damage)])
    damaged = entry.read_bytes()
    gateway = start(settings)
    wait_for_bucket(gateway, kept([instances[0], instances[2]]))
    [line] = eventually(
        lambda: gateway.lines(
            message="an entry of the spool cannot be read and is not uploaded", level="ERROR"
        )
    )
    assert (spool / line["file"]).read_bytes() == damaged
    eventually(lambda: left_in(spool), until=lambda left: left == [line["file"]])
    # Who comes next leaves it alone.
    gateway.terminate()
    assert gateway.process.wait(60) == 0
    gateway = start(settings)
    assert store(gateway, instances[1]) == [SUCCESS]
    wait_for_bucket(gateway, kept(instances))
    assert complaints(gateway) == []
    assert left_in(spool) == [line["file"]]


def test_gateways_share_a_spool_and_one_takes_over_what_a_killed_one_left(
    start: StartGateway, s3: FaultyS3, spool: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    gateways = [start(settings) for _ in range(3)]
    sent = [study(tmp_path / str(number), 5) for number in range(3)]
    s3.fail(Fault.CONNECTION_RESET)
    for gateway, instances in zip(gateways, sent, strict=True):
        assert store(gateway, *instances) == [SUCCESS] * 5
    assert len(journals(spool)) == 3
    assert gateways[1].lines(message="a journal is taken over") == []
    gateways[0].kill()
    eventually(
        lambda: [
            each for gateway in gateways[1:]
            for each in gateway.lines(message="a journal is taken over")
        ],
        until=lambda lines: [line["instances"] for line in lines] == [5],
    )  # fmt: skip
    s3.heal()
    everything = [one for instances in sent for one in instances]
    wait_for_bucket(gateways[1], kept(everything))
    assert versions_in_bucket(gateways[1]) == once(everything)
    eventually(lambda: len(journals(spool)), until=lambda count: count == 2)
    for gateway in gateways[1:]:
        gateway.terminate()
        assert gateway.process.wait(60) == 0
    assert list(spool.iterdir()) == []


def test_workers_share_a_spool_and_take_over_what_a_killed_one_left(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path
) -> None:
    gateway = start(spooling(spool, LENTICULAR_WORKERS="3", LENTICULAR_HEALTH_PORT="0"))
    batches = [study(tmp_path / str(number), 5) for number in range(6)]
    s3.fail(Fault.CONNECTION_RESET)
    with storing(gateway, *batches) as clients:
        assert clients.finish() == [SUCCESS] * 30
    assert len(journals(spool)) == 3
    eventually(lambda: ask(gateway, "/ready") == (200, "ready"))
    os.kill(gateway.workers()[0], signal.SIGKILL)
    eventually(lambda: gateway.lines(message="a journal is taken over"))
    s3.heal()
    everything = [one for batch in batches for one in batch]
    wait_for_bucket(gateway, kept(everything))
    assert versions_in_bucket(gateway) == once(everything)
    s3.fail(Fault.CONNECTION_RESET)
    more = study(tmp_path / "more", 5)
    assert store(gateway, *more) == [SUCCESS] * 5
    gateway.terminate()
    eventually(lambda: gateway.lines(message="draining"))
    s3.heal()
    assert gateway.process.wait(60) == 0
    assert in_bucket(gateway) == kept([*everything, *more])
    assert list(spool.iterdir()) == []


@pytest.mark.slow
def test_workers_are_ready_as_long_as_one_takes_instances(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path
) -> None:
    gateway = start(
        spooling(
            spool,
            LENTICULAR_WORKERS="2",
            LENTICULAR_SPOOL_BYTES=str(3 * SHORT),
            LENTICULAR_HEALTH_PORT="0",
        )
    )
    s3.fail(Fault.CONNECTION_RESET)
    batches = [study(tmp_path / str(number), 5) for number in range(2)]
    with storing(gateway, *batches) as clients:
        assert OUT_OF_RESOURCES in clients.finish()
    # Each association on a worker of its own: both are full.
    eventually(lambda: ask(gateway, "/ready") == (503, "the spool is full"))
    s3.heal()
    eventually(lambda: ask(gateway, "/ready") == (200, "ready"))


def test_no_acknowledged_instance_is_lost_when_a_gateway_with_a_spool_is_killed(
    start: StartGateway, settings: dict[str, str], tmp_path: Path
) -> None:
    kill_gateways_with_a_spool(start, tmp_path, [0, 3, 8, 17, 33], settings)


@pytest.mark.slow
@pytest.mark.parametrize(("run", "workers"), [(run, 3 if run % 5 == 4 else 1) for run in range(20)])
def test_no_acknowledged_instance_is_lost_in_two_hundred_kills(  # noqa: PLR0913
    start: StartGateway,
    s3: FaultyS3,
    settings: dict[str, str],
    tmp_path: Path,
    *,
    run: int,
    workers: int,
) -> None:
    moments = random.Random(run).sample(range(40), 10)  # noqa: S311 - no secret
    if workers > 1:
        settings["LENTICULAR_WORKERS"] = str(workers)
    # In every other run S3 takes nothing at first, so that entries pile up and heirs have heirs.
    away = threading.Timer(5.0, s3.heal)
    if run % 2:
        s3.fail(Fault.SLOW_DOWN)
        away.start()
    kill_gateways_with_a_spool(start, tmp_path, moments, settings)
    away.cancel()


# The gateway is stopped


def test_a_gateway_that_is_stopped_empties_its_spool(
    start: StartGateway, s3: FaultyS3, spool: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start(settings)
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
    start: StartGateway, s3: FaultyS3, spool: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start(settings)
    instances = study(tmp_path / "sent", 3)
    s3.fail(Fault.SLOW_DOWN)
    assert store(gateway, *instances) == [SUCCESS] * 3
    size = sum(path.stat().st_size for path in entries(spool))
    gateway.kill()
    heir = start({**settings, "LENTICULAR_METRICS": "emf", "LENTICULAR_DRAIN_SECONDS": "0"})
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


@pytest.mark.slow
def test_a_gateway_is_ready_as_long_as_its_spool_takes_instances(
    start: StartGateway, s3: FaultyS3, spool: Path, tmp_path: Path
) -> None:
    s3.fail(Fault.CONNECTION_RESET)
    gateway = start(
        spooling(spool, LENTICULAR_SPOOL_BYTES=str(3 * SHORT), LENTICULAR_HEALTH_PORT="0")
    )
    eventually(lambda: ask(gateway, "/ready") == (200, "ready"))
    instances = study(tmp_path / "sent", 5)
    assert OUT_OF_RESOURCES in store(gateway, *instances)
    eventually(lambda: ask(gateway, "/ready") == (503, "the spool is full"))
    assert ask(gateway, "/alive") == (200, "alive")
    s3.heal()
    eventually(lambda: ask(gateway, "/ready") == (200, "ready"))
