"""A gateway of several processes, and what its peers notice of it: speed, and nothing else."""

import json
import os
import resource
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.dimse import RELEASE_RP, RELEASE_RQ, RawPeer, associate_rq, echo_rq, item
from tests.peers.gateway_process import Gateway, Stores, ask, is_running, running_gateway
from tests.peers.instances import Instance, study
from tests.peers.node_process import ROOT
from tests.peers.pki import Authority, Identity
from tests.peers.storing import storing

pytestmark = [pytest.mark.peers, pytest.mark.slow]

WORKERS = 3
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return where the gateway's log goes."""
    return tmp_path / "gateway.log"


@contextmanager
def running(
    log: Path, stores: Stores, settings: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """Start a gateway with workers, and find all of them running."""
    with running_gateway(
        log, stores, {"LENTICULAR_WORKERS": str(WORKERS), **(settings or {})}
    ) as gateway:
        assert len(gateway.workers()) == WORKERS
        yield gateway


def associate(gateway: Gateway) -> RawPeer:
    """Get an association."""
    peer = gateway.connect()
    peer.send(associate_rq(called=gateway.aet))
    kind, answer = peer.read_pdu()
    assert kind == 2, (kind, answer)
    return peer


def accepted(gateway: Gateway) -> RawPeer | None:
    """Get an association if there is one to be had."""
    peer = gateway.connect()
    peer.send(associate_rq(called=gateway.aet))
    if peer.read_pdu()[0] == 2:
        return peer
    peer.sock.close()
    return None


def is_served(peer: RawPeer) -> bool:
    """Tell whether an association is answered."""
    peer.send(echo_rq())
    return peer.read_response().status == 0


def rejection(gateway: Gateway) -> tuple[int, int, int]:
    """Ask for an association that is refused."""
    with gateway.connect() as peer:
        peer.send(associate_rq(called=gateway.aet))
        return peer.read_rejection()


def associations_by_worker(gateway: Gateway, count: int) -> Counter[int]:
    """Wait until so many associations have ended, and count them by worker."""
    ended = eventually(
        lambda: gateway.lines(message="association ended"),
        until=lambda lines: len(lines) >= count,
    )
    return Counter(line["worker"] for line in ended)


# Spreading and the limit


def test_associations_are_spread_over_the_workers_and_the_limit_is_one_for_all(
    stores: Stores, log: Path
) -> None:
    most = 2 * WORKERS
    with (
        running(log, stores, {"LENTICULAR_MAX_ASSOCIATIONS": str(most)}) as gateway,
        ExitStack() as stack,
    ):
        first, *others = [stack.enter_context(associate(gateway)) for _ in range(most)]
        assert all(map(is_served, (first, *others)))
        assert rejection(gateway) == LOCAL_LIMIT_EXCEEDED
        first.release()
        another = stack.enter_context(associate(gateway))
        assert rejection(gateway) == LOCAL_LIMIT_EXCEEDED
        for peer in (another, *others):
            peer.release()
        by_worker = associations_by_worker(gateway, most + 1)
    assert set(by_worker) == {1, 2, 3}
    assert sorted(by_worker.values()) == [2, 2, 3]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_each_association_that_is_rejected_is_counted_by_its_reason(
    stores: Stores, log: Path, workers: str
) -> None:
    settings = {
        "LENTICULAR_WORKERS": workers,
        "LENTICULAR_MAX_ASSOCIATIONS": "1",
        "LENTICULAR_METRICS": "emf",
    }
    with running_gateway(log, stores, settings) as gateway:
        with gateway.connect() as peer:
            peer.send(associate_rq(called=gateway.aet, version=2))
            assert peer.read_rejection() == (1, 2, 2)
        with associate(gateway) as holder:
            for _ in range(2):
                assert rejection(gateway) == LOCAL_LIMIT_EXCEEDED
            holder.release()
        gateway.terminate()
        assert gateway.process.wait(60) == 0
        assert gateway.process.stdout is not None
        lines = [json.loads(line) for line in gateway.process.stdout.read().splitlines()]
    rejected: Counter[str] = Counter()
    for line in lines:
        if "AssociationsRejected" in line:
            rejected[line["Reason"]] += line["AssociationsRejected"]
    assert rejected == {"protocol version not supported": 1, "local limit exceeded": 2}
    assert len(gateway.lines(message="association rejected")) == 3


def test_of_a_crowd_that_comes_at_once_exactly_as_many_get_in_as_may(
    stores: Stores, log: Path
) -> None:
    most, crowd = 5, 30
    with running(log, stores, {"LENTICULAR_MAX_ASSOCIATIONS": str(most)}) as gateway:
        peers = [gateway.connect() for _ in range(crowd)]
        with ExitStack() as stack:
            for peer in peers:
                stack.enter_context(peer)
            for peer in peers:
                peer.send(associate_rq(called=gateway.aet))
            answers = Counter(peer.read_pdu()[0] for peer in peers)
    assert answers == {2: most, 3: crowd - most}


def test_a_slot_is_free_before_the_peer_knows_that_its_association_ended(
    stores: Stores, log: Path
) -> None:
    with running(log, stores, {"LENTICULAR_MAX_ASSOCIATIONS": "1"}) as gateway:
        for _ in range(100):
            associate(gateway).release()
        with associate(gateway) as peer:
            peer.send(RELEASE_RQ)
            assert peer.read_pdu()[0] == 6
            # It may even keep its connection open.
            associate(gateway).release()
        # One that was cut off gives its slot back, too.
        associate(gateway).sock.close()
        eventually(lambda: len(gateway.lines(message="association aborted")) == 1)
        associate(gateway).release()


def test_a_slot_that_was_freed_is_counted_before_anybody_is_turned_away(
    stores: Stores, log: Path
) -> None:
    request = associate_rq()
    with (
        running(log, stores, {"LENTICULAR_MAX_ASSOCIATIONS": "1"}) as gateway,
        associate(gateway) as first,
        gateway.connect() as second,
        gateway.connect() as third,
    ):
        # Accepted in their order: the second has been when the third is answered.
        third.send(RELEASE_RQ)
        third.read_abort()
        second.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        os.kill(gateway.process.pid, signal.SIGSTOP)
        # The supervisor will find that the second has spoken before it finds that a slot is free.
        second.send(request[:10])
        first.release()
        second.send(request[10:])
        os.kill(gateway.process.pid, signal.SIGCONT)
        assert second.read_pdu()[0] == 2


def test_what_many_clients_store_at_once_is_all_kept(
    stores: Stores, log: Path, tmp_path: Path
) -> None:
    instances = study(tmp_path / "study", 60)
    batches = [instances[first::6] for first in range(6)]
    with running(log, stores) as gateway:
        with storing(gateway, *batches) as clients:
            assert clients.finish() == [0] * len(instances)
        assert set(gateway.object_keys()) == {instance.key for instance in instances}
        assert set(associations_by_worker(gateway, len(batches)).values()) == {2}


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Make an authority that everybody trusts."""
    return Authority.create(tmp_path)


def tls_settings(authority: Authority, node: Identity) -> dict[str, str]:
    return {
        "LENTICULAR_TLS_PORT": "0",
        "LENTICULAR_TLS_CERTIFICATE": str(node.certificate),
        "LENTICULAR_TLS_KEY": str(node.key),
        "LENTICULAR_TLS_CLIENT_CA": str(authority.certificate),
    }


def store_over_tls(
    gateway: Gateway, authority: Authority, peer: Identity, instances: Sequence[Instance]
) -> None:
    dcmtk.run(
        "storescu", "-aec", gateway.aet,
        "+tls", peer.key, peer.certificate, "+cf", authority.certificate,
        gateway.host, str(gateway.ready["tls_port"]),
        *(instance.path for instance in instances),
    )  # fmt: skip


def test_workers_speak_tls_within_the_same_limit(
    stores: Stores, log: Path, tmp_path: Path, authority: Authority
) -> None:
    node, client = authority.issue("node"), authority.issue("peer")
    instances = study(tmp_path / "study", 6)
    settings = {**tls_settings(authority, node), "LENTICULAR_MAX_ASSOCIATIONS": str(WORKERS)}
    with running(log, stores, settings) as gateway, ExitStack() as stack:
        for start in range(WORKERS):
            store_over_tls(gateway, authority, client, instances[start::WORKERS])
        assert set(gateway.object_keys()) == {instance.key for instance in instances}
        assert set(associations_by_worker(gateway, WORKERS)) == {1, 2, 3}
        assert all(line["tls"] for line in gateway.lines(message="association ended"))
        # Who has only knocked, or is stuck in the handshake, has no slot.
        for _ in range(2 * WORKERS):
            tls = (gateway.host, gateway.ready["tls_port"])
            socket.create_connection(tls).close()
            half = stack.enter_context(socket.create_connection(tls))
            half.sendall(b"\x16\x03\x01")
        *_, last = [stack.enter_context(associate(gateway)) for _ in range(WORKERS)]
        with pytest.raises(dcmtk.PeerFailed, match="Local Limit Exceeded"):
            store_over_tls(gateway, authority, client, instances[:1])
        last.release()
        store_over_tls(gateway, authority, client, instances[:1])
        assert rejection_after(gateway, 1) == LOCAL_LIMIT_EXCEEDED


def rejection_after(gateway: Gateway, associations: int) -> tuple[int, int, int]:
    """Ask for an association that is refused when so many others have been granted."""
    with ExitStack() as stack:
        for _ in range(associations):
            stack.enter_context(associate(gateway))
        return rejection(gateway)


# A process ends


def test_a_worker_that_is_killed_costs_its_own_associations_only(
    stores: Stores, log: Path, tmp_path: Path
) -> None:
    instances = study(tmp_path / "study", 6 * 40)
    batches = [instances[first::6] for first in range(6)]
    with running(log, stores) as gateway:
        before = gateway.workers()
        with storing(gateway, *batches) as clients:
            clients.wait_for_answers(30)
            os.kill(before[0], signal.SIGKILL)
            clients.finish()
        answers = Counter(answer.association for answer in clients.answers)
        assert all(answer.status == 0 for answer in clients.answers)
        whole = [number for number in range(6) if answers[number] == len(batches[number])]
        # The worker had two; those may have been done already, but not likely.
        assert len(whole) >= 4
        acknowledged = {
            instance.key
            for instance in instances
            if instance.sop_instance_uid in clients.acknowledged()
        }
        assert acknowledged <= set(gateway.object_keys())
        (ended,) = gateway.lines(message="worker ended")
        assert (ended["pid"], ended["status"]) == (before[0], -signal.SIGKILL)
        assert ended["associations"] + len(whole) == 6
        # It is replaced, and what its clients had not sent yet can be sent again.
        eventually(lambda: len(gateway.lines(message="worker is ready")) == WORKERS + 1)
        assert set(gateway.workers()) & set(before) == set(before[1:])
        with storing(gateway, *batches) as clients:
            assert clients.finish() == [0] * len(instances)
        assert set(gateway.object_keys()) == {instance.key for instance in instances}


def test_the_slots_of_a_worker_that_is_killed_are_free_again(stores: Stores, log: Path) -> None:
    with (
        running(log, stores, {"LENTICULAR_MAX_ASSOCIATIONS": str(WORKERS)}) as gateway,
        ExitStack() as stack,
    ):
        peers = [stack.enter_context(associate(gateway)) for _ in range(WORKERS)]
        assert rejection(gateway) == LOCAL_LIMIT_EXCEEDED
        for pid in gateway.workers():
            os.kill(pid, signal.SIGKILL)
        assert all(peer.is_closed() for peer in peers)
        eventually(lambda: len(gateway.lines(message="worker is ready")) == 2 * WORKERS)
        again = [stack.enter_context(associate(gateway)) for _ in range(WORKERS)]
        assert all(map(is_served, again))
        assert rejection(gateway) == LOCAL_LIMIT_EXCEEDED


def test_a_worker_that_ends_again_and_again_is_replaced_later_and_later(
    stores: Stores, log: Path
) -> None:
    with running(log, stores) as gateway:
        for kills in range(4):
            lines = eventually(
                lambda: gateway.lines(message="worker is ready", worker=2),
                until=lambda lines, kills=kills: len(lines) == kills + 1,  # type: ignore[misc]
            )
            os.kill(lines[-1]["pid"], signal.SIGKILL)
        ended = eventually(
            lambda: gateway.lines(message="worker ended", worker=2),
            until=lambda lines: len(lines) == 4,
        )
        assert [line["restart_seconds"] for line in ended] == [0.0, 0.5, 1.0, 2.0]
        associate(gateway).release()


def test_a_worker_that_is_stuck_is_replaced(stores: Stores, log: Path) -> None:
    with running(log, stores) as gateway:
        stuck = gateway.workers()[0]
        os.kill(stuck, signal.SIGSTOP)
        (said,) = eventually(lambda: gateway.lines(message="worker is stuck"), within=90)
        assert said["pid"] == stuck
        eventually(lambda: len(gateway.lines(message="worker is ready")) == WORKERS + 1)
        assert stuck not in gateway.workers()


def is_accepted(peer: RawPeer) -> bool:
    """Tell whether an association was accepted; who still waits as a gateway drains is cut off."""
    try:
        return peer.read_pdu()[0] == 2
    except (ConnectionError, AssertionError):
        return False


def test_a_worker_with_no_room_to_hear_more_is_not_killed_for_it(stores: Stores, log: Path) -> None:
    # As long as an association request may be; nobody knows the items that make it so.
    large = associate_rq(more=item(0x7F, bytes(65_000)) * 4)
    with running(log, stores) as gateway, ExitStack() as stack:
        peers = [stack.enter_context(associate(gateway)) for _ in range(WORKERS)]
        workers = gateway.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        crowd = [stack.enter_context(gateway.connect()) for _ in range(4 * WORKERS)]
        for peer in crowd:
            peer.send(large)
        # Who is turned away finds each worker's channel full.
        eventually(lambda: gateway.lines(message="association rejected"))
        gateway.terminate()
        eventually(lambda: gateway.lines(message="draining"))
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        assert all(map(is_served, peers))
        taken = list(filter(is_accepted, crowd))
        assert taken
        for peer in (*peers, *taken):
            peer.release()
        assert gateway.process.wait(30) == 0
        assert len(gateway.lines(message="draining")) == WORKERS + 1
        assert not gateway.lines(message="worker ended")


def test_when_the_supervisor_is_killed_nothing_holds_its_port(
    stores: Stores, log: Path, tmp_path: Path
) -> None:
    instances = study(tmp_path / "study", 100)
    with running(log, stores) as gateway, associate(gateway) as idle:
        workers = gateway.workers()
        with storing(gateway, instances[::2], instances[1::2]) as clients:
            clients.wait_for_answers(10)
            gateway.kill()
            clients.finish()
        assert idle.is_closed()
        eventually(lambda: not any(map(is_running, workers)))
        acknowledged = {
            instance.key
            for instance in instances
            if instance.sop_instance_uid in clients.acknowledged()
        }
        assert len(acknowledged) >= 10
        assert acknowledged <= set(gateway.object_keys())
        again = {"LENTICULAR_PORT": str(gateway.port)}
        with running(log.with_name("again.log"), stores, again) as successor:
            associate(successor).release()


def test_a_worker_without_file_descriptors_serves_again_when_it_has_some(
    stores: Stores, log: Path
) -> None:
    with running(log, stores, {"LENTICULAR_MAX_ASSOCIATIONS": "1"}) as gateway:
        limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in gateway.workers()}
        for pid, (_, hard) in limits.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))

        def answer() -> bytes:
            with gateway.connect() as peer:
                peer.send(associate_rq(called=gateway.aet))
                return b"" if peer.is_closed() else b"answered"

        # A slot comes back a moment after the connection that had it is gone: until then the next
        # peer is refused.
        for _ in range(WORKERS):
            eventually(answer, until=lambda kind: kind == b"")
        for pid, limit in limits.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        peer = eventually(lambda: accepted(gateway))
        assert peer is not None
        with peer:
            assert is_served(peer)
            assert rejection(gateway) == LOCAL_LIMIT_EXCEEDED


# Draining


def test_sigterm_drains_every_worker(stores: Stores, log: Path) -> None:
    with running(log, stores) as gateway, ExitStack() as stack:
        peers = [stack.enter_context(associate(gateway)) for _ in range(WORKERS)]
        workers = gateway.workers()
        gateway.terminate()
        eventually(lambda: len(gateway.lines(message="draining")) == WORKERS + 1)
        with pytest.raises(ConnectionRefusedError):
            gateway.connect()
        assert all(map(is_served, peers))
        for peer in peers:
            peer.release()
        assert gateway.process.wait(30) == 0
        assert not any(map(is_running, workers))
        assert not [line for line in gateway.lines() if line["level"] not in ("DEBUG", "INFO")]


def test_clients_that_store_when_sigterm_comes_end_well(
    stores: Stores, log: Path, tmp_path: Path
) -> None:
    instances = study(tmp_path / "study", 120)
    with running(log, stores) as gateway:
        with storing(gateway, *(instances[first::4] for first in range(4))) as clients:
            while len({answer.association for answer in clients.answers}) < 4:
                clients.wait_for_answers(len(clients.answers) + 1)
            gateway.terminate()
            assert clients.finish() == [0] * len(instances)
        assert gateway.process.wait(30) == 0
        assert set(gateway.object_keys()) == {instance.key for instance in instances}


def test_at_the_drains_deadline_what_still_runs_is_aborted(stores: Stores, log: Path) -> None:
    with (
        running(log, stores, {"LENTICULAR_DRAIN_SECONDS": "0"}) as gateway,
        associate(gateway) as peer,
    ):
        gateway.terminate()
        assert peer.read_abort() == (0, 0)
        assert gateway.process.wait(30) == 0
        # The worker did so itself, and the supervisor did not have to end it 20 s later.
        assert not gateway.lines(message="worker does not end")


def test_a_signal_to_the_whole_group_drains_as_one_to_the_supervisor(
    stores: Stores, log: Path
) -> None:
    with running(log, stores) as gateway, associate(gateway) as peer:
        for pid in (*gateway.workers(), gateway.process.pid):
            os.kill(pid, signal.SIGTERM)
        eventually(lambda: gateway.lines(message="draining"))
        assert is_served(peer)
        peer.release()
        assert gateway.process.wait(30) == 0


def test_an_idle_association_is_released_by_its_worker(stores: Stores, log: Path) -> None:
    with (
        running(log, stores, {"LENTICULAR_IDLE_SECONDS": "1"}) as gateway,
        associate(gateway) as peer,
    ):
        assert peer.read_pdu()[0] == 5
        peer.send(RELEASE_RP)
        assert peer.is_closed()


# What the surroundings see


def test_the_gateway_is_ready_while_one_worker_is(stores: Stores, log: Path) -> None:
    with running(log, stores, {"LENTICULAR_HEALTH_PORT": "0"}) as gateway:
        eventually(lambda: ask(gateway, "/ready") == (200, "ready"))
        os.kill(gateway.workers()[0], signal.SIGKILL)
        eventually(lambda: gateway.lines(message="worker ended"))
        assert ask(gateway, "/ready") == (200, "ready")

        def kill_all_and_ask() -> tuple[int, str]:
            for pid in gateway.workers():
                os.kill(pid, signal.SIGKILL)
            return ask(gateway, "/ready")

        assert eventually(kill_all_and_ask, until=lambda answer: answer[0] != 200) == (
            503,
            "no worker process is ready",
        )
        assert ask(gateway, "/alive") == (200, "alive")
        eventually(lambda: ask(gateway, "/ready") == (200, "ready"))
        with associate(gateway) as peer:
            gateway.terminate()
            eventually(lambda: ask(gateway, "/ready") == (503, "draining"))
            assert ask(gateway, "/alive") == (200, "alive")
            peer.release()
        assert gateway.process.wait(30) == 0


def test_open_associations_are_counted_once_for_all_workers(
    stores: Stores, log: Path, tmp_path: Path
) -> None:
    instances = study(tmp_path / "study", 6)
    settings = {"LENTICULAR_METRICS": "emf", "LENTICULAR_METRICS_NAMESPACE": "Lenticular/here"}
    with running(log, stores, settings) as gateway:
        with storing(gateway, instances[:3], instances[3:]) as clients:
            assert clients.finish() == [0] * 6
        gateway.terminate()
        assert gateway.process.wait(30) == 0
        assert gateway.process.stdout is not None
        lines = [json.loads(line) for line in gateway.process.stdout]
    # At the start and at the end, of the process that counts them alone.
    assert [line["AssociationsOpen"] for line in lines if "AssociationsOpen" in line] == [0, 0]
    assert sum(line.get("InstancesStored", 0) for line in lines) == 6
    namespaces = [each["Namespace"] for line in lines for each in line["_aws"]["CloudWatchMetrics"]]
    assert set(namespaces) == {"Lenticular/here"}


def test_what_is_wrong_is_told_once_before_the_port_is_served(
    stores: Stores, log: Path, authority: Authority
) -> None:
    settings = tls_settings(authority, authority.issue("node"))
    settings["LENTICULAR_TLS_KEY"] = str(authority.issue("another").key)
    with pytest.raises(AssertionError, match="no ready line"), running(log, stores, settings):
        pass
    (line,) = log.read_text().splitlines()
    assert line.endswith("node.pem: key values mismatch")


def test_a_flood_of_probes_takes_nothing_from_the_workers(stores: Stores, log: Path) -> None:
    with running(log, stores, {"LENTICULAR_MAX_ASSOCIATIONS": "1"}) as gateway:

        def probe() -> None:
            for _ in range(100):
                gateway.connect().sock.close()

        threads = [threading.Thread(target=probe) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            associate(gateway).release()
        for thread in threads:
            thread.join()
        assert set(associations_by_worker(gateway, 20)) == {1, 2, 3}


# What a process keeps


@pytest.mark.parametrize("workers", [1, 2])
def test_what_starting_up_made_is_not_looked_at_again_while_peers_are_served(
    stores: Stores, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, gc, os\n"
        "def tell():\n"
        "    left = gc.get_freeze_count(), len(gc.get_objects())\n"
        "    open(f'{os.environ[\"TOLD\"]}.{os.getpid()}', 'w').write(str(list(left)))\n"
        "atexit.register(tell)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "layers/core")])
    settings = {"PYTHONPATH": path, "TOLD": str(tmp_path / "told")}
    log = tmp_path / "gateway.log"
    with running_gateway(log, stores, {**settings, "LENTICULAR_WORKERS": str(workers)}) as gateway:
        with associate(gateway) as peer:
            assert is_served(peer)
        gateway.terminate()
        assert gateway.process.wait(60) == 0
    told = [json.loads(each.read_text()) for each in tmp_path.glob("told.*")]
    # The supervisor is one more, and serves nobody.
    assert sum(frozen > 10 * alive for frozen, alive in told) >= workers
