"""Command sets are written as PS3.7 annex E says, and nothing else is read as one."""

import struct

import pytest

from gateway.command_set import CommandField, CommandSet, CommandSetError, decode, encode


def element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHI", group, number, len(value)) + value


FIELD = element(0x0100, b"\x30\x00")


def test_a_c_echo_request_is_written_byte_for_byte_as_the_standard_shows() -> None:
    command = CommandSet(
        CommandField.C_ECHO_RQ,
        message_id=7,
        affected_sop_class_uid="1.2.840.10008.1.1",
        command_data_set_type=0x0101,
    )
    assert encode(command) == (
        element(0x0000, struct.pack("<I", 56))
        + element(0x0002, b"1.2.840.10008.1.1\0")
        + element(0x0100, b"\x30\x00")
        + element(0x0110, b"\x07\x00")
        + element(0x0800, b"\x01\x01")
    )


def test_padding_is_taken_off_whichever_the_peer_used() -> None:
    read = decode(
        FIELD
        + element(0x0002, b"1.2.840.10008.1.1 ")
        + element(0x1000, b"1.2.3\0")
        + element(0x0600, b" DEST\0")
        + element(0x0902, b"why not ")
    )
    assert read.affected_sop_class_uid == "1.2.840.10008.1.1"
    assert read.affected_sop_instance_uid == "1.2.3"
    assert read.move_destination == "DEST"
    assert read.error_comment == "why not"


def test_retired_and_unknown_elements_are_skipped() -> None:
    retired_length_to_end = element(0x0001, b"\0\0\0\0")
    read = decode(retired_length_to_end + FIELD + element(0x5010, b"x" * 40))
    assert read == CommandSet(CommandField.C_ECHO_RQ)


def test_an_empty_value_reads_as_absent() -> None:
    assert decode(FIELD + element(0x1000, b"") + element(0x0110, b"")) == CommandSet(0x0030)


def test_attribute_tags_are_read_group_first() -> None:
    read = decode(FIELD + element(0x0901, b"\x08\x00\x18\x00\x10\x00\x20\x00"))
    assert read.offending_element == (0x00080018, 0x00100020)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no Command Field"),
        (FIELD[:-1], "longer than the command set"),
        (FIELD + b"\0\0\0", "within an element's header"),
        (FIELD + struct.pack("<HHI", 0, 0x0002, 0xFFFFFFFF), "longer than the command set"),
        (FIELD + element(0x0018, b"1.2", group=8), "group 0008"),
        (element(0x0100, b"\x30\x00\x00\x00"), "instead of 2"),
        (FIELD + element(0x1005, b"abc"), "attribute tags"),
        (FIELD + element(0x0002, b"1.2.\xe9\x00"), "not ASCII"),
    ],
)
def test_what_is_no_command_set_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(CommandSetError, match=what):
        decode(data)


@pytest.mark.parametrize(
    "command",
    [
        CommandSet(0x0030, message_id=0x10000),
        CommandSet(0x0030, message_id=-1),
        CommandSet(0x0030, affected_sop_class_uid="1" * 65),
        CommandSet(0x0030, affected_sop_class_uid="1.2.é"),
        CommandSet(0x0030, move_destination="SEVENTEEN_LETTERS"),
        CommandSet(0x0030, offending_element=(1 << 32,)),
    ],
)
def test_a_value_that_does_not_fit_is_never_written(command: CommandSet) -> None:
    with pytest.raises(CommandSetError, match="cannot be written"):
        encode(command)


def test_an_error_comment_is_cut_to_what_an_lo_holds() -> None:
    assert decode(encode(CommandSet(0x8001, error_comment="x" * 80))).error_comment == "x" * 64


def test_a_response_repeats_what_ties_it_to_its_request() -> None:
    request = CommandSet(
        CommandField.N_ACTION_RQ,
        message_id=3,
        requested_sop_class_uid="1.2.840.10008.1.20.1",
        requested_sop_instance_uid="1.2.840.10008.1.20.1.1",
        action_type_id=1,
    )
    assert request.response(0x0110, "no") == CommandSet(
        CommandField.N_ACTION_RSP,
        message_id_being_responded_to=3,
        affected_sop_class_uid="1.2.840.10008.1.20.1",
        affected_sop_instance_uid="1.2.840.10008.1.20.1.1",
        status=0x0110,
        error_comment="no",
    )


@pytest.mark.parametrize(
    ("data_set_type", "follows"), [(None, False), (0x0101, False), (0x0000, True), (0x0102, True)]
)
def test_any_type_but_0101_says_that_a_data_set_follows(
    data_set_type: int | None, follows: bool
) -> None:
    assert CommandSet(1, command_data_set_type=data_set_type).has_data_set is follows


def test_a_response_leaves_out_a_uid_too_long_to_be_written() -> None:
    request = CommandSet(
        CommandField.C_STORE_RQ,
        message_id=7,
        affected_sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        affected_sop_instance_uid="1." * 36,
    )
    response = decode(encode(request.response(0xC000)))
    assert (response.status, response.message_id_being_responded_to) == (0xC000, 7)
    assert response.affected_sop_class_uid == request.affected_sop_class_uid
    assert response.affected_sop_instance_uid is None
