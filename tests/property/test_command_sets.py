"""Command sets return as they went, as pynetdicom writes them, and no bytes break the reader."""

import contextlib
import re
from io import BytesIO
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dimse_messages import _COMMAND_SET_KEYWORDS
from pynetdicom.dsutils import decode as pynetdicom_decode
from pynetdicom.dsutils import encode as pynetdicom_encode

from gateway.command_set import CommandField, CommandSet, CommandSetError, decode, encode

uids = st.from_regex(r"[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){0,5}", fullmatch=True)
titles = st.from_regex(r"[A-Za-z0-9_/!-]{1,16}", fullmatch=True)
numbers = st.integers(0, 0xFFFF)
tags = st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=20).map(tuple)
comments = st.from_regex(r"[ -\[\]-~]{0,63}[!-\[\]-~]", fullmatch=True)

ODD_NAMES = {"MoveOriginatorApplicationEntityTitle": "move_originator_ae_title"}
BY_KIND = {
    "uid": uids,
    "comment": comments,
    "title": titles,
    "destination": titles,
    "element": tags,
    "list": tags,
}


def attribute(keyword: str) -> str:
    """Turn AffectedSOPClassUID into affected_sop_class_uid."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", keyword)
    return ODD_NAMES.get(keyword, "_".join(words).lower())


def values_of(name: str) -> st.SearchStrategy[Any]:
    return BY_KIND.get(name.rpartition("_")[2], numbers)


KEYWORDS = sorted(
    {keyword for keywords in _COMMAND_SET_KEYWORDS.values() for keyword in keywords}
    - {"CommandGroupLength"}
)
command_sets: st.SearchStrategy[CommandSet] = st.fixed_dictionaries(
    {"command_field": numbers},
    optional={
        attribute(keyword): values_of(attribute(keyword))
        for keyword in KEYWORDS
        if keyword != "CommandField"
    },
).map(lambda values: CommandSet(**cast("dict[str, Any]", values)))


@given(command_sets)
def test_a_command_set_returns_as_it_went(command: CommandSet) -> None:
    assert decode(encode(command)) == command


@pytest.mark.parametrize("message", sorted(_COMMAND_SET_KEYWORDS))
@settings(max_examples=25)
@given(data=st.data())
def test_each_message_is_written_as_pynetdicom_writes_it(message: str, data: st.DataObject) -> None:
    theirs = Dataset()
    ours = CommandSet(CommandField[message.replace("-", "_")])
    for keyword in _COMMAND_SET_KEYWORDS[message]:
        name = attribute(keyword)
        if keyword == "CommandGroupLength":
            continue
        value = ours.command_field if name == "command_field" else data.draw(values_of(name), name)
        setattr(ours, name, value)
        setattr(theirs, keyword, list(value) if isinstance(value, tuple) else value)
    body = pynetdicom_encode(theirs, True, True)
    assert body is not None
    assert encode(ours)[12:] == body
    with_length = Dataset()
    with_length.CommandGroupLength = len(body)
    assert encode(ours)[:12] == pynetdicom_encode(with_length, True, True)


@given(command_sets)
def test_pydicom_reads_what_is_written(command: CommandSet) -> None:
    theirs = pynetdicom_decode(BytesIO(encode(command)), True, True)
    for keyword in KEYWORDS:
        ours = getattr(command, attribute(keyword))
        if isinstance(ours, tuple):
            value = theirs[keyword].value
            assert tuple(value if len(ours) > 1 else [value]) == ours
        else:
            assert theirs.get(keyword) == ours


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_command_set_error(data: bytes) -> None:
    with contextlib.suppress(CommandSetError):
        decode(data)


@given(command_sets, st.data())
def test_no_mutation_raises_anything_but_a_command_set_error(
    command: CommandSet, data: st.DataObject
) -> None:
    encoded = bytearray(encode(command))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    del encoded[data.draw(st.integers(0, len(encoded))) :]
    with contextlib.suppress(CommandSetError):
        decode(memoryview(encoded))
