"""pydicom reads what we encode; we walk what pydicom writes; noise never leads astray."""

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence

from lenticular.element_headers import ElementsError
from lenticular.elements import encode_data_set, items, walk
from lenticular.identification import find_uids
from lenticular.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from lenticular.wholeness import is_whole
from tests.encoded_data_sets import PLAIN_SYNTAXES, deflate

SYNTAXES = [*PLAIN_SYNTAXES, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN]

DataSet = list[Any]  # of tag, VR, and value or nested data sets

# Tags whose VR the dictionary knows, so that implicit VR can be read back, and one it does not.
SEQUENCES = [0x00081140, 0x00400275, 0x0040A730]
VR_OF = {
    0x00080018: "UI",
    0x00080060: "CS",
    0x0020000D: "UI",
    0x0020000E: "UI",
    0x00100010: "PN",
    0x00100020: "LO",
    0x00104000: "LT",
    0x00102297: "PN",
    0x00420011: "OB",
    0x0018A001: "SQ",
} | dict.fromkeys(SEQUENCES, "SQ")

values = {
    "UI": st.from_regex(r"[1-9]{1,9}(\.[1-9]{1,9}){0,5}", fullmatch=True).map(str.encode),
    "CS": st.from_regex(r"[A-Z0-9_]{0,16}", fullmatch=True).map(str.encode),
    "PN": st.from_regex(r"[A-Za-z^]{0,64}", fullmatch=True).map(str.encode),
    "LO": st.from_regex(r"[!-\[\]-~]{0,64}", fullmatch=True).map(str.encode),
    "LT": st.from_regex(r"[!-\[\]-~]{0,300}", fullmatch=True).map(str.encode),
    "OB": st.binary(max_size=300),
}


def elements(children: st.SearchStrategy[DataSet]) -> st.SearchStrategy[DataSet]:
    def element(tag: int) -> st.SearchStrategy[tuple[int, str, Any]]:
        vr = VR_OF[tag]
        value: st.SearchStrategy[Any] = st.lists(children, max_size=3) if vr == "SQ" else values[vr]
        return st.tuples(st.just(tag), st.just(vr), value)

    return st.lists(
        st.sampled_from(sorted(VR_OF)).flatmap(element), max_size=6, unique_by=lambda each: each[0]
    )


data_sets: st.SearchStrategy[DataSet] = st.recursive(st.just([]), elements, max_leaves=12)


def padded(vr: str, value: bytes) -> bytes:
    padding = b"\0" if vr in {"UI", "OB", "UN"} else b" "
    return value + padding * (len(value) % 2)


def as_pydicom(data_set: DataSet, *, undefined_length: bool) -> Dataset:
    made = Dataset()
    for tag, vr, value in data_set:
        if vr == "SQ":
            nested = [as_pydicom(item, undefined_length=undefined_length) for item in value]
            for item in nested:
                item.is_undefined_length_sequence_item = undefined_length
            made[tag] = DataElement(tag, vr, Sequence(nested))
            made[tag].is_undefined_length = undefined_length
        else:
            made.add_new(tag, vr, value if vr == "OB" else value.decode())
    return made


def from_pydicom(data_set: Dataset) -> DataSet:
    return [
        (
            int(element.tag),
            element.VR,
            [from_pydicom(item) for item in element.value]
            if element.VR == "SQ"
            else padded(
                element.VR,
                (element.value or b"") if element.VR == "OB" else str(element.value or "").encode(),
            ),
        )
        for element in data_set
    ]


def normal(data_set: DataSet) -> DataSet:
    return sorted(
        (tag, vr, [normal(item) for item in value] if vr == "SQ" else padded(vr, value))
        for tag, vr, value in data_set
    )


def walked(data: bytes | memoryview, syntax: TransferSyntax) -> DataSet:
    encoding = {"explicit": syntax.explicit, "little_endian": syntax.little_endian}
    outline = []
    for element in walk(data, **encoding):
        vr = VR_OF[element.tag]
        assert element.vr == (vr if syntax.explicit else None)
        value = (
            [walked(item, syntax) for item in items(element.value, **encoding)]
            if vr == "SQ"
            else bytes(element.value)
        )
        outline.append((element.tag, vr, value))
    return outline


def write(data_set: Dataset, syntax: TransferSyntax) -> bytes:
    buffer = BytesIO()
    data_set.save_as(buffer, implicit_vr=not syntax.explicit, little_endian=syntax.little_endian)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda each: each.name)
@given(data_set=data_sets)
def test_pydicom_reads_what_we_encode(syntax: TransferSyntax, data_set: DataSet) -> None:
    encoded = encode_data_set(
        data_set, explicit=syntax.explicit, little_endian=syntax.little_endian
    )

    meta = b"\0" * 128 + b"DICM" + encode_data_set([(0x00020010, "UI", syntax.uid.encode())])
    assert from_pydicom(dcmread(BytesIO(meta + encoded))) == normal(data_set)


@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda each: each.name)
@given(data_set=data_sets)
def test_we_walk_what_pydicom_writes(
    syntax: TransferSyntax, undefined_length: bool, data_set: DataSet
) -> None:
    written = write(as_pydicom(data_set, undefined_length=undefined_length), syntax)

    assert walked(written, syntax) == normal(data_set)
    assert is_whole(lambda at: written[at:], len(written), syntax)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda each: each.name)
@given(data_set=data_sets)
def test_the_uids_found_are_those_pydicom_reads(syntax: TransferSyntax, data_set: DataSet) -> None:
    made = as_pydicom(data_set, undefined_length=True)
    written = write(made, syntax)
    if syntax.deflated:
        written = deflate(written)

    found = find_uids(written, syntax)

    assert is_whole(lambda at: written[at:], len(written), syntax)
    assert found.sop_instance_uid == made.get("SOPInstanceUID")
    assert found.study_instance_uid == made.get("StudyInstanceUID")
    assert found.series_instance_uid == made.get("SeriesInstanceUID")


def headers() -> st.SearchStrategy[bytes]:
    """Bytes that look like headers, so that noise gets past the first one."""
    tags = st.sampled_from(
        [
            b"\x08\0\x18\0",
            b"\x20\0\x0d\0",
            b"\xfe\xff\0\xe0",
            b"\xfe\xff\x0d\xe0",
            b"\xfe\xff\xdd\xe0",
        ]
    )
    lengths = st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\4\0\0\0", b"UI\2\0", b"SQ\0\0"])
    zeros = st.integers(4, 40).map(bytes)
    return st.lists(st.one_of(tags, lengths, zeros, st.binary(max_size=4)), max_size=40).map(
        b"".join
    )


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("little_endian", [True, False])
@given(noise=st.one_of(st.binary(max_size=200), headers()))
def test_noise_is_refused_or_walked_within_its_bounds(
    explicit: bool, little_endian: bool, noise: bytes
) -> None:
    encoding = {"explicit": explicit, "little_endian": little_endian}
    position = 0
    try:
        for element in walk(noise, **encoding):
            assert position <= element.offset
            position = element.offset + 8 + len(element.value)
            assert position <= len(noise)
            list(items(element.value, **encoding))
    except ElementsError as error:
        position = error.offset
    assert 0 <= position <= len(noise)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda each: each.name)
@given(noise=st.one_of(st.binary(max_size=200), headers()))
def test_uids_in_noise_are_an_error_or_an_answer(syntax: TransferSyntax, noise: bytes) -> None:
    try:
        found = find_uids(noise, syntax)
    except ElementsError:
        return
    assert isinstance(found.complete, bool)


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda each: each.name)
@given(noise=st.one_of(st.binary(max_size=200), headers()), window=st.integers(12, 40))
def test_noise_is_whole_by_any_window_and_whenever_it_can_be_walked(
    syntax: TransferSyntax, noise: bytes, window: int
) -> None:
    whole = is_whole(lambda at: noise[at:], len(noise), syntax)
    assert whole == is_whole(lambda at: noise[at : at + window], len(noise), syntax)
    try:
        list(walk(noise, explicit=syntax.explicit, little_endian=syntax.little_endian))
    except ElementsError:
        return
    assert whole
