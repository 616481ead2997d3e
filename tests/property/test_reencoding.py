"""What is written in one transfer syntax reads as the same in each other, as pydicom judges."""

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from lenticular.elements import encode_data_set, encode_element, walk
from lenticular.errors import CannotUnderstand
from lenticular.reencoding import reencoded
from lenticular.transfer_syntaxes import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)

SYNTAXES = [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]

#: Keyword, and what it may hold; numbers of each width, text, bytes, and what is known to nobody.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "PatientName": st.sampled_from(["", "Doe^John", "A"]),
    "FrameIncrementPointer": st.lists(st.sampled_from([0x00181063, 0x00540010]), min_size=1),
    "Rows": st.integers(0, 65535),
    "PixelRepresentation": st.sampled_from([0, 1]),
    "RegionLocationMinX0": st.integers(0, 2**32 - 1),
    "ReferencePixelX0": st.integers(-(2**31), 2**31 - 1),
    "RecommendedDisplayFrameRateInFloat": st.floats(width=32, allow_nan=False),
    "ExposureTimeInms": st.floats(allow_nan=False),
    "FileOffsetInContainer": st.integers(0, 2**64 - 1),
    "EncapsulatedDocument": st.binary(max_size=50).map(lambda value: value + bytes(len(value) % 2)),
}
SEQUENCES = ["ReferencedImageSequence", "ContentSequence", "RequestAttributesSequence"]


def data_sets_of(children: st.SearchStrategy[Dataset]) -> st.SearchStrategy[Dataset]:
    sequences = {keyword: st.lists(children, max_size=3).map(Sequence) for keyword in SEQUENCES}
    return st.fixed_dictionaries({}, optional={**VALUES, **sequences}).map(_data_set)


def _data_set(values: dict[str, Any]) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


data_sets = st.recursive(st.builds(Dataset), data_sets_of, max_leaves=6)


def write(data_set: Dataset, syntax: TransferSyntax, *, undefined_length: bool = False) -> bytes:
    def mark(data_set: Dataset) -> None:
        for element in data_set:
            if element.VR == "SQ":
                element.is_undefined_length = undefined_length
                for item in element.value:
                    item.is_undefined_length_sequence_item = undefined_length
                    mark(item)

    mark(data_set)
    buffer = BytesIO()
    data_set.save_as(buffer, implicit_vr=not syntax.explicit, little_endian=syntax.little_endian)
    return buffer.getvalue()


def read(data: bytes, syntax: TransferSyntax) -> Dataset:
    meta = b"\0" * 128 + b"DICM" + encode_data_set([(0x00020010, "UI", syntax.uid.encode())])
    return dcmread(BytesIO(meta + data))


@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.parametrize("target", SYNTAXES, ids=lambda each: each.name)
@pytest.mark.parametrize("source", SYNTAXES, ids=lambda each: each.name)
@given(data_set=data_sets)
def test_every_value_is_the_same_in_each_transfer_syntax(
    source: TransferSyntax, target: TransferSyntax, undefined_length: bool, data_set: Dataset
) -> None:
    stored = write(data_set, source, undefined_length=undefined_length)
    assert read(reencoded(stored, source, target), target) == read(stored, source)
    assert reencoded(stored, source, source) == stored


@pytest.mark.parametrize("between", [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN])
@given(data_set=data_sets)
def test_there_and_back_gives_the_same_bytes(between: TransferSyntax, data_set: Dataset) -> None:
    # The VRs that are used here are all in the dictionary, and lengths are all stated.
    stored = write(data_set, EXPLICIT_VR_LITTLE_ENDIAN)
    there = reencoded(stored, EXPLICIT_VR_LITTLE_ENDIAN, between)
    assert reencoded(there, between, EXPLICIT_VR_LITTLE_ENDIAN) == stored


@pytest.mark.parametrize(
    ("tag", "vr", "width"),
    [(0x7FE00010, "OW", 2), (0x7FE00008, "OF", 4), (0x00660040, "OL", 4), (0x7FE00009, "OD", 8)],
)
@given(numbers=st.lists(st.binary(min_size=8, max_size=8), max_size=9).map(b"".join))
def test_long_runs_of_numbers_are_turned_one_by_one(
    tag: int, vr: str, width: int, numbers: bytes
) -> None:
    # pydicom leaves these as they come, so it is no judge of them.
    turned = b"".join(numbers[at : at + width][::-1] for at in range(0, len(numbers), width))
    big = encode_data_set([(tag, vr, turned)], little_endian=False)
    for syntax in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        little = encode_data_set([(tag, vr, numbers)], explicit=syntax.explicit)
        assert reencoded(little, syntax, EXPLICIT_VR_BIG_ENDIAN) == big
        assert reencoded(big, EXPLICIT_VR_BIG_ENDIAN, syntax) == little


@pytest.mark.parametrize(("representation", "vr"), [(0, "US"), (1, "SS")])
def test_numbers_of_either_sign_are_as_pixel_representation_says(
    representation: int, vr: str
) -> None:
    stored = encode_data_set(
        [
            (0x00189810, "US", b"\xfe\xff"),  # stands before Pixel Representation
            (0x00280103, "US", bytes([representation, 0])),
            (0x00280120, "US", b"\xfe\xff"),
            (0x00283010, "SQ", [[(0x00283002, "US", b"\0\1\xfe\xff\x10\0")]]),
            (0x7FE00010, "OW", b"\1\2\3\4"),
        ],
        explicit=False,
    )
    sent = reencoded(stored, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)
    outline = {each.tag: each for each in walk(sent, explicit=True, little_endian=True)}
    assert (outline[0x00189810].vr, outline[0x00280120].vr) == (vr, vr)
    assert bytes(outline[0x00280120].value) == b"\xfe\xff"
    assert (outline[0x7FE00010].vr, bytes(outline[0x7FE00010].value)) == ("OW", b"\1\2\3\4")


def test_what_nobody_knows_stays_as_it_is_and_is_called_unknown() -> None:
    private = encode_data_set([(0x00090010, "LO", b"ACME"), (0x00091001, "UN", b"\1\2\3\4")])
    implicit = reencoded(private, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
    assert reencoded(implicit, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN) == private
    big = reencoded(implicit, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
    assert bytes(read(big, EXPLICIT_VR_BIG_ENDIAN)[0x00091001].value) == b"\1\2\3\4"


def test_a_private_sequence_of_undefined_length_goes_on_as_one() -> None:
    inner = encode_element(0x00080100, "SH", b"CODE", explicit=False)
    item = b"\xfe\xff\x00\xe0" + len(inner).to_bytes(4, "little") + inner
    value = item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    implicit = b"\x09\0\x01\x10\xff\xff\xff\xff" + value
    for target in (EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN):
        sent = reencoded(implicit, IMPLICIT_VR_LITTLE_ENDIAN, target)
        assert value in sent
        assert reencoded(sent, target, IMPLICIT_VR_LITTLE_ENDIAN) == implicit
    explicit = reencoded(implicit, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)
    assert read(explicit, EXPLICIT_VR_LITTLE_ENDIAN)[0x00091001].value[0].CodeValue == "CODE"


def test_group_lengths_can_be_left_out_because_they_would_be_wrong() -> None:
    stored = encode_data_set([(0x00080000, "UL", b"\x0a\0\0\0"), (0x00080060, "CS", b"CT")])
    assert reencoded(
        stored, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, group_lengths=False
    ) == encode_data_set([(0x00080060, "CS", b"CT")], explicit=False)


@pytest.mark.parametrize(
    "stored",
    [
        encode_data_set([(0x00280010, "US", b"\1\2\3\4")])[:-1],
        b"\x28\0\x10\0US\x03\0\1\2\3",
    ],
    ids=["cut-short", "half-a-number"],
)
def test_what_cannot_be_followed_is_not_sent_wrong(stored: bytes) -> None:
    with pytest.raises(CannotUnderstand):
        reencoded(stored, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)


@given(data=st.binary(max_size=200))
def test_noise_is_refused_or_followed_to_its_end(data: bytes) -> None:
    for source in SYNTAXES:
        for target in SYNTAXES:
            try:
                reencoded(data, source, target)
            except CannotUnderstand:
                continue
