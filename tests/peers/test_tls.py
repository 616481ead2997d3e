"""The TLS port: associations as on the plain one, for those who may, whatever others try."""

import gc
import logging
import os
import random
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pynetdicom import AE

from gateway.association import Association, Limits
from gateway.command_set import CommandField, CommandSet, encode
from gateway.messages import BufferSink, DataSetSink, Message
from gateway.tls import Certificates, TlsFiles
from lenticular.errors import OperatorError
from lenticular.settings import TlsProfile
from lenticular.tls_calling import CallingFiles
from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.dimse import (
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RQ,
    STUDY_ROOT_FIND,
    VERIFICATION,
    Keep,
    RawPeer,
    associate_rq,
    association_threads,
    echo_rq,
    p_data,
    serving,
    store_rq_command,
)
from tests.peers.instances import study
from tests.peers.pki import Authority, Identity

CT_CONTEXT = associate_rq([(1, CT, [EXPLICIT])])
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
Context = Callable[[], ssl.SSLContext]
#: Other noise may begin like an SSL 2 greeting, and then be waited for.
NOISE = random.Random(2).randbytes(5000)  # noqa: S311 - no secret


@dataclass(frozen=True)
class Clinic:
    """Who trusts whom: an authority, our node, a peer of ours."""

    authority: Authority
    node: Identity
    peer: Identity

    def acceptor(self, *, mutual: bool = False, profile: TlsProfile = "bcp195") -> Context:
        """Return what gives the server's connections their context."""
        files = TlsFiles(
            certificate=self.node.certificate,
            key=self.node.key,
            client_ca=self.authority.certificate if mutual else None,
        )
        return Certificates(files, profile).context

    def requestor(
        self, identity: Identity | None = None, version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """Make the context of a client that trusts the authority."""
        context = ssl.create_default_context(cafile=self.authority.certificate)
        if identity is not None:
            context.load_cert_chain(identity.certificate, identity.key)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    authority = Authority.create(tmp_path_factory.mktemp("pki"))
    return Clinic(authority, authority.issue("node", use_rsa=True), authority.issue("peer"))


def echo(peer: RawPeer, message_id: int = 1) -> None:
    peer.send(echo_rq(message_id))
    assert peer.read_response().status == 0


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Prove that the block leaves no descriptor and no association's thread."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - iterdir opens one itself, too
    yield
    for thread in association_threads():
        thread.join(5)
    assert not association_threads()

    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    # What ran before may have left some open, which are closed meanwhile.
    eventually(open_files, until=lambda now: now <= before)


# What works on the plain port


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("size", [1, 16_384, 5_000_000])
def test_an_instance_arrives_as_it_was_sent(
    clinic: Clinic, version: ssl.TLSVersion, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keep = Keep()
    data = os.urandom(size)
    parts = [data[start : start + 100_000] for start in range(0, size, 100_000)]
    with (
        serving({CommandField.C_STORE_RQ: keep}, tls_context=clinic.acceptor()) as server,
        RawPeer.associate(server, CT_CONTEXT, tls=clinic.requestor(version=version)) as peer,
    ):
        peer.send(p_data((1, 3, store_rq_command())))
        for part in parts[:-1]:
            peer.send(p_data((1, 0, part)))
        peer.send(p_data((1, 2, parts[-1])))
        assert peer.read_response().status == 0
        peer.release()
        server.drain(10)
    assert keep.data == [data]
    (ended,) = [line for line in caplog.records if line.getMessage() == "association ended"]
    assert vars(ended)["tls"] == version.name.replace("_", ".")
    assert vars(ended)["outcome"] == "released"


def test_messages_that_share_a_record_are_all_heard(clinic: Clinic) -> None:
    with (
        serving(tls_context=clinic.acceptor()) as server,
        RawPeer.connect_tls(server, clinic.requestor()) as peer,
    ):
        # All of it lies in the session at once, where no poll sees it.
        peer.send(associate_rq() + echo_rq(1) + echo_rq(2) + echo_rq(3) + RELEASE_RQ)
        assert peer.read_pdu()[0] == 2
        answered = [peer.read_response().message_id_being_responded_to for _ in range(3)]
        assert answered == [1, 2, 3]
        assert peer.read_pdu()[0] == 6


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_a_cancel_in_the_same_record_as_its_request_is_seen(
    clinic: Clinic, version: ssl.TLSVersion
) -> None:
    class Find:
        failure_status = 0xC001
        was_cancelled: bool | None = None

        def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002
            return BufferSink()

        def handle(
            self, association: Association, message: Message, sink: DataSetSink | None
        ) -> None:
            del sink
            self.was_cancelled = association.cancel_requested(message.command.message_id)
            association.send_response(message.context, message.command.response(0xFE00))

    find = Find()
    request = CommandSet(
        CommandField.C_FIND_RQ,
        message_id=7,
        affected_sop_class_uid=STUDY_ROOT_FIND,
        priority=0,
        command_data_set_type=0,
    )
    cancel = CommandSet(
        CommandField.C_CANCEL_RQ, message_id_being_responded_to=7, command_data_set_type=0x0101
    )
    with (
        serving({CommandField.C_FIND_RQ: find}, tls_context=clinic.acceptor()) as server,
        RawPeer.associate(
            server,
            associate_rq([(1, STUDY_ROOT_FIND, [IMPLICIT])]),
            tls=clinic.requestor(version=version),
        ) as peer,
    ):
        peer.send(
            p_data((1, 3, encode(request)))
            + p_data((1, 2, b"\x08\0\x52\0\x06\0\0\0STUDY "))
            + p_data((1, 3, encode(cancel)))
        )
        assert peer.read_response().status == 0xFE00
        peer.release()
    assert find.was_cancelled is True


def test_plain_and_tls_are_served_side_by_side(clinic: Clinic) -> None:
    with (
        serving(tls_context=clinic.acceptor()) as server,
        RawPeer.associate(server) as plain,
        RawPeer.associate(server, tls=clinic.requestor()) as secret,
    ):
        echo(plain)
        echo(secret)
        plain.release()
        secret.release()


def test_a_session_is_ended_before_its_connection(clinic: Clinic) -> None:
    context = clinic.requestor()
    with serving(tls_context=clinic.acceptor()) as server:
        plain = socket.create_connection(server.tls_address, timeout=10)
        # Otherwise an end without close_notify, as an attacker would make it, looks the same.
        with context.wrap_socket(
            plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        ) as sock:
            peer = RawPeer(sock)
            peer.send(associate_rq())
            assert peer.read_pdu()[0] == 2
            peer.send(RELEASE_RQ)
            assert peer.read_pdu()[0] == 6
            assert sock.recv(1) == b""


def test_half_a_record_is_no_message_and_does_not_end_the_idle_time(clinic: Clinic) -> None:
    limits = Limits(idle_seconds=0.5, dimse_seconds=30, artim_seconds=30)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = clinic.requestor().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with (
        serving(tls_context=clinic.acceptor(), limits=limits) as server,
        socket.create_connection(server.tls_address, timeout=10) as sock,
    ):

        def read(count: int) -> bytes:
            while True:
                try:
                    return session.read(count)
                except ssl.SSLWantReadError:
                    received = sock.recv(65536)
                    assert received
                    incoming.write(received)

        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        session.write(associate_rq())
        sock.sendall(outgoing.read())
        header = read(6)
        assert header[0] == 2
        read(int.from_bytes(header[2:], "big"))
        session.write(echo_rq())
        sock.sendall(outgoing.read()[:20])
        # The pause of half a minute that a message may have would end in an abort.
        assert read(10) == RELEASE_RQ


def test_a_drain_and_a_cut_end_tls_associations_too(clinic: Clinic) -> None:
    with nothing_left_behind(), serving(tls_context=clinic.acceptor()) as server:
        with RawPeer.associate(server, tls=clinic.requestor()) as peer:
            assert not server.drain(0)
            assert peer.is_closed()
        assert server.active_associations == 0


def test_a_peer_that_does_not_read_is_given_up(clinic: Clinic) -> None:
    class Talk:
        failure_status = 0xC001

        def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002
            return BufferSink()

        def handle(
            self, association: Association, message: Message, sink: DataSetSink | None
        ) -> None:
            del sink
            for _ in range(100):
                association.send_response(
                    message.context, message.command.response(0xFF00), bytes(1 << 20)
                )

    limits = Limits(dimse_seconds=0.5)
    request = p_data((1, 3, store_rq_command()), (1, 2, b"data"))
    with (
        nothing_left_behind(),
        serving(
            {CommandField.C_STORE_RQ: Talk()}, limits=limits, tls_context=clinic.acceptor()
        ) as server,
        RawPeer.associate(server, CT_CONTEXT, tls=clinic.requestor()) as deaf,
    ):
        deaf.send(request)
        for thread in association_threads():
            thread.join(10)
        assert server.active_associations == 0


# Who may come in


def test_with_mutual_tls_only_peers_of_the_authority_come_in(
    clinic: Clinic, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Authority.create(tmp_path, "stranger").issue("somebody")
    expired = clinic.authority.issue("expired", days=-1)
    with nothing_left_behind(), serving(tls_context=clinic.acceptor(mutual=True)) as server:
        for identity in (None, stranger, expired):
            for version in VERSIONS:
                with pytest.raises(OSError, match=r"alert|reset|[Bb]roken pipe|EOF"):
                    _talk(server.tls_address, clinic.requestor(identity, version))
        with RawPeer.associate(server, tls=clinic.requestor(clinic.peer)) as peer:
            echo(peer)
            peer.release()
    reasons = [
        vars(line)["reason"]
        for line in caplog.records
        if line.getMessage() == "TLS handshake failed"
    ]
    assert len(reasons) == 6
    assert set(reasons) == {
        "peer did not return a certificate",
        "unable to get local issuer certificate",
        "certificate has expired",
    }


def _talk(address: tuple[str, int], context: ssl.SSLContext) -> None:
    """Ask for an association; a client of TLS 1.3 hears only then that it is refused."""
    with (
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=address[0]) as sock,
    ):
        sock.sendall(associate_rq())
        if not sock.recv(1):
            raise ConnectionResetError("EOF")


@pytest.mark.parametrize(
    ("profile", "suite", "is_taken"),
    [
        ("bcp195", "ECDHE-RSA-AES128-GCM-SHA256", True),
        ("bcp195", "ECDHE-RSA-AES256-GCM-SHA384", True),
        ("bcp195", "ECDHE-RSA-AES128-SHA256", True),
        ("bcp195", "ECDHE-RSA-AES128-SHA", False),
        ("bcp195", "AES128-GCM-SHA256", False),
        ("bcp195", "DHE-RSA-AES128-GCM-SHA256", False),
        ("bcp195-extended", "ECDHE-RSA-AES256-GCM-SHA384", True),
        ("bcp195-extended", "ECDHE-RSA-CHACHA20-POLY1305", True),
        ("bcp195-extended", "ECDHE-RSA-AES128-SHA256", False),
    ],
)
def test_a_profile_takes_its_own_suites_alone(
    clinic: Clinic, profile: TlsProfile, suite: str, is_taken: bool
) -> None:
    context = clinic.requestor(version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(suite)
    with serving(tls_context=clinic.acceptor(profile=profile)) as server:
        if is_taken:
            with RawPeer.associate(server, tls=context) as peer:
                assert isinstance(peer.sock, ssl.SSLSocket)
                assert (peer.sock.cipher() or ("",))[0] == suite
        else:
            with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
                RawPeer.connect_tls(server, context)


@pytest.mark.parametrize("profile", ["bcp195", "bcp195-extended"])
@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated")
def test_no_profile_goes_below_tls_1_2(clinic: Clinic, profile: TlsProfile) -> None:
    context = clinic.requestor()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        serving(tls_context=clinic.acceptor(profile=profile)) as server,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
    ):
        RawPeer.connect_tls(server, context)


@pytest.mark.parametrize("profile", ["bcp195", "bcp195-extended"])
def test_tls_1_3_is_preferred(clinic: Clinic, profile: TlsProfile) -> None:
    with (
        serving(tls_context=clinic.acceptor(profile=profile)) as server,
        RawPeer.connect_tls(server, clinic.requestor()) as peer,
    ):
        assert isinstance(peer.sock, ssl.SSLSocket)
        assert peer.sock.version() == "TLSv1.3"


# Who does not speak TLS, or only half


@pytest.mark.parametrize(
    "first_bytes",
    [associate_rq(), b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, NOISE, b"\x16\x03\x01\xff"],
    ids=["DICOM", "HTTP", "zeros", "noise", "a record of 64 KiB"],
)
def test_what_is_not_tls_is_refused_at_once_and_harms_nobody(
    clinic: Clinic, first_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        nothing_left_behind(),
        serving(tls_context=clinic.acceptor()) as server,
        RawPeer.associate(server, tls=clinic.requestor()) as good,
        socket.create_connection(server.tls_address, timeout=10) as bad,
    ):
        bad.sendall(first_bytes + bytes(10))
        while bad.recv(100):
            pass
        echo(good)
        good.release()
    (refused,) = [line for line in caplog.records if line.levelno >= logging.WARNING]
    assert refused.getMessage() == "TLS handshake failed"


def test_half_a_handshake_holds_up_nobody_and_ends_with_artim(
    clinic: Clinic, caplog: pytest.LogCaptureFixture
) -> None:
    hello = _client_hello(clinic.requestor())
    with (
        nothing_left_behind(),
        serving(tls_context=clinic.acceptor(), limits=Limits(artim_seconds=1)) as server,
    ):
        crowd = []
        for number in range(100):
            sock = socket.create_connection(server.tls_address, timeout=10)
            sock.sendall(hello[: number * len(hello) // 99])
            crowd.append(sock)
        with RawPeer.associate(server, tls=clinic.requestor()) as good:
            echo(good)
            good.release()
        assert server.active_associations == 0
        for sock in crowd:
            with sock:
                while sock.recv(65536):
                    pass
    late = [line for line in caplog.records if line.levelno >= logging.WARNING]
    assert {vars(line)["reason"] for line in late} == {"ARTIM expired"}
    # The first has sent nothing at all: a probe.
    assert len(late) == 99


def _client_hello(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def test_probes_of_the_tls_port_leave_no_line(
    clinic: Clinic, caplog: pytest.LogCaptureFixture
) -> None:
    with nothing_left_behind(), serving(tls_context=clinic.acceptor()) as server:
        for _ in range(100):
            socket.create_connection(server.tls_address, timeout=10).close()
        for _ in range(10):
            RawPeer.connect_tls(server, clinic.requestor()).sock.close()
        with RawPeer.associate(server, tls=clinic.requestor()) as peer:
            peer.release()
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


def test_bytes_that_somebody_slips_into_a_session_end_it_and_harm_nobody(
    clinic: Clinic, caplog: pytest.LogCaptureFixture
) -> None:
    keep = Keep()
    with (
        nothing_left_behind(),
        serving({CommandField.C_STORE_RQ: keep}, tls_context=clinic.acceptor()) as server,
        RawPeer.associate(server, tls=clinic.requestor()) as good,
    ):
        with RawPeer.associate(server, CT_CONTEXT, tls=clinic.requestor()) as bad:
            bad.send(p_data((1, 3, store_rq_command())))
            # Past the session, straight onto the connection: a record that nobody encrypted.
            socket.socket.sendall(bad.sock, b"\x17\x03\x03\0\x20" + bytes(32))
            with pytest.raises(OSError, match=r"alert|reset"):
                bad.read_pdu()
        echo(good)
        good.release()
    assert not keep.data
    (lost,) = [line for line in caplog.records if line.levelno >= logging.WARNING]
    assert lost.getMessage() == "association aborted"


def test_a_key_with_a_password_is_told_and_not_asked_for(clinic: Clinic, tmp_path: Path) -> None:
    key = clinic.node.locked(tmp_path / "locked.key")
    with pytest.raises(OperatorError, match="TLS cannot be spoken with the certificate"):
        Certificates(TlsFiles(certificate=clinic.node.certificate, key=key), "bcp195")


def test_nonsense_within_tls_is_aborted_as_on_the_plain_port(clinic: Clinic) -> None:
    with (
        nothing_left_behind(),
        serving(tls_context=clinic.acceptor()) as server,
        RawPeer.connect_tls(server, clinic.requestor()) as peer,
    ):
        peer.send(b"GET / HTTP/1.1\r\n\r\n")
        assert peer.read_abort() == (0, 0)
        assert peer.is_closed()


def test_many_associations_at_once_leave_nothing_behind(clinic: Clinic) -> None:
    failures: list[BaseException] = []
    context = clinic.requestor(clinic.peer)
    with (
        nothing_left_behind(),
        serving(
            tls_context=clinic.acceptor(mutual=True), limits=Limits(max_associations=20)
        ) as server,
    ):

        def work(number: int) -> None:
            try:
                for turn in range(5):
                    peer = RawPeer.associate(server, tls=context)
                    echo(peer, turn + 1)
                    if (number + turn) % 3:
                        peer.release()
                    else:
                        peer.sock.close()
            except BaseException as error:  # noqa: BLE001 - told in the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert server.drain(10)


# Certificates that change


def test_a_new_certificate_is_used_without_a_restart_and_open_associations_go_on(
    clinic: Clinic, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    authority = Authority.create(tmp_path, "newcomer")
    node = authority.issue("node")
    certificates = Certificates(
        TlsFiles(certificate=node.certificate, key=node.key), "bcp195", clock=lambda: now
    )
    both = clinic.requestor()
    both.load_verify_locations(authority.certificate)

    def shown() -> bytes:
        with RawPeer.connect_tls(server, both) as peer:
            assert isinstance(peer.sock, ssl.SSLSocket)
            return peer.sock.getpeercert(binary_form=True) or b""

    with (
        serving(tls_context=certificates.context) as server,
        RawPeer.associate(server, tls=both) as patient,
    ):
        old = shown()
        shutil.copy(clinic.node.certificate, node.certificate)
        now += 5
        # The key is still the old one's.
        assert shown() == old
        now += 5
        assert shown() == old
        shutil.copy(clinic.node.key, node.key)
        assert shown() == old  # not looked again so soon
        now += 5
        new = ssl.PEM_cert_to_DER_cert(clinic.node.certificate.read_text())
        assert shown() == new
        node.key.unlink()
        now += 5
        assert shown() == new
        echo(patient)
        patient.release()
    said = [line.getMessage() for line in caplog.records if line.name == "gateway.tls"]
    kept = "the new certificate cannot be used, the old one stays"
    assert said == [kept, "certificate reloaded", kept]


def test_a_new_certificate_is_shown_to_nodes_without_a_restart(
    clinic: Clinic, tmp_path: Path
) -> None:
    authority = Authority.create(tmp_path, "newcomer")
    ours = authority.issue("ours")
    now = 0.0
    files = CallingFiles(
        authority=clinic.authority.certificate, certificate=ours.certificate, key=ours.key
    )
    calling = Certificates(files, "bcp195", clock=lambda: now)
    with serving(tls_context=clinic.acceptor(mutual=True)) as server:
        with pytest.raises(OSError, match=r"alert|reset|[Bb]roken pipe|EOF"):
            _talk(server.tls_address, calling.context())
        shutil.copy(clinic.peer.certificate, ours.certificate)
        shutil.copy(clinic.peer.key, ours.key)
        now += 5
        with RawPeer.associate(server, tls=calling.context()) as peer:
            echo(peer)
            peer.release()


# Foreign clients


def dcmtk_arguments(server_address: tuple[str, int]) -> list[str]:
    host, port = server_address
    return ["-aec", "LENTICULAR", host, str(port)]


@pytest.mark.peers
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
@pytest.mark.parametrize("ours", ["bcp195", "bcp195-extended"])
def test_dcmtk_verifies_without_a_certificate_of_its_own(
    clinic: Clinic, profile: str, ours: TlsProfile
) -> None:
    trust: list[str | Path] = ["+cf", clinic.authority.certificate, profile]
    with serving(tls_context=clinic.acceptor(profile=ours)) as server:
        dcmtk.run("echoscu", "+tla", *trust, *dcmtk_arguments(server.tls_address))


@pytest.mark.peers
def test_dcmtk_verifies_with_mutual_tls_and_not_without_its_certificate(clinic: Clinic) -> None:
    trust: list[str | Path] = ["+cf", clinic.authority.certificate]
    with serving(tls_context=clinic.acceptor(mutual=True)) as server:
        there = dcmtk_arguments(server.tls_address)
        dcmtk.run("echoscu", "+tls", clinic.peer.key, clinic.peer.certificate, *trust, *there)
        with pytest.raises(dcmtk.PeerFailed):
            dcmtk.run("echoscu", "+tla", *trust, *there)


@pytest.mark.peers
@pytest.mark.parametrize("mutual", [False, True])
def test_dcmtk_stores_over_tls(clinic: Clinic, tmp_path: Path, mutual: bool) -> None:
    keep = Keep()
    instances = study(tmp_path / "study", 20)
    options: list[str | Path] = ["+cf", clinic.authority.certificate]
    if mutual:
        options += ["+tls", clinic.peer.key, clinic.peer.certificate]
    else:
        options += ["+tla"]
    with serving(
        {CommandField.C_STORE_RQ: keep}, tls_context=clinic.acceptor(mutual=mutual)
    ) as server:
        dcmtk.run(
            "storescu", *options, *dcmtk_arguments(server.tls_address),
            *(instance.path for instance in instances),
        )  # fmt: skip
    assert len(keep.data) == len(instances)


@pytest.mark.peers
def test_pynetdicom_verifies_with_mutual_tls(clinic: Clinic) -> None:
    ae = AE(ae_title="PYNETDICOM")
    ae.add_requested_context(VERIFICATION)
    with serving(tls_context=clinic.acceptor(mutual=True)) as server:
        host, port = server.tls_address
        association = ae.associate(
            host, port, ae_title="LENTICULAR", tls_args=(clinic.requestor(clinic.peer), host)
        )
        assert association.is_established
        assert association.send_c_echo().Status == 0
        association.release()
