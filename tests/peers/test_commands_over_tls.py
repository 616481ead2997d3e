"""The commands that speak DICOM, over TLS: with our node, with others, and with who fails."""

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.tls import Certificates, TlsFiles
from lenticular.cli import main, service_user
from tests.cloud.standin import OfflineCloud
from tests.commands import lenticular
from tests.peers import dcmtk
from tests.peers.ct_files import ct_file
from tests.peers.dimse import serving
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.nodes_file import nodes_file
from tests.peers.orthanc import AET, running_orthanc
from tests.peers.pki import Authority, Identity
from tests.ports import free_port

pytestmark = pytest.mark.peers

WORKSTATION = "WORKSTATION"


@dataclass(frozen=True)
class Trust:
    """Who trusts whom: an authority, a server of it, we ourselves, and who is of nobody's."""

    authority: Authority
    server: Identity
    ours: Identity
    elsewhere: Identity
    expired: Identity
    stranger: Identity

    @property
    def ca(self) -> tuple[str, str]:
        """The option by which a command trusts the authority."""
        return "--tls-ca", str(self.authority.certificate)

    @property
    def shown(self) -> tuple[str, ...]:
        """The options of a command that has a certificate of the authority."""
        return (*self.ca, *show(self.ours))


def show(identity: Identity) -> tuple[str, ...]:
    return "--tls-cert", str(identity.certificate), "--tls-key", str(identity.key)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("pki")
    authority = Authority.create(folder)
    other = Authority.create(folder, "other")
    return Trust(
        authority,
        authority.issue("server", use_rsa=True),
        authority.issue("ours"),
        authority.issue("elsewhere", host="pacs.clinic.example"),
        authority.issue("expired", days=-1),
        other.issue("stranger"),
    )


@dataclass(frozen=True)
class Clinic:
    """Our node, which takes TLS beside plain TCP, and Orthanc, which takes nothing else."""

    node: Gateway
    tls_port: int
    archive: str
    workstation_port: int
    trust: Trust

    def by_settings(self) -> dict[str, str]:
        """Return the environment of commands that always speak TLS with our node."""
        return {
            **self.node.environment(),
            "LENTICULAR_PORT": "off",
            "LENTICULAR_TLS_PORT": str(self.tls_port),
            "LENTICULAR_CALLING_TLS_CA": str(self.trust.authority.certificate),
            "LENTICULAR_CALLING_TLS_CERTIFICATE": str(self.trust.ours.certificate),
            "LENTICULAR_CALLING_TLS_KEY": str(self.trust.ours.key),
        }


@pytest.fixture(scope="module")
def clinic(
    trust: Trust, cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("clinic")
    workstation_port = free_port()
    nodes = nodes_file(folder, {WORKSTATION: workstation_port})
    settings = {
        "LENTICULAR_NODES_FILE": str(nodes),
        "LENTICULAR_TLS_PORT": "0",
        "LENTICULAR_TLS_CERTIFICATE": str(trust.server.certificate),
        "LENTICULAR_TLS_KEY": str(trust.server.key),
        "LENTICULAR_TLS_CLIENT_CA": str(trust.authority.certificate),
    }
    with running_gateway(folder / "gateway.log", Stores.in_cloud(cloud), settings) as gateway:
        tls_port = gateway.ready["tls_port"]
        with archive(folder, trust, gateway.aet, tls_port) as port:
            yield Clinic(gateway, tls_port, f"{AET}@127.0.0.1:{port}", workstation_port, trust)


@contextmanager
def archive(folder: Path, trust: Trust, node: str, node_port: int) -> Iterator[int]:
    """Run Orthanc with mutual TLS, in both directions; it moves to our node's TLS port."""
    allowed = {f"DicomAlwaysAllow{each}": True for each in ("Find", "Move")}
    options: dict[str, Any] = {
        **allowed,
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(trust.server.certificate),
        "DicomTlsPrivateKey": str(trust.server.key),
        "DicomTlsTrustedCertificates": str(trust.authority.certificate),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomModalities": {
            "node": {"AET": node, "Host": "127.0.0.1", "Port": node_port, "UseDicomTls": True}
        },
    }
    with running_orthanc(folder / "archive", **options) as running:
        yield running.port


def run(environment: Mapping[str, str], *arguments: str | Path) -> Result:
    """Run a command in this process, which has loaded what every command loads."""
    done = CliRunner(env=environment).invoke(main, list(map(str, arguments)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def facts(environment: Mapping[str, str], *arguments: str | Path) -> list[dict[str, Any]]:
    """Run a command that ends well, and return the JSON objects that it prints."""
    done = run(environment, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def study(folder: Path, uid: str, count: int) -> Path:
    folder.mkdir()
    for number in range(1, count + 1):
        ct_file(folder, uid, f"{uid}.1", f"{uid}.1.{number}", rows=32)
    return folder


def instances(environment: Mapping[str, str], uid: str) -> list[str]:
    """Have what was stored indexed, without a function, and ask how many a study has."""
    assert run(environment, "rebuild-index").exit_code == 0
    keys = ("-k", f"StudyInstanceUID={uid}", "-k", "NumberOfStudyRelatedInstances")
    found = facts(environment, "find", *keys)
    return [each["NumberOfStudyRelatedInstances"] for each in found]


# What works on plain TCP


def test_our_node_is_spoken_with_by_tls_in_every_command(clinic: Clinic, tmp_path: Path) -> None:
    """Where LENTICULAR_PORT is off, nothing else is taken: no option is needed."""
    uid = "1.2.3.801"
    environment = clinic.by_settings()
    sent = facts(environment, "import", "folder", study(tmp_path / "files", uid, 3))
    assert sent[0]["sent"] == 3
    assert instances(environment, uid) == ["3"]
    assert facts(environment, "get", uid, tmp_path / "got")[0]["files"] == 3
    with dcmtk.receiver(tmp_path / "received", WORKSTATION, clinic.workstation_port) as folder:
        assert facts(environment, "send", WORKSTATION, "--study", uid)[0]["sent"] == 1
        assert len(list(folder.iterdir())) == 3


def test_another_archive_is_sent_to_asked_and_imported_from_by_tls(
    clinic: Clinic, tmp_path: Path
) -> None:
    uid = "1.2.3.802"
    environment = clinic.node.environment()
    tls = clinic.trust.shown
    files = study(tmp_path / "files", uid, 2)
    sent = facts(environment, "send", clinic.archive, files, "--iod", "none", *tls)
    assert sent[0]["sent"] == 2
    asked = facts(
        environment, "find", "--from", clinic.archive, "-k", f"StudyInstanceUID={uid}", *tls
    )
    assert asked == [{"StudyInstanceUID": uid}]
    imported = facts(environment, "import", "node", clinic.archive, "--study", uid, *tls)
    assert imported[0]["sent"] == 1
    # Over plain TCP, beside it.
    assert instances(environment, uid) == ["2"]


def test_files_are_sent_to_dcmtk_with_mutual_tls(trust: Trust, tmp_path: Path) -> None:
    port = free_port()
    theirs = ("+tls", str(trust.server.key), str(trust.server.certificate))
    files = study(tmp_path / "files", "1.2.3.803", 2)
    to = f"DCMTK@127.0.0.1:{port}"
    trusting = ("+cf", str(trust.authority.certificate))
    with dcmtk.receiver(tmp_path / "received", "DCMTK", port, *theirs, *trusting) as folder:
        sent = facts({}, "send", to, files, "--iod", "none", *trust.shown)
        assert (sent[0]["sent"], len(list(folder.iterdir()))) == (2, 2)
        refused = run({}, "send", to, files, "--iod", "none", "--retries", "0", *trust.ca)
    assert refused.exit_code == 3
    assert "asks for a certificate of ours: give --tls-cert and --tls-key" in refused.stderr


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mutual", [False, True])
def test_an_echo_says_which_tls_was_spoken(
    trust: Trust, version: ssl.TLSVersion, *, mutual: bool
) -> None:
    with server(trust, trust.server, mutual=mutual, version=version) as port:
        [row] = facts({}, "nodes", "echo", at(port), *(trust.shown if mutual else trust.ca))
    assert (row["status"], row["problem"]) == ("0000", None)
    assert row["tls"] == version.name.replace("_", ".")


def test_one_certificate_may_be_trusted_and_not_who_issued_it(trust: Trust) -> None:
    with server(trust, trust.server) as port:
        trusted = str(trust.server.certificate)
        [row] = facts({}, "nodes", "echo", at(port), "--tls-ca", trusted)
    assert row["status"] == "0000"


def test_a_certificate_for_another_host_is_taken_where_that_is_said(trust: Trust) -> None:
    with server(trust, trust.elsewhere) as port:
        [row] = facts({}, "nodes", "echo", at(port), *trust.ca, "--tls-any-host")
    assert row["status"] == "0000"


def test_a_node_that_is_called_by_tls_needs_no_option(clinic: Clinic, trust: Trust) -> None:
    environment = clinic.by_settings()

    def echoed(port: int, use: str) -> dict[str, Any]:
        added = run(environment, "nodes", "add", "LENTICULAR", "127.0.0.1", str(port), "--tls", use)
        assert added.exit_code == 0, added.stderr
        done = run(environment, "nodes", "echo", "LENTICULAR", "--json")
        [row] = map(json.loads, done.stdout.splitlines())
        return dict(row)

    with server(trust, trust.server, mutual=True) as port:
        assert echoed(port, "host")["tls"] == "TLSv1.3"
    with server(trust, trust.elsewhere) as port:
        assert "is not for 127.0.0.1" in echoed(port, "host")["problem"]
        assert echoed(port, "any-host")["status"] == "0000"
    assert run(environment, "nodes", "remove", "LENTICULAR").exit_code == 0


# What does not


@contextmanager
def server(
    trust: Trust,
    identity: Identity,
    *,
    mutual: bool = False,
    version: ssl.TLSVersion | None = None,
) -> Iterator[int]:
    """Serve C-ECHO over TLS; yield the port."""
    client_ca = trust.authority.certificate if mutual else None
    files = TlsFiles(certificate=identity.certificate, key=identity.key, client_ca=client_ca)
    context = Certificates(files, "bcp195").context()
    if version is not None:
        if version < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    with serving(tls_context=lambda: context) as running:
        yield running.tls_address[1]


def at(port: int, host: str = "127.0.0.1") -> str:
    return f"LENTICULAR@{host}:{port}"


def problem(port: int, *options: str) -> str:
    """Have a command fail at a peer, and return what it says of it."""
    done = run({}, "nodes", "echo", at(port), *options, "--json")
    assert done.exit_code == 3
    [row] = map(json.loads, done.stdout.splitlines())
    name, _, told = str(row["problem"]).partition(" ")
    assert (name, row["tls"]) == (at(port), None)
    return told


def test_a_certificate_of_nobody_that_is_trusted_is_told(trust: Trust) -> None:
    told = "shows a certificate of nobody that is trusted here: give the PEM file"
    with server(trust, trust.server) as port:
        assert problem(port, "--tls").startswith(told)
        assert problem(port, "--tls", "--tls-any-host").startswith(told)
    with server(trust, trust.stranger) as port:
        assert problem(port, *trust.ca).startswith(told)


def test_a_certificate_that_has_expired_is_told(trust: Trust) -> None:
    with server(trust, trust.expired) as port:
        assert "has expired" in problem(port, *trust.ca)
        assert "has expired" in problem(port, *trust.ca, "--tls-any-host")


def test_a_certificate_for_another_host_is_told_with_the_way_out(trust: Trust) -> None:
    with server(trust, trust.elsewhere) as port:
        told = problem(port, *trust.ca)
    assert "is not for 127.0.0.1" in told
    assert "--tls-any-host" in told


def test_a_port_without_tls_is_told(trust: Trust, tmp_path: Path) -> None:
    with serving() as running:
        assert problem(running.address[1], *trust.ca).startswith("speaks no TLS on this port")
    port = free_port()
    with dcmtk.receiver(tmp_path / "received", "A", port):
        assert "TLS" in problem(port, *trust.ca)


def test_a_port_that_takes_tls_alone_is_told(trust: Trust) -> None:
    with server(trust, trust.server) as port:
        # In a process of its own, for pynetdicom leaves such a connection to the garbage collector.
        done = lenticular(os.environ, "nodes", "echo", at(port), "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["problem"].endswith("takes TLS alone on this port, give --tls")


def test_a_port_that_answers_no_handshake_is_told(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_user, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told = problem(listening.getsockname()[1], *trust.ca)
    assert told.startswith("does not answer the TLS handshake")


def test_a_peer_that_asks_for_a_certificate_is_told(trust: Trust) -> None:
    wants = "asks for a certificate of ours: give --tls-cert and --tls-key"
    with server(trust, trust.server, mutual=True) as port:
        assert problem(port, *trust.ca).endswith(wants)
    with server(trust, trust.server, mutual=True, version=ssl.TLSVersion.TLSv1_2) as port:
        assert problem(port, *trust.ca).endswith(wants)


def test_a_peer_that_does_not_take_our_certificate_is_told(trust: Trust) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with server(trust, trust.server, mutual=True, version=version) as port:
            told = problem(port, *trust.ca, *show(trust.stranger))
        assert told.startswith("does not take the certificate that we show")


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated")
def test_tls_that_is_too_old_is_told_and_not_spoken(trust: Trust) -> None:
    with server(trust, trust.server, version=ssl.TLSVersion.TLSv1_1) as port:
        assert problem(port, *trust.ca).startswith("speaks no TLS 1.2 or newer")


def test_a_port_where_nobody_listens_is_told(trust: Trust) -> None:
    assert problem(free_port(), *trust.ca).startswith("cannot be reached: is it running")


def test_a_host_that_does_not_exist_is_told_and_the_next_peer_called(trust: Trust) -> None:
    with server(trust, trust.server) as port:
        done = run({}, "nodes", "echo", at(1, "nowhere.invalid"), at(port), *trust.ca, "--json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert (
        first["problem"]
        == f"{at(1, 'nowhere.invalid')} cannot be reached: no address is known for this name"
    )
    assert (done.exit_code, second["status"]) == (3, "0000")


def test_a_peer_that_shakes_hands_and_then_is_silent_is_given_up(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server of TLS 1.3 sends after the handshake is not the beginning of an answer."""
    monkeypatch.setattr(service_user, "ANSWER_SECONDS", 1.0)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(trust.server.certificate, trust.server.key)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def be_silent() -> None:
            sock, _ = listening.accept()
            with context.wrap_socket(sock, server_side=True):
                over.wait(60)

        peer = threading.Thread(target=be_silent)
        peer.start()
        told = problem(listening.getsockname()[1], *trust.ca)
        over.set()
        peer.join()
    assert told.startswith("agreed on TLS, and then did not answer the association request")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("--tls-ca", "no/such/file"),
            "cannot be used as PEM file of certificates to trust: No such",
        ),
        (("--tls-ca", "KEY"), "cannot be used as PEM file of certificates to trust"),
        (("--tls-key", "KEY"), "--tls-key needs --tls-cert"),
        (("--tls-cert", "CERTIFICATE"), "cannot be used"),
        (("--tls-cert", "CERTIFICATE", "--tls-key", "OTHER"), "key values mismatch"),
        (("--tls-cert", "CERTIFICATE", "--tls-key", "LOCKED"), "has a password"),
    ],
)
def test_files_that_cannot_be_used_are_told_before_anybody_is_called(
    trust: Trust, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    files = {
        "KEY": trust.ours.key,
        "CERTIFICATE": trust.ours.certificate,
        "OTHER": trust.stranger.key,
        "LOCKED": trust.ours.locked(tmp_path / "locked.key"),
    }
    done = run({}, "nodes", "echo", at(1), *(files.get(each, each) for each in options))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert told in done.stderr


def test_a_certificate_and_its_key_may_be_one_file(trust: Trust, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(trust.ours.certificate.read_bytes() + trust.ours.key.read_bytes())
    with server(trust, trust.server, mutual=True) as port:
        [row] = facts({}, "nodes", "echo", at(port), *trust.ca, "--tls-cert", both)
    assert row["status"] == "0000"
