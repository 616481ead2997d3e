"""A spool that has no room turns instances away, and loses none of those that it took."""

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from tests.cloud.deadline import eventually
from tests.peers.custody import (
    KIB,
    LONG,
    OUT_OF_RESOURCES,
    SHORT,
    SUCCESS,
    StartGateway,
    complaints,
    kept,
    refused,
)
from tests.peers.faulty_s3 import Fault, FaultyS3
from tests.peers.gateway_process import Gateway, ask
from tests.peers.instances import study
from tests.peers.spooling import entries, half_sent, left_in, spooling, wait_for_bucket
from tests.peers.storing import store, storing

pytestmark = [pytest.mark.peers, pytest.mark.slow]

MISMATCH: Final = 0xA900


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


def test_a_client_that_dies_within_an_instance_leaves_nothing_in_the_spool(
    start: StartGateway, spool: Path, spool_settings: dict[str, str]
) -> None:
    gateway = start(spool_settings)
    peers = [half_sent(gateway) for _ in range(5)]
    eventually(lambda: len(left_in(spool)), until=lambda files: files == 5)
    for peer in peers:
        peer.sock.close()
    eventually(lambda: left_in(spool), until=lambda left: left == [])
    assert gateway.object_keys() == []


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
