"""Association PDUs are read and written as PS3.8 9.3 says; pynetdicom reads what we write."""

import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC

from gateway.negotiation import (
    LOCAL_LIMIT_EXCEEDED,
    Accepted,
    ContextAnswer,
    ContextResult,
    MalformedPdu,
    ProposedContext,
    Roles,
    decode_acceptance,
    decode_request,
    encode_acceptance,
    encode_rejection,
    encode_request,
    titles_in,
)
from lenticular import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from tests.peers.dimse import CT, EXPLICIT, IMPLICIT, VERIFICATION, associate_rq, item

ROLE = item(0x54, b"\0\x19" + CT.encode() + b"\1\1")
EXTENDED = item(0x56, b"\0\x19" + CT.encode() + b"\2\0")
IDENTITY = item(0x58, b"\2\1\0\4anna\0\6secret")
WINDOW = item(0x53, b"\0\0\0\0")
VERSION = item(0x55, b"PEER_1")
REQUEST = associate_rq(
    [(1, VERIFICATION, [IMPLICIT]), (255, CT, [EXPLICIT, IMPLICIT])],
    calling="CALLING",
    called="CALLED",
    max_pdu_bytes=0,
    more_user=ROLE + EXTENDED + IDENTITY + WINDOW + VERSION,
)


def test_every_part_of_a_request_is_read() -> None:
    request = decode_request(REQUEST, "10.0.0.7", 50000)
    assert (request.calling_aet, request.called_aet) == ("CALLING", "CALLED")
    assert (request.address, request.port) == ("10.0.0.7", 50000)
    assert request.contexts == (
        ProposedContext(1, VERIFICATION, (IMPLICIT,)),
        ProposedContext(255, CT, (EXPLICIT, IMPLICIT)),
    )
    assert request.roles == {CT: Roles(scu=True, scp=True)}
    assert request.extended == {CT: b"\2\0"}
    assert request.user_identity is not None
    assert request.user_identity.primary == b"anna"
    assert request.user_identity.secondary == b"secret"
    assert request.async_operations_proposed
    assert request.max_pdu_bytes == 0
    assert request.implementation_class_uid == "1.2.3"
    assert request.implementation_version_name == "PEER_1"


def test_a_password_is_not_shown() -> None:
    request = decode_request(REQUEST, "10.0.0.7", 50000)
    assert "secret" not in repr(request)
    assert "anna" not in repr(request)


def test_titles_are_found_without_reading_the_rest() -> None:
    assert titles_in(REQUEST) == ("CALLING", "CALLED")


def test_an_acceptance_says_what_was_decided() -> None:
    accepted = Accepted(
        contexts=(
            ContextAnswer(1, ContextResult.ACCEPTANCE, IMPLICIT),
            ContextAnswer(255, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED),
        ),
        roles={CT: Roles(scu=True, scp=False)},
        extended={CT: b"\2\0"},
    )
    encoded = encode_acceptance(decode_request(REQUEST, "10.0.0.7", 50000), accepted, 65536)
    answer = decode_acceptance(encoded)
    assert answer.contexts[1] == ContextAnswer(1, ContextResult.ACCEPTANCE, IMPLICIT)
    assert answer.contexts[255].result is ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
    assert answer.roles == {CT: Roles(scu=True, scp=False)}
    assert answer.max_pdu_bytes == 65536
    theirs = A_ASSOCIATE_AC()
    theirs.decode(encoded)
    assert theirs.user_information is not None
    assert theirs.user_information.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    assert theirs.user_information.implementation_version_name == IMPLEMENTATION_VERSION_NAME
    window = theirs.user_information.async_ops_window
    assert window is not None
    assert window.maximum_number_operations_invoked == 1
    assert window.maximum_number_operations_performed == 1
    # Both titles go back as they came, PS3.8 9.3.3.
    assert encoded[10:42] == REQUEST[10:42]


def test_a_window_that_was_not_proposed_is_not_answered() -> None:
    request = decode_request(associate_rq(), "10.0.0.7", 50000)
    theirs = A_ASSOCIATE_AC()
    theirs.decode(encode_acceptance(request, Accepted(contexts=()), 65536))
    assert theirs.user_information is not None
    assert theirs.user_information.async_ops_window is None


def test_a_request_of_ours_is_read_as_it_was_meant() -> None:
    contexts = [ProposedContext(1, CT, (EXPLICIT, IMPLICIT))]
    encoded = encode_request(
        calling_aet="US",
        called_aet="THEM",
        contexts=contexts,
        roles={CT: Roles(scu=False, scp=True)},
        max_pdu_bytes=16384,
    )
    request = decode_request(encoded, "10.0.0.7", 50000)
    assert (request.calling_aet, request.called_aet) == ("US", "THEM")
    assert request.contexts == tuple(contexts)
    assert request.roles == {CT: Roles(scu=False, scp=True)}
    assert request.max_pdu_bytes == 16384
    assert request.implementation_class_uid == IMPLEMENTATION_CLASS_UID


def test_a_rejection_is_written_byte_for_byte() -> None:
    assert encode_rejection(LOCAL_LIMIT_EXCEEDED) == b"\x03\0\0\0\0\x04\0\x02\x03\x02"


@pytest.mark.parametrize("cut", [75, 80, len(REQUEST) - 1])
def test_a_request_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(MalformedPdu):
        decode_request(REQUEST[:cut], "10.0.0.7", 50000)


def test_items_nested_without_end_are_not_followed() -> None:
    nested = b""
    for _ in range(7000):
        nested = item(0x20, b"\3\0\0\0" + nested)
    request = decode_request(associate_rq(more=nested), "10.0.0.7", 50000)
    assert request.contexts[-1] == ProposedContext(3, "", ())


def test_a_request_of_countless_items_is_refused_at_once() -> None:
    empty = item(0x20, b"\1\0\0\0" + item(0x40, b"") * 16_000)
    with pytest.raises(MalformedPdu, match="more than 8192 items"):
        decode_request(associate_rq(more=empty * 3), "10.0.0.7", 50000)
