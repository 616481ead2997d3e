"""The UIDs in the head of a data set are found as soon as they have arrived."""

from struct import pack

import pytest

from lenticular.element_headers import ElementsError, Fault
from lenticular.elements import EncodableElement, encode_data_set
from lenticular.identification import MAX_INFLATED_BYTES, find_uids
from lenticular.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from tests.encoded_data_sets import HEAD, PLAIN_SYNTAXES, deflate, encode, nested_sequences


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda each: each.name)
def test_the_uids_are_found_at_the_top_level_only(syntax: TransferSyntax) -> None:
    found = find_uids(encode(HEAD, syntax), syntax)

    assert found.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"
    assert found.sop_instance_uid == "1.2.3.4"
    assert found.study_instance_uid == "1.2.3"
    assert found.series_instance_uid == "1.2.3.1"
    assert found.complete


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda each: each.name)
def test_a_head_is_complete_exactly_when_its_last_uid_has_arrived(syntax: TransferSyntax) -> None:
    head = encode(HEAD[:-1], syntax)

    assert find_uids(head, syntax).complete
    for length in range(len(head)):
        assert not find_uids(head[:length], syntax).complete


def test_uids_that_are_absent_or_empty_are_none() -> None:
    head: list[EncodableElement] = [
        (0x00080018, "UI", b""),
        (0x0020000D, "UI", b"1.2.3"),
        HEAD[-1],
    ]

    found = find_uids(encode_data_set(head), EXPLICIT_VR_LITTLE_ENDIAN)

    assert found.complete
    assert found.sop_class_uid is found.sop_instance_uid is found.series_instance_uid is None
    assert found.study_instance_uid == "1.2.3"


def test_uids_out_of_order_are_found() -> None:
    head = b"".join(encode_data_set([element]) for element in reversed(HEAD[:-1]))

    assert find_uids(head, EXPLICIT_VR_LITTLE_ENDIAN).sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"


def test_sequences_of_undefined_length_before_the_uids_are_passed_over() -> None:
    head = nested_sequences(3) + encode_data_set(HEAD)

    assert find_uids(head, EXPLICIT_VR_LITTLE_ENDIAN).study_instance_uid == "1.2.3"
    assert not find_uids(nested_sequences(3)[:-1], EXPLICIT_VR_LITTLE_ENDIAN).complete


def test_uids_are_found_in_a_deflated_data_set_of_which_the_head_has_arrived() -> None:
    data = deflate(encode_data_set([*HEAD, (0x7FE00010, "OW", bytes(range(256)) * 4096)]))

    found = find_uids(data[: len(data) // 2], DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)

    assert found.complete
    assert found.series_instance_uid == "1.2.3.1"


def test_uids_behind_much_that_deflates_to_little_are_found() -> None:
    padding: EncodableElement = (0x00080008, "UN", bytes(MAX_INFLATED_BYTES // 2))

    found = find_uids(
        deflate(encode_data_set([padding, *HEAD])), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    )

    assert found.complete


def test_a_deflate_bomb_is_inflated_to_a_bound_only() -> None:
    bomb = deflate(pack("<HH2sHL", 8, 8, b"UN", 0, 0x7FFFFFFE) + bytes(1 << 26))

    assert not find_uids(bomb, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN).complete


def test_bytes_that_were_never_deflated_are_malformed() -> None:
    with pytest.raises(ElementsError) as caught:
        find_uids(b"\xff" * 64, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)

    assert caught.value.fault is Fault.MALFORMED
