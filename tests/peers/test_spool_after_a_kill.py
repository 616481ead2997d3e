"""What a killed gateway acknowledged is in its spool, and whoever comes next uploads it."""

import contextlib
import os
import random
import signal
import threading
from pathlib import Path
from typing import Final

import pytest

from gateway.journal_entry import END_BYTES
from tests.cloud.deadline import eventually
from tests.peers.custody import (
    LONG,
    MIB,
    SHORT,
    SUCCESS,
    StartGateway,
    complaints,
    in_bucket,
    kept,
    kill_gateways_with_a_spool,
    once,
    versions_in_bucket,
)
from tests.peers.faulty_s3 import Fault, FaultyS3
from tests.peers.gateway_process import ask
from tests.peers.instances import study
from tests.peers.spooling import (
    S3_IS_NOWHERE,
    entries,
    half_sent,
    journals,
    left_in,
    spooling,
    wait_for_bucket,
)
from tests.peers.storing import store, storing

pytestmark = [pytest.mark.peers, pytest.mark.slow]


def test_what_a_killed_gateway_acknowledged_is_uploaded_by_the_next(
    start: StartGateway, s3: FaultyS3, spool: Path, spool_settings: dict[str, str], tmp_path: Path
) -> None:
    gateway = start({**spool_settings, **S3_IS_NOWHERE})
    instances = study(tmp_path / "short", 10) + study(tmp_path / "long", 2, size=LONG)
    assert store(gateway, *instances) == [SUCCESS] * 12
    gateway.kill()
    assert len(entries(spool)) == 12
    s3.fail(Fault.HELD)
    gateway = start(spool_settings)
    [line] = eventually(lambda: gateway.lines(message="a journal is taken over"))
    assert (line["instances"], line["unfinished"]) == (12, 0)
    s3.heal()
    wait_for_bucket(gateway, kept(instances))
    assert versions_in_bucket(gateway) == once(instances)
    # Of the one that was killed nothing is left, of its heir an empty journal.
    eventually(lambda: len(journals(spool)), until=lambda count: count == 1, within=60)
    assert left_in(spool) == []


def test_what_was_not_wholly_written_when_the_gateway_was_killed_is_removed(
    start: StartGateway, spool: Path, spool_settings: dict[str, str]
) -> None:
    gateway = start(spool_settings)
    with contextlib.closing(half_sent(gateway).sock):
        [torn] = eventually(lambda: list(spool.glob("*/*.part")))
        gateway.kill()
    assert torn.exists()
    gateway = start(spool_settings)
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
    start: StartGateway, s3: FaultyS3, spool: Path, spool_settings: dict[str, str], tmp_path: Path
) -> None:
    gateways = [start(spool_settings) for _ in range(3)]
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


def test_no_acknowledged_instance_is_lost_when_a_gateway_with_a_spool_is_killed(
    start: StartGateway, spool_settings: dict[str, str], tmp_path: Path
) -> None:
    kill_gateways_with_a_spool(start, tmp_path, [0, 3, 8, 17, 33], spool_settings)


@pytest.mark.parametrize(("run", "workers"), [(run, 3 if run % 5 == 4 else 1) for run in range(20)])
def test_no_acknowledged_instance_is_lost_in_two_hundred_kills(  # noqa: PLR0913
    start: StartGateway,
    s3: FaultyS3,
    spool_settings: dict[str, str],
    tmp_path: Path,
    *,
    run: int,
    workers: int,
) -> None:
    moments = random.Random(run).sample(range(40), 10)  # noqa: S311 - no secret
    if workers > 1:
        spool_settings["LENTICULAR_WORKERS"] = str(workers)
    # In every other run S3 takes nothing at first, so that entries pile up and heirs have heirs.
    away = threading.Timer(5.0, s3.heal)
    if run % 2:
        s3.fail(Fault.SLOW_DOWN)
        away.start()
    kill_gateways_with_a_spool(start, tmp_path, moments, spool_settings)
    away.cancel()
