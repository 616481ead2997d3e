"""What hostile peers do to a gateway, all at once too: it stays small and serves a good client."""

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from tests.cloud.deadline import eventually
from tests.cloud.standin import offline_cloud
from tests.peers.corpus import CORPUS, corpus_files
from tests.peers.dimse import (
    ABORT,
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RQ,
    VERIFICATION,
    RawPeer,
    associate_rq,
    echo_rq,
    p_data,
    store_rq_command,
)
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.instances import PATIENT_ID, PATIENT_NAME, study
from tests.peers.storing import store

pytestmark = [pytest.mark.peers, pytest.mark.slow]

SUCCESS: Final = 0x0000
MIB: Final = 1 << 20
#: Room for the good client beside what hostile peers take by honest negotiation.
ASSOCIATIONS: Final = 60
#: What the busiest moment may take beside what a gateway at rest has.
MOST_GROWTH: Final = 64 * MIB
PROBES: Final = 1000
LIES: Final = 120
CONTEXTS: Final = associate_rq([(1, VERIFICATION, [IMPLICIT]), (3, CT, [EXPLICIT])])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("hostile")
    settings = {
        "LENTICULAR_MAX_ASSOCIATIONS": str(ASSOCIATIONS),
        "LENTICULAR_ARTIM_SECONDS": "3",
        "LENTICULAR_DIMSE_SECONDS": "3",
    }
    with (
        offline_cloud() as cloud,
        running_gateway(folder / "gateway.log", Stores.in_cloud(cloud), settings) as running,
    ):
        # What the first instances take is kept for the next: S3 connections and their threads.
        assert store(running, *study(folder / "first", 2)) == [SUCCESS] * 2
        yield running


@dataclass
class Good:
    """A client that does nothing but echo and store; what it saw."""

    rounds: int = 0
    slowest_seconds: float = 0.0
    troubles: list[str] = field(default_factory=list)


@contextmanager
def good_client(gateway: Gateway, folder: Path) -> Iterator[Good]:
    """Run storescu again and again, each time with two new instances, until the block is left."""
    seen = Good()
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            instances = study(folder / str(seen.rounds), 2)
            began = monotonic()
            statuses = store(gateway, *instances)
            seen.slowest_seconds = max(seen.slowest_seconds, monotonic() - began)
            seen.rounds += 1
            if statuses != [SUCCESS, SUCCESS]:
                seen.troubles.append(f"round {seen.rounds}: {statuses}")

    folder.mkdir()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def probe(gateway: Gateway) -> None:
    """Connect and close, so often in less than a minute."""
    began = monotonic()
    for _ in range(PROBES):
        # From where load balancers are, not modalities: many may wait at a time to be looked at.
        gateway.connect(host="127.0.0.3").sock.close()
    assert monotonic() - began < 60


def stay_silent(gateway: Gateway) -> None:
    """Leave connections half open, more than there is room for; all come from one host."""
    with contextlib.ExitStack() as crowd:
        for _ in range(400):
            crowd.enter_context(gateway.connect(host="127.0.0.2"))


def dribble(gateway: Gateway) -> None:
    """Send requests a byte at a time, before an association and within one."""
    pace = threading.Event()
    with contextlib.ExitStack() as crowd:
        slow: list[tuple[RawPeer, Iterator[int]]] = []
        for number in range(40):
            peer = crowd.enter_context(gateway.connect())
            if number % 2:
                peer.send(CONTEXTS)
                assert peer.read_pdu()[0] == 2
            slow.append((peer, iter(echo_rq() if number % 2 else CONTEXTS)))
        ends = monotonic() + 6
        while slow and monotonic() < ends:
            for peer, rest in list(slow):
                try:
                    peer.send(bytes([next(rest)]))
                except (OSError, StopIteration):
                    slow.remove((peer, rest))
            pace.wait(0.1)


def lie_about_lengths(gateway: Gateway) -> None:
    """Announce PDUs, PDVs and elements of 4 GiB."""
    element = struct.pack("<HH2s2xI", 0x0008, 0x0016, b"UN", 0xFFFFFFFE)
    store_rq = p_data((3, 3, store_rq_command()))
    lies = [
        b"\x04\0\xff\xff\xff\xff",
        struct.pack(">BxIIBB", 4, 100, 0xFFFFFFFF, 1, 3),
        store_rq + struct.pack(">BxIIBB", 4, 65536, 0xFFFFFFFF, 3, 0),
        store_rq + p_data((3, 2, element + bytes(1000))),
        store_rq + p_data((3, 2, element.replace(b"UN", b"SQ") + bytes(1000))),
        b"\x05\0\xff\xff\xff\xff",
    ]
    for number in range(LIES):
        with gateway.connect() as peer:
            peer.send(CONTEXTS)
            assert peer.read_pdu()[0] == 2
            peer.send(lies[number % len(lies)])
            # An A-ABORT, or the status of an instance that cannot be understood.
            assert peer.read_pdu()[0] in (4, 7)
        with gateway.connect() as peer:
            peer.send(b"\x01\0\xff\xff\xff\xff")
            assert peer.read_abort() == (0, 0)


def mutate(gateway: Gateway, seed: int = 0, streams: int = 400) -> None:
    """Send conversations with bytes changed, cut out and put in, and see them to their end."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    store_rq = p_data((3, 3, store_rq_command())) + p_data((3, 0, b"1234"), (3, 2, b"5678"))
    pdus = [CONTEXTS, echo_rq(), store_rq, RELEASE_RQ, ABORT]
    for _ in range(streams):
        stream = bytearray(CONTEXTS + b"".join(chance.choices(pdus, k=chance.randrange(6))))
        for _ in range(chance.randrange(1, 5)):
            place = chance.randrange(len(stream))
            removed = chance.randrange(5)
            put = chance.choice([b"", b"\xff" * 4, b"\0" * 4, chance.randbytes(4)])
            stream[place : place + removed] = put
            stream = stream or bytearray(b"\0")
        with gateway.connect() as peer, contextlib.suppress(ConnectionError):
            peer.send(bytes(stream))
            peer.sock.shutdown(socket.SHUT_WR)
            while peer.sock.recv(65536):
                pass


def store_what_was_made_to_crash_readers(gateway: Gateway) -> None:
    """Send the fuzzing corpus as CT images, each behind its preamble as it is."""
    for number, file in enumerate(file for file in corpus_files() if file.hostile):
        data_set = file.path.read_bytes()[132:]
        fragments = [data_set[at : at + 16_000] for at in range(0, len(data_set), 16_000)]
        with gateway.connect() as peer:
            peer.send(CONTEXTS)
            assert peer.read_pdu()[0] == 2
            peer.send(p_data((3, 3, store_rq_command(uid=f"1.2.3.{number}"))))
            for fragment in fragments[:-1]:
                peer.send(p_data((3, 0, fragment)))
            peer.send(p_data((3, 2, fragments[-1])))
            assert peer.read_response().status in (0x0000, 0xA900, 0xC000)
            peer.release()


Attack = Callable[[Gateway], None]
ATTACKS: Final[dict[str, Attack]] = {
    "probes": probe,
    "silence": stay_silent,
    "slow-loris": dribble,
    "lengths of 4 GiB": lie_about_lengths,
    "mutated PDUs": mutate,
    **({"files": store_what_was_made_to_crash_readers} if CORPUS.exists() else {}),
}


def attacked(gateway: Gateway, folder: Path, *attacks: Attack) -> Good:
    """Attack a gateway in all these ways at once, and prove that it is then as it was before."""
    before, peak = gateway.resources(), gateway.peak_bytes()
    failures: list[BaseException] = []

    def run(attack: Attack) -> None:
        try:
            attack(gateway)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    with good_client(gateway, folder) as good:
        threads = [threading.Thread(target=run, args=(attack,)) for attack in attacks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert good.troubles == []
    assert good.rounds
    assert gateway.peak_bytes() - peak < MOST_GROWTH
    eventually(
        gateway.resources,
        until=lambda now: all(
            count <= at_first for count, at_first in zip(now, before, strict=True)
        ),
    )
    assert gateway.lines(level="ERROR") == []
    text = gateway.log.read_text("utf-8")
    for secret in (PATIENT_ID, *PATIENT_NAME.split("^")):
        assert secret not in text
    return good


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_harms_nobody(gateway: Gateway, tmp_path: Path, attack: str) -> None:
    good = attacked(gateway, tmp_path / "good", ATTACKS[attack])
    print(f"{attack}: {good.rounds} rounds, the slowest took {good.slowest_seconds:.1f} s")


def test_all_attacks_at_once_harm_nobody(gateway: Gateway, tmp_path: Path) -> None:
    # Where too many wait, those of the hosts with most of them go, whatever others do meanwhile.
    good = attacked(gateway, tmp_path / "good", *ATTACKS.values())
    print(f"all: {good.rounds} rounds, the slowest took {good.slowest_seconds:.1f} s")
