"""The gateway's process to its surroundings: TLS alone, health checks, metrics."""

import json
import logging
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from lenticular.nodes import NodeTable, read_nodes_file
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmjs_dimse, dcmtk
from tests.peers.dimse import RELEASE_RQ, RawPeer, associate_rq, echo_rq
from tests.peers.faulty_s3 import Fault, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, ask, running_gateway
from tests.peers.instances import PATIENT_ID, PATIENT_NAME, study
from tests.peers.nodes_file import nodes_file
from tests.peers.pki import Authority
from tests.peers.storing import store

pytestmark = pytest.mark.peers


def _to_peers(gateway: Gateway) -> list[str]:
    """Return the established connections of the gateway's TLS port."""
    here = f":{gateway.ready['tls_port']:04X}"
    established = "01"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [
        line for line in lines if line.split()[1].endswith(here) and line.split()[3] == established
    ]


def test_a_gateway_that_speaks_tls_alone_keeps_what_it_is_sent(
    stores: Stores, tmp_path: Path
) -> None:
    authority = Authority.create(tmp_path)
    node, peer = authority.issue("node", use_rsa=True), authority.issue("peer")
    settings = {
        "LENTICULAR_PORT": "off",
        "LENTICULAR_TLS_PORT": "0",
        "LENTICULAR_TLS_CERTIFICATE": str(node.certificate),
        "LENTICULAR_TLS_KEY": str(node.key),
        "LENTICULAR_TLS_CLIENT_CA": str(authority.certificate),
        "LENTICULAR_TLS_PROFILE": "bcp195-extended",
    }
    instances = study(tmp_path / "study", 5, size=256 << 10)
    with running_gateway(tmp_path / "gateway.log", stores, settings) as gateway:
        assert "port" not in gateway.ready

        def send() -> None:
            dcmtk.run(
                "storescu", "-aec", gateway.aet,
                "+tls", peer.key, peer.certificate, "+cf", authority.certificate,
                gateway.host, str(gateway.ready["tls_port"]),
                *(instance.path for instance in instances),
            )  # fmt: skip

        # The way to S3 has threads and connections of its own, from the first use on.
        send()
        eventually(lambda: len(gateway.lines(message="association ended")) == 1)
        before = gateway.threads()
        send()
        send()
        assert set(gateway.object_keys()) == {instance.key for instance in instances}
        ended = eventually(
            lambda: gateway.lines(message="association ended"), until=lambda lines: len(lines) == 3
        )
        assert [line["outcome"] for line in ended] == ["released"] * 3
        assert all(line["tls"] in ("TLSv1.2", "TLSv1.3") for line in ended)
        eventually(lambda: gateway.threads() <= before)
        eventually(lambda: not _to_peers(gateway))
        assert not [
            line for line in gateway.lines() if logging.getLevelName(line["level"]) > logging.INFO
        ]
        gateway.terminate()
        assert gateway.process.wait(30) == 0


def test_a_gateway_is_ready_until_it_drains_and_alive_until_it_ends(
    stores: Stores, tmp_path: Path
) -> None:
    with running_gateway(
        tmp_path / "gateway.log", stores, {"LENTICULAR_HEALTH_PORT": "0"}
    ) as gateway:
        eventually(lambda: ask(gateway, "/ready") == (200, "ready"))
        with gateway.connect() as peer:
            peer.send(associate_rq(called=gateway.aet))
            assert peer.read_pdu()[0] == 2
            gateway.terminate()
            eventually(lambda: ask(gateway, "/ready") == (503, "draining"))
            assert ask(gateway, "/alive") == (200, "alive")
            peer.send(RELEASE_RQ)
            assert peer.read_pdu()[0] in (5, 6)
        assert gateway.process.wait(30) == 0


def test_a_variable_that_is_no_setting_is_warned_of_once(stores: Stores, tmp_path: Path) -> None:
    settings = {"LENTICULAR_TLS_CERT": "secret", "LENTICULAR_WORKERS": "2"}
    log = tmp_path / "gateway.log"
    with running_gateway(log, stores, settings) as gateway:
        [warning] = gateway.lines(level="WARNING")
        assert warning["most_like"] == {"LENTICULAR_TLS_CERT": "LENTICULAR_TLS_CERTIFICATE"}
    assert "secret" not in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_every_process_shows_a_certificate_that_is_replaced_without_a_restart(
    stores: Stores, tmp_path: Path, workers: int
) -> None:
    old, new = (Authority.create(tmp_path, name) for name in ("old", "new"))
    node, renewed = old.issue("node"), new.issue("renewed")
    settings = {
        "LENTICULAR_TLS_PORT": "0",
        "LENTICULAR_TLS_CERTIFICATE": str(node.certificate),
        "LENTICULAR_TLS_KEY": str(node.key),
        "LENTICULAR_WORKERS": str(workers),
    }
    [instance] = study(tmp_path / "study", 1)
    with (
        running_gateway(tmp_path / "gateway.log", stores, settings) as gateway,
        ExitStack() as held,
    ):
        port = gateway.ready["tls_port"]

        def store_trusting(authority: Authority) -> bool:
            told = dcmtk.run(
                "storescu", "-v", "-aec", gateway.aet, "+tla", "+cf", authority.certificate,
                gateway.host, str(port), instance.path, check=False,
            )  # fmt: skip
            return "Received Store Response (Success)" in told

        def associated() -> RawPeer:
            context = ssl.create_default_context(cafile=old.certificate)
            plain = socket.create_connection((gateway.host, port), timeout=30)
            peer = RawPeer(context.wrap_socket(plain, server_hostname=gateway.host))
            peer.send(associate_rq())
            assert peer.read_pdu()[0] == 2
            return peer

        processes = gateway.workers()
        assert store_trusting(old)
        assert not store_trusting(new)
        peers = [held.enter_context(associated()) for _ in range(workers)]
        renewed.key.replace(node.key)
        renewed.certificate.replace(node.certificate)
        # Each new connection goes to another worker; one looks when it gets one.
        eventually(lambda: all(store_trusting(new) for _ in range(workers)))
        assert not any(store_trusting(old) for _ in range(workers))
        for peer in peers:
            peer.send(echo_rq())
            assert peer.read_response().status == 0
            peer.release()
        reloads = gateway.lines(message="certificate reloaded")
        assert len({line.get("worker") for line in reloads}) == len(reloads) == workers
        assert gateway.process.poll() is None
        assert gateway.workers() == processes


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("profile", ["bcp195", "bcp195-extended"])
def test_dcmjs_dimse_stores_over_tls(
    stores: Stores, tmp_path: Path, mutual: bool, profile: str
) -> None:
    authority = Authority.create(tmp_path)
    node, peer = authority.issue("node", use_rsa=True), authority.issue("peer")
    settings = {
        "LENTICULAR_TLS_PORT": "0",
        "LENTICULAR_TLS_CERTIFICATE": str(node.certificate),
        "LENTICULAR_TLS_KEY": str(node.key),
        "LENTICULAR_TLS_PROFILE": profile,
        **({"LENTICULAR_TLS_CLIENT_CA": str(authority.certificate)} if mutual else {}),
    }
    anonymous = dcmjs_dimse.Tls(authority.certificate)
    identified = dcmjs_dimse.Tls(authority.certificate, peer.certificate, peer.key)
    instances = study(tmp_path / "study", 3)
    requests = [{"type": "store", "file": str(instance.path)} for instance in instances]
    with running_gateway(tmp_path / "gateway.log", stores, settings) as gateway:

        def send(tls: dcmjs_dimse.Tls) -> list[object]:
            events = dcmjs_dimse.run(
                gateway, {"type": "echo"}, *requests, port=gateway.ready["tls_port"], tls=tls
            )
            return [each["status"] for each in events if each["event"] == "response"]

        if mutual:
            assert send(anonymous) == []
            assert gateway.object_keys() == []
        assert send(identified if mutual else anonymous) == [0] * 4
        # It encodes anew what it sends, so the bytes are its own.
        stored = {key.split("/")[3] for key in gateway.object_keys("instances/")}
        assert stored == {instance.sop_instance_uid for instance in instances}
        [ended] = eventually(lambda: gateway.lines(message="association ended"))
        assert ended["tls"] in ("TLSv1.2", "TLSv1.3")


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("LENTICULAR_BUCKET", "the bucket cannot be reached: 404"),
        ("LENTICULAR_TABLE", "the table cannot be reached: ResourceNotFoundException"),
    ],
)
def test_a_gateway_without_its_stores_is_alive_but_not_ready(
    stores: Stores, tmp_path: Path, missing: str, reason: str
) -> None:
    settings = {
        "LENTICULAR_HEALTH_PORT": "0",
        "LENTICULAR_ACCESS": "known-aet",
        missing: "there-is-none-of-this-name",
    }
    with running_gateway(tmp_path / "gateway.log", stores, settings) as gateway:
        eventually(lambda: ask(gateway, "/ready") == (503, reason))
        assert ask(gateway, "/alive") == (200, "alive")
        # Once, or once more where this took a minute.
        assert gateway.lines(message="not ready", reason=reason)


def test_a_gateway_that_anybody_may_send_to_begins_without_its_table(
    cloud: OfflineCloud, stores: Stores, tmp_path: Path
) -> None:
    nodes = nodes_file(tmp_path, {"ARCHIVE": 11112})
    with faulty_s3(cloud.endpoint) as dynamodb:
        dynamodb.fail(Fault.CONNECTION_RESET)
        settings = {
            "LENTICULAR_HEALTH_PORT": "0",
            "LENTICULAR_NODES_FILE": str(nodes),
            "AWS_ENDPOINT_URL_DYNAMODB": dynamodb.endpoint,
        }
        with running_gateway(tmp_path / "gateway.log", stores, settings) as gateway:
            eventually(lambda: ask(gateway, "/ready") == (200, "ready"))
            instances = study(tmp_path / "study", 1)
            assert store(gateway, *instances) == [0]
            assert gateway.lines(message="nodes file not loaded yet")
            dynamodb.heal()
            eventually(lambda: gateway.lines(message="nodes file loaded"))
    table = NodeTable(cloud.clients.dynamodb, stores.table)
    assert table.all() == read_nodes_file(nodes)


def test_a_certificate_that_cannot_be_used_is_told_at_the_start(
    stores: Stores, tmp_path: Path
) -> None:
    authority = Authority.create(tmp_path)
    settings = {
        "LENTICULAR_TLS_PORT": "0",
        "LENTICULAR_TLS_CERTIFICATE": str(authority.issue("node").certificate),
        "LENTICULAR_TLS_KEY": str(authority.issue("another").key),
    }
    log = tmp_path / "gateway.log"
    with (
        pytest.raises(AssertionError, match="no ready line"),
        running_gateway(log, stores, settings),
    ):
        pass
    assert log.read_text().rstrip().endswith("node.pem: key values mismatch")


def test_metrics_of_a_process_are_lines_on_stdout_without_patients(
    stores: Stores, tmp_path: Path
) -> None:
    instances = study(tmp_path / "study", 3)
    with running_gateway(
        tmp_path / "gateway.log", stores, {"LENTICULAR_METRICS": "emf"}
    ) as gateway:
        assert dcmtk.store(gateway, *(instance.path for instance in instances)) == [0, 0, 0]
        gateway.terminate()
        assert gateway.process.wait(30) == 0
        assert gateway.process.stdout is not None
        text = gateway.process.stdout.read()
    for secret in (PATIENT_ID, *PATIENT_NAME.split("^")):
        assert secret not in text
    first, association, last = [json.loads(line) for line in text.splitlines()]
    assert first["AssociationsOpen"] == last["AssociationsOpen"] == 0
    assert association["InstancesStored"] == 3
    assert association["BytesReceived"] > 3 * (32 << 10)
