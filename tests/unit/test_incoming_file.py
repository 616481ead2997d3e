"""What has arrived of an instance is placed alike from memory and from a scratch file."""

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import pytest

from gateway.command_set import CommandField, CommandSet
from gateway.storage import IncomingFile
from lenticular.elements import encode_data_set, encode_element
from lenticular.errors import StoreUnavailable
from lenticular.part10 import file_head
from lenticular.placement import Placement, Problem
from lenticular.transfer_syntaxes import (
    BY_UID,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
MIB: Final = 1 << 20
SYNTAXES: Final = [
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
]
PLACED: Final = Placement("1.2.3.4", "1.2.3", "1.2.3.1")
BROKEN_OFF: Final = Placement("1.2.3.4", problem=Problem.BROKEN_OFF)


def data_set(
    syntax: TransferSyntax, *, before: int = 0, missing: int = 0, study: bytes = b"1.2.3"
) -> bytes:
    """Encode an instance with a value of `before` bytes before its UIDs, `missing` some at its end.

    Its pixels do not deflate.
    """
    encoding = {"explicit": syntax.explicit, "little_endian": syntax.little_endian}
    encoded = encode_data_set(
        [
            (0x00080016, "UI", CT.encode()),
            (0x00080018, "UI", b"1.2.3.4"),
            (0x00091001, "OB", bytes(before)),
            (0x00100020, "LO", b"PID1"),
            (0x0020000D, "UI", study),
            (0x0020000E, "UI", b"1.2.3.1"),
        ],
        **encoding,
    ) + encode_element(0x7FE00010, "OW", bytes(MIB), **encoding)
    encoded = encoded[: len(encoded) - missing]
    if syntax.deflated:
        deflater = zlib.compressobj(0, wbits=-zlib.MAX_WBITS)
        return deflater.compress(encoded) + deflater.flush()
    return encoded


def arrived(
    encoded: bytes, syntax: TransferSyntax, scratch: Callable[[], IO[bytes]] | None
) -> IncomingFile:
    head = file_head(CT, "1.2.3.4", syntax.uid)
    memory_bytes = 64 << 20 if scratch is None else 64 << 10
    file = IncomingFile(head, memory_bytes, scratch or tempfile.TemporaryFile)
    for at in range(0, len(encoded), 100_000):
        file.write(memoryview(encoded)[at : at + 100_000])
    file.complete()
    assert (file.scratch is None) == (scratch is None)
    return file


def place(file: IncomingFile, syntax: TransferSyntax) -> Placement:
    command = CommandSet(
        command_field=CommandField.C_STORE_RQ,
        affected_sop_class_uid=CT,
        affected_sop_instance_uid="1.2.3.4",
    )
    return file.place(command, syntax.uid)


in_memory_or_not = pytest.mark.parametrize(
    "scratch", [None, tempfile.TemporaryFile], ids=["memory", "scratch"]
)


@in_memory_or_not
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda each: each.name)
def test_an_instance_is_placed_when_all_of_it_has_come(
    syntax: TransferSyntax, scratch: Callable[[], IO[bytes]] | None
) -> None:
    for before in (0, 50_000, 9 * MIB if scratch is None else 7 * MIB):
        file = arrived(data_set(syntax, before=before), syntax, scratch)
        # Deflated, it is inflated to a bound.
        if not syntax.deflated or before < MIB:
            assert place(file, syntax) == PLACED
            assert file.patient_id(syntax.uid) == "PID1"
        file.discard()


@in_memory_or_not
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda each: each.name)
@pytest.mark.parametrize("study", [b"1.2.3", b""])
@pytest.mark.parametrize("missing", [1, MIB // 2, MIB, MIB + 7])
def test_an_instance_that_breaks_off_behind_its_uids_is_told_so(
    syntax: TransferSyntax,
    scratch: Callable[[], IO[bytes]] | None,
    study: bytes,
    missing: int,
) -> None:
    encoded = data_set(syntax, before=100_000, missing=missing, study=study)
    file = arrived(encoded, syntax, scratch)
    assert place(file, syntax) == BROKEN_OFF
    file.discard()


def test_a_head_too_long_for_the_index_is_kept_for_an_operator_unless_it_breaks_off() -> None:
    syntax = EXPLICIT_VR_LITTLE_ENDIAN
    for missing, problem in ((0, Problem.NO_STUDY_INSTANCE_UID), (10, Problem.BROKEN_OFF)):
        encoded = data_set(syntax, before=9 * MIB, missing=missing)
        file = arrived(encoded, syntax, tempfile.TemporaryFile)
        assert place(file, syntax).problem is problem
        file.discard()


def test_a_scratch_file_that_cannot_be_read_is_the_disks_fault(tmp_path: Path) -> None:
    def unreadable() -> IO[bytes]:
        return (tmp_path / "scratch").open("wb")

    syntax = EXPLICIT_VR_LITTLE_ENDIAN
    file = arrived(data_set(syntax), syntax, unreadable)
    with pytest.raises(StoreUnavailable, match="the scratch disk failed: Bad file descriptor"):
        place(file, syntax)
    file.discard()


def test_every_syntax_is_followed_to_its_end() -> None:
    for syntax in BY_UID.values():
        encoded = data_set(syntax)
        assert place(arrived(encoded, syntax, None), syntax) == PLACED
        assert place(arrived(encoded[:-9], syntax, None), syntax) == BROKEN_OFF
