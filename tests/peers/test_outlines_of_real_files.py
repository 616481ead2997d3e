"""The outline of every public test file, the hostile ones too, is found or refused at once.

The corpus lies beside the repository; where it does not, these tests are skipped.
"""

import time
from functools import partial
from pathlib import Path

import pytest

from lenticular.element_headers import ElementsError
from lenticular.elements import walk
from lenticular.identification import find_uids
from lenticular.transfer_syntaxes import (
    BY_UID,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from lenticular.wholeness import is_whole
from tests.peers.corpus import BROKEN, CORPUS, corpus_files

FILES = sorted(path for path in (CORPUS / "files").rglob("*") if path.is_file())
HOSTILE = [path for path in FILES if "dicom-fuzzing-corpus" in path.parts]
MOST_SECONDS = 1
SYNTAXES = [
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
]

pytestmark = pytest.mark.skipif(not FILES, reason="no corpus beside the repository")


def data_set_and_syntax(path: Path) -> tuple[memoryview, TransferSyntax | None]:
    """Cut the file meta information off by walking it."""
    data = memoryview(path.read_bytes())[132:]
    syntax = None
    try:
        for element in walk(data, explicit=True, little_endian=True):
            if element.tag >= 0x00030000:
                return data[element.offset :], syntax
            if element.tag == 0x00020010:
                syntax = BY_UID.get(bytes(element.value).decode("ascii", "replace").strip("\0 "))
    except ElementsError as error:
        return data[error.offset :], syntax
    return data[:0], syntax


def outcome(data: memoryview, syntax: TransferSyntax) -> str:
    started = time.thread_time()
    try:
        find_uids(data, syntax)
        if not syntax.deflated:
            encoding = {"explicit": syntax.explicit, "little_endian": syntax.little_endian}
            for element in walk(data, **encoding):
                assert element.offset + len(element.value) <= len(data)
    except ElementsError as error:
        result = error.fault.value
    else:
        result = "walked"
    assert time.thread_time() - started < MOST_SECONDS
    return result


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.name)
def test_a_hostile_file_is_walked_or_refused_in_any_syntax(path: Path) -> None:
    data, _ = data_set_and_syntax(path)
    whole = memoryview(path.read_bytes())

    for syntax in SYNTAXES:
        assert outcome(data, syntax) in {"walked", "truncated", "malformed"}
        assert outcome(whole, syntax) in {"walked", "truncated", "malformed"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_broken_off_anywhere_is_refused_in_time(path: Path) -> None:
    data, syntax = data_set_and_syntax(path)
    syntax = syntax or EXPLICIT_VR_LITTLE_ENDIAN

    for length in range(0, len(data), max(1, len(data) // 16)):
        assert outcome(data[:length], syntax) in {"walked", "truncated", "malformed"}


def test_nearly_every_honest_file_is_walked_to_its_end() -> None:
    results: dict[str, str] = {}
    for path in FILES:
        data, syntax = data_set_and_syntax(path)
        if path not in HOSTILE and syntax is not None:
            results[path.name] = outcome(data, syntax)

    assert len(results) > 200
    assert {name for name, result in results.items() if result != "walked"} == BROKEN


def _from(data: memoryview, at: int) -> memoryview:
    return data[at:]


def test_exactly_the_honest_files_that_dcmtk_refuses_are_not_whole() -> None:
    refused, looked_at = set(), 0
    for file in corpus_files():
        data, syntax = data_set_and_syntax(file.path)
        if file.hostile or syntax is None:
            continue
        looked_at += 1
        if not is_whole(partial(_from, data), len(data), syntax):
            assert not file.dcmtk_reads
            refused.add(file.path.name)
    assert looked_at > 200, looked_at
    assert refused == BROKEN
