"""Associations that we open, with DCMTK, pynetdicom and misbehaving peers at the other end."""

import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from pynetdicom import AE, evt

from gateway.command_set import CommandField, CommandSet, encode
from gateway.negotiation import Roles
from gateway.requestor import (
    AssociationAborted,
    AssociationRefused,
    ConnectionFailed,
    Interrupted,
    PeerTimeout,
    RequestedAssociation,
    open_association,
)
from gateway.tls import TlsFiles
from gateway.wire import Outcome
from lenticular.tls_calling import CallingFiles, Remedies, Tls
from tests.peers.dimse import (
    ABORT,
    CT,
    EXPLICIT,
    IMPLICIT,
    JPEG_LOSSLESS,
    MR,
    RELEASE_RP,
    RELEASE_RQ,
    VERIFICATION,
    Keep,
    RawPeer,
    p_data,
    raw_acceptor,
    serving,
)
from tests.peers.pki import Authority, Identity
from tests.peers.test_association_with_clients import ct_file
from tests.ports import free_port

CONTEXTS = [(VERIFICATION, [IMPLICIT]), (CT, [JPEG_LOSSLESS]), (CT, [EXPLICIT, IMPLICIT])]


def ask(
    port: int,
    *,
    address: str = "127.0.0.1",
    called_aet: str = "PEER",
    **options: Any,
) -> RequestedAssociation:
    contexts = options.pop("contexts", CONTEXTS)
    return open_association(
        address, port, calling_aet="US", called_aet=called_aet, contexts=contexts, **options
    )


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """Run DCMTK's receiver and give its port once it listens."""
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(
        ["storescp", "+B", "-aet", "PEER", "-od", str(folder), *options, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        pause = threading.Event()
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                pause.wait(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.peers
@pytest.mark.parametrize("max_pdu", ["4096", "131072"])
def test_dcmtk_receives_stored_bytes_as_they_are(tmp_path: Path, max_pdu: str) -> None:
    _, data_set = ct_file(tmp_path, 1)
    chunks: list[bytes | memoryview] = [data_set[:7], memoryview(data_set)[7:]]
    ways: list[bytes | list[bytes | memoryview]] = [data_set, chunks]
    with storescp(tmp_path / "received", "-pdu", max_pdu) as port, ask(port) as association:
        context = association.accepted[CT, EXPLICIT]
        for number, data in enumerate(ways):
            response = association.store(
                context, sop_class_uid=CT, sop_instance_uid=f"1.2.3.{number}", data=data
            )
            assert response.status == 0
            assert response.affected_sop_instance_uid == f"1.2.3.{number}"
        assert association.echo().status == 0
    received = list((tmp_path / "received").iterdir())
    assert len(received) == 2
    assert all(path.read_bytes().endswith(data_set) for path in received)


@pytest.mark.peers
@pytest.mark.parametrize("max_pdu", ["4096", "131072"])
def test_dcmtk_receives_a_data_set_of_odd_length_with_a_zero_behind_it(
    tmp_path: Path, max_pdu: str
) -> None:
    _, even = ct_file(tmp_path, 1)
    odd = even + struct.pack("<HH2sH", 0x7FE1, 0x0010, b"LO", 3) + b"ODD"
    with storescp(tmp_path / "received", "-pdu", max_pdu) as port, ask(port) as association:
        response = association.store(
            association.accepted[CT, EXPLICIT],
            sop_class_uid=CT,
            sop_instance_uid="1.2.3.1",
            data=odd,
        )
        assert response.status == 0
    [received] = (tmp_path / "received").iterdir()
    assert received.read_bytes().endswith(odd + b"\0")


@pytest.mark.peers
def test_pynetdicom_receives_the_move_originator() -> None:
    requests: list[Any] = []

    def keep(event: evt.Event) -> int:
        requests.append(event.request)
        return 0xB000

    peer = AE(ae_title="PEER")
    peer.add_supported_context(CT, EXPLICIT)
    server = peer.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    assert server is not None
    with ask(server.server_address[1]) as association:
        assert set(association.accepted) == {(CT, EXPLICIT)}
        response = association.store(
            association.accepted[CT, EXPLICIT],
            sop_class_uid=CT,
            sop_instance_uid="1.2.3",
            data=b"\x08\0\x18\0UI\x06\x001.2.3\0",
            move_originator=("MOVER", 4711),
        )
    server.shutdown()
    assert response.status == 0xB000
    (request,) = requests
    assert request.MoveOriginatorApplicationEntityTitle == "MOVER"
    assert request.MoveOriginatorMessageID == 4711
    assert request.AffectedSOPInstanceUID == "1.2.3"


def tls(authority: Path | None, shown: Identity | None = None, *, any_host: bool = False) -> Tls:
    """Speak TLS with peers of an authority; show a certificate, if there is one to be shown."""
    files = CallingFiles(
        authority=authority,
        certificate=None if shown is None else shown.certificate,
        key=None if shown is None else shown.key,
        any_host=any_host,
    )
    remedies = Remedies(authority="AUTHORITY", any_host="ANY", certificate="SHOW", plain="PLAIN")
    return Tls(files.context("bcp195"), shown is not None, remedies)


@pytest.mark.peers
def test_tls_is_spoken_with_dcmtk(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    peer = authority.issue("peer")
    _, data_set = ct_file(tmp_path, 1)
    options = ("+tls", str(peer.key), str(peer.certificate), "-ic")
    with storescp(tmp_path / "received", *options) as port:
        with ask(port, address="localhost", tls=tls(authority.certificate)) as association:
            response = association.store(
                association.accepted[CT, EXPLICIT],
                sop_class_uid=CT,
                sop_instance_uid="1.2.3.1",
                data=data_set,
            )
        assert response.status == 0
        with pytest.raises(ConnectionFailed, match="nobody that is trusted here: AUTHORITY"):
            ask(port, address="localhost", tls=tls(None))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_acceptor_that_wants_a_certificate_and_sees_none_is_told_of(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    authority = Authority.create(tmp_path)
    peer, ours = authority.issue("peer"), authority.issue("ours")
    files = TlsFiles(certificate=peer.certificate, key=peer.key, client_ca=authority.certificate)
    context = files.context("bcp195")
    context.minimum_version = context.maximum_version = version
    with serving(tls_context=lambda: context) as server:
        port = server.tls_address[1]
        called: dict[str, Any] = {
            "called_aet": "LENTICULAR",
            "contexts": [(VERIFICATION, [IMPLICIT])],
        }
        with ask(port, tls=tls(authority.certificate, ours), **called) as association:
            assert association.echo().status == 0
        # Whether we read its alert or find the connection gone is a matter of time.
        with pytest.raises(ConnectionFailed, match="asks for a certificate of ours: SHOW"):
            ask(port, tls=tls(authority.certificate), **called)


def test_a_handshake_that_is_not_answered_ends_when_it_is_not_wanted_any_more(
    tmp_path: Path,
) -> None:
    authority = Authority.create(tmp_path)
    began = monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Interrupted):
        ask(
            silent.getsockname()[1],
            tls=tls(authority.certificate),
            interrupted=lambda: monotonic() > began + 0.5,
        )
    assert monotonic() - began < 5
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ConnectionFailed, match="does not answer the TLS handshake"),
    ):
        ask(silent.getsockname()[1], tls=tls(authority.certificate), connect_seconds=0.5)


def test_our_own_acceptor_gives_the_roles_and_contexts_we_ask_for() -> None:
    keep = Keep()
    with serving({CommandField.C_STORE_RQ: keep}) as server:
        with ask(
            server.address[1],
            contexts=[*CONTEXTS, (MR, ["1.2.3"]), ("1.2.3.4", [IMPLICIT])],
            roles={CT: Roles(scu=True, scp=True), MR: Roles(scu=True, scp=True)},
        ) as association:
            assert set(association.accepted) == {
                (VERIFICATION, IMPLICIT),
                (CT, JPEG_LOSSLESS),
                (CT, EXPLICIT),
            }
            assert association.roles[CT] == Roles(scu=True, scp=True)
            assert association.roles[MR] == Roles(scu=True, scp=False)
            response = association.store(
                association.accepted[CT, JPEG_LOSSLESS],
                sop_class_uid=CT,
                sop_instance_uid="1.2.3",
                data=(bytes([number]) * 70_001 for number in range(40)),
            )
        assert response.status == 0
    assert keep.data == [b"".join(bytes([number]) * 70_001 for number in range(40))]


def test_128_contexts_with_every_syntax_fit_into_one_request() -> None:
    syntaxes = [EXPLICIT, *(f"1.2.840.10008.1.2.4.{number}" for number in range(50, 96))]
    contexts = [(CT if number % 2 else MR, syntaxes) for number in range(128)]
    with serving() as server, ask(server.address[1], contexts=contexts) as association:
        assert set(association.accepted) == {(CT, EXPLICIT), (MR, EXPLICIT)}


def test_nobody_listening_is_one_sentence() -> None:
    port = free_port()
    with pytest.raises(
        ConnectionFailed, match=rf"^PEER at 127.0.0.1:{port} cannot be reached: Connection refused$"
    ):
        ask(port)


def test_a_refusal_names_its_reason() -> None:
    def refuse(peer: RawPeer) -> None:
        peer.read_pdu()
        peer.send(b"\x03\0\0\0\0\x04\0\x01\x01\x07")
        assert peer.is_closed()

    with raw_acceptor(refuse) as port, pytest.raises(AssociationRefused) as refused:
        ask(port)
    assert str(refused.value) == (
        f"PEER at 127.0.0.1:{port} refused the association permanently: "
        "called AE title not recognized"
    )
    assert (refused.value.result, refused.value.source, refused.value.reason) == (1, 1, 7)


def test_an_abort_instead_of_an_answer_is_told_apart() -> None:
    def abort(peer: RawPeer) -> None:
        peer.read_pdu()
        peer.send(ABORT)
        assert peer.is_closed()

    with raw_acceptor(abort) as port, pytest.raises(AssociationAborted) as aborted:
        ask(port)
    assert aborted.value.outcome is Outcome.ABORTED_BY_PEER


def test_no_answer_to_the_request_is_aborted_after_artim() -> None:
    def stay_silent(peer: RawPeer) -> None:
        peer.read_pdu()
        assert peer.read_abort() == (0, 0)

    with raw_acceptor(stay_silent) as port, pytest.raises(PeerTimeout, match="did not answer"):
        ask(port, artim_seconds=0.2)


def test_an_answer_that_cannot_be_read_is_aborted() -> None:
    def babble(peer: RawPeer) -> None:
        peer.read_pdu()
        peer.send(struct.pack(">BxI", 2, 80) + b"\xff" * 80)
        assert peer.read_abort() == (0, 0)

    with raw_acceptor(babble) as port, pytest.raises(AssociationAborted, match="cannot be read"):
        ask(port)


def accept(peer: RawPeer) -> None:
    """Accept context 1, Verification in Implicit VR, with a maximum length of 4 KiB."""
    peer.read_pdu()
    items = (
        struct.pack(">BxH", 0x10, 21) + b"1.2.840.10008.3.1.1.1"
        + struct.pack(">BxH4B", 0x21, 25, 1, 0, 0, 0)
        + struct.pack(">BxH", 0x40, 17) + IMPLICIT.encode()
        + struct.pack(">BxHBxHI", 0x50, 8, 0x51, 4, 4096)
    )  # fmt: skip
    peer.send(struct.pack(">BxIH66x", 2, 68 + len(items), 1) + items)


def respond(peer: RawPeer, field: int = 0x8030, message_id: int = 1) -> None:
    peer.read_pdu()
    response = CommandSet(
        field, message_id_being_responded_to=message_id, status=0, command_data_set_type=0x0101
    )
    peer.send(p_data((1, 3, encode(response))))


def test_no_response_in_time_is_aborted() -> None:
    def stay_silent(peer: RawPeer) -> None:
        accept(peer)
        peer.read_pdu()
        assert peer.read_abort() == (0, 0)

    with raw_acceptor(stay_silent) as port:
        association = ask(port, dimse_seconds=0.2, contexts=[(VERIFICATION, [IMPLICIT])])
        with pytest.raises(PeerTimeout, match="did not answer C_ECHO_RQ"):
            association.echo()
        assert not association.is_established
        association.release()


@pytest.mark.parametrize(("field", "message_id"), [(0x8001, 2), (0x8030, 9), (0x0030, 1)])
def test_a_response_to_something_else_is_aborted(field: int, message_id: int) -> None:
    def confuse(peer: RawPeer) -> None:
        accept(peer)
        respond(peer, field, message_id)
        assert peer.read_abort() == (0, 0)

    with raw_acceptor(confuse) as port:
        association = ask(port, contexts=[(VERIFICATION, [IMPLICIT])])
        with pytest.raises(AssociationAborted):
            association.echo()
        association.abort()


def test_a_peer_that_releases_instead_of_answering_is_let_go() -> None:
    def leave(peer: RawPeer) -> None:
        accept(peer)
        peer.read_pdu()
        peer.send(RELEASE_RQ)
        assert peer.read_pdu() == (6, b"\0\0\0\0")

    with raw_acceptor(leave) as port:
        association = ask(port, contexts=[(VERIFICATION, [IMPLICIT])])
        with pytest.raises(AssociationAborted, match="released"):
            association.echo()
        association.release()


def test_a_release_collision_is_answered_before_the_peer_answers() -> None:
    def collide(peer: RawPeer) -> None:
        accept(peer)
        respond(peer)
        assert peer.read_pdu()[0] == 5
        peer.send(RELEASE_RQ)
        assert peer.read_pdu()[0] == 6
        peer.send(RELEASE_RP)
        assert peer.is_closed()

    with raw_acceptor(collide) as port:
        association = ask(port, contexts=[(VERIFICATION, [IMPLICIT])])
        assert association.echo().status == 0
        association.release()


def test_a_source_that_fails_half_way_aborts_and_its_error_goes_on() -> None:
    def half() -> Iterator[bytes]:
        yield b"\0" * 600_000
        raise OSError("the bucket is away")

    keep = Keep()
    with serving({CommandField.C_STORE_RQ: keep}) as server:
        association = ask(server.address[1])
        with pytest.raises(OSError, match="the bucket is away"):
            association.store(
                association.accepted[CT, EXPLICIT],
                sop_class_uid=CT,
                sop_instance_uid="1.2.3",
                data=half(),
            )
        assert not association.is_established
        with pytest.raises(AssociationAborted):
            association.echo()
        association.release()
    assert not keep.data


def test_an_exception_in_the_block_aborts() -> None:
    def expect_abort(peer: RawPeer) -> None:
        accept(peer)
        assert peer.read_abort() == (0, 0)

    with (
        raw_acceptor(expect_abort) as port,
        pytest.raises(KeyError),
        ask(port, contexts=[(VERIFICATION, [IMPLICIT])]),
    ):
        raise KeyError
