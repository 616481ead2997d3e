"""Elements between their encoded form and the DICOM JSON model the index keeps. PS3.18 annex F.

An element is {"vr": "PN", "Value": [...]}, without "Value" when it is empty. In lists:

    text, UIDs, dates, DS, IS   strings without padding, DS and IS digit for digit as stored
    PN                          {"Alphabetic": ..., "Ideographic": ..., "Phonetic": ...}
    AT                          eight hexadecimal digits
    other numbers               int or float
    SQ                          items: elements by tag, eight upper-case hexadecimal digits
    an empty value among others None

Bulk data (OB, OW, UN and their like) has no place in an index: such elements come out empty, and
inside of sequences not at all. Who keeps whole data sets asks for `binary`: they then are
{"vr": "UN", "InlineBinary": base64, little endian}.

Reading never fails over a value: what cannot be decoded is replaced or left out.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from struct import Struct
from typing import Any, Final, TypeAlias

from .attributes import BY_TAG, COMPUTED
from .character_sets import (
    PERSON_NAME_DELIMITERS,
    TEXT_DELIMITERS,
    VALUE_DELIMITERS,
    CharacterSets,
    character_sets,
    choose_character_set,
)
from .element_headers import ElementsError
from .elements import Element, EncodableElement, element_writer, encode_data_set, items, walk

#: An element of the model, as above.
JsonElement: TypeAlias = Mapping[str, Any]

SPECIFIC_CHARACTER_SET: Final = 0x00080005

#: Items inside items that we read. Code sequences nest twice, request attributes three times.
MAX_DEPTH: Final = 8

_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")

# PS3.5 table 6.2-1. Text of one value keeps its leading spaces, which mean something.
_TEXT_DELIMITERS_OF: Final[Mapping[str, bytes]] = {
    "LO": VALUE_DELIMITERS,
    "LT": TEXT_DELIMITERS,
    "PN": PERSON_NAME_DELIMITERS,
    "SH": VALUE_DELIMITERS,
    "ST": TEXT_DELIMITERS,
    "UC": VALUE_DELIMITERS,
    "UT": TEXT_DELIMITERS,
}
_ONE_VALUE: Final = frozenset({"LT", "ST", "UT", "UR"})
_LEADING_SPACES_COUNT: Final = _ONE_VALUE | {"UC"}
_DEFAULT_REPERTOIRE: Final = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_STRINGS: Final = _DEFAULT_REPERTOIRE | _TEXT_DELIMITERS_OF.keys()
_NUMBERS: Final = {
    (vr, little_endian): Struct(order + code)
    for vr, code in {
        "FD": "d", "FL": "f", "SL": "l", "SS": "h", "SV": "q", "UL": "L", "US": "H", "UV": "Q",
    }.items()
    for little_endian, order in ((True, "<"), (False, ">"))
}  # fmt: skip
_TAG_VALUES: Final = {True: Struct("<HH"), False: Struct(">HH")}
_WORD_BYTES: Final = {"OD": 8, "OF": 4, "OL": 4, "OV": 8, "OW": 2}
_PADDING: Final = " \0"
_ASCII_ONLY: Final = character_sets(())
_VR_OF: Final = {attribute.tag: attribute.vr for attribute in (*BY_TAG.values(), *COMPUTED)}


def read_data_set(
    data: bytes | memoryview,
    *,
    explicit: bool,
    little_endian: bool,
    stop_tag: int | None = None,
    binary: bool = False,
) -> dict[int, JsonElement]:
    """Read the elements of a data set, by tag, up to the first at or above `stop_tag`.

    Specific Character Set is applied and is among the elements. Group lengths are left out.
    `binary` keeps what is neither text nor number nor sequence. Raises ElementsError when the
    outline, of a sequence too, breaks off or makes no sense.
    """
    outline = walk(data, explicit=explicit, little_endian=little_endian, stop_tag=stop_tag)
    return _read_elements(
        outline, _ASCII_ONLY, explicit=explicit, little_endian=little_endian, binary=binary
    )


def read_element(
    element: Element, sets: CharacterSets, *, explicit: bool, little_endian: bool
) -> JsonElement:
    """Read one element as the VR that the data set, the catalogue or the dictionary gives it.

    `sets` are the data set's. A sequence whose outline cannot be followed comes out empty: what
    stands behind it in the data set is not to suffer for it.
    """
    try:
        return _read_element(element, sets, explicit=explicit, little_endian=little_endian)
    except ElementsError:
        return {"vr": vr_of(element.tag, element.vr)}


def read_character_sets(element: Element) -> CharacterSets:
    """Read the value of Specific Character Set (0008,0005)."""
    terms = _read_strings("CS", bytes(element.value), _ASCII_ONLY)
    return character_sets(str(term or "") for term in terms)


def values_of(element: JsonElement | None) -> list[Any]:
    """Return the values of an element, none when it is absent or empty."""
    return element.get("Value", []) if element else []


def first_text(elements: Mapping[str, JsonElement], tag: str) -> str | None:
    """Return the first value of a text element, None when it is absent or empty."""
    values = values_of(elements.get(tag))
    return str(values[0]) if values and values[0] not in (None, "") else None


def character_set_terms(element: JsonElement | None) -> list[str]:
    """Return the terms of a Specific Character Set element, none when there is none."""
    return [str(term or "") for term in values_of(element)]


def write_data_set(
    elements: Mapping[int, JsonElement],
    requested: Sequence[str] = (),
    *,
    explicit: bool = True,
    little_endian: bool = True,
) -> bytes:
    """Encode elements in the character set `requested`, in UTF-8 when it cannot carry them.

    Specific Character Set is written as chosen, whatever `elements` say of it, and left out when
    the default repertoire is enough and nothing else was requested.
    """
    terms = choose_character_set(requested, texts_of(elements.values()))
    sets = character_sets(terms)
    encoded = [
        _encodable(tag, element, sets, little_endian=little_endian)
        for tag, element in elements.items()
        if tag != SPECIFIC_CHARACTER_SET
    ]
    if terms:
        encoded.append((SPECIFIC_CHARACTER_SET, "CS", "\\".join(terms).encode("ascii", "replace")))
    return encode_data_set(encoded, explicit=explicit, little_endian=little_endian)


def encode_values(
    element: JsonElement, sets: CharacterSets, *, little_endian: bool = True
) -> bytes:
    """Encode the values of an element that is not a sequence, without padding.

    Raises UnicodeError when `sets` cannot carry them: see `choose_character_set`.
    """
    vr = element["vr"]
    if "InlineBinary" in element:
        raw = base64.b64decode(element["InlineBinary"])
        return raw if little_endian else _words_swapped(vr, raw)
    values = element.get("Value")
    if not values:
        return b""
    if vr in _STRINGS:
        text = "\\".join(map(_text_of, values))
        delimiters = _TEXT_DELIMITERS_OF.get(vr)
        if delimiters is None:
            return text.encode("ascii", "replace")
        return sets.encode(text, delimiters)
    if vr == "AT":
        pack = _TAG_VALUES[little_endian].pack
        return b"".join(
            pack(int(str(value)[:4], 16), int(str(value)[4:], 16)) for value in values if value
        )
    number = _NUMBERS.get((vr, little_endian))
    if number is None:
        return b""
    convert: Callable[[str], int | float] = float if vr in {"FD", "FL"} else int
    return b"".join(number.pack(convert(str(value))) for value in values if value is not None)


def element_encoder(
    tag: int, vr: str, sets: CharacterSets, *, explicit: bool = True, little_endian: bool = True
) -> Callable[[JsonElement], bytes]:
    """Return what encodes one attribute of many data sets, as `write_data_set` does within each.

    It takes elements of this VR alone, and raises UnicodeError when `sets` cannot carry a text.
    """
    if vr == "SQ":
        return lambda element: encode_data_set(
            [_encodable(tag, element, sets, little_endian=little_endian)],
            explicit=explicit,
            little_endian=little_endian,
        )
    write = element_writer(tag, vr, explicit=explicit, little_endian=little_endian)
    if vr not in _STRINGS:
        return lambda element: write(encode_values(element, sets, little_endian=little_endian))
    empty = write(b"")
    delimiters = _TEXT_DELIMITERS_OF.get(vr)

    def encode(element: JsonElement) -> bytes:
        values = element.get("Value")
        if not values:
            return empty
        # Nearly every element has one value, and nearly every text is plain.
        text = _text_of(values[0]) if len(values) == 1 else "\\".join(map(_text_of, values))
        if delimiters is None:
            return write(text.encode("ascii", "replace"))
        return write(sets.encode(text, delimiters))

    return encode


def texts_of(elements: Iterable[JsonElement]) -> Iterator[str]:
    """Yield every text, at any depth, that Specific Character Set applies to."""
    for element in elements:
        values = element.get("Value")
        if not values:
            continue
        if element["vr"] in _TEXT_DELIMITERS_OF:
            yield from map(_text_of, values)
        elif element["vr"] == "SQ":
            for item in values:
                yield from texts_of(item.values())


def vr_of(tag: int, stated: str | None) -> str:
    """Return the VR to read an element in.

    What the data set states counts, but for UN, and but for text the catalogue knows better:
    writers confuse LO with SH more often than text with numbers.
    """
    known = _VR_OF.get(tag)
    if stated is not None and stated != "UN":
        return known if known in _STRINGS and stated in _STRINGS else stated
    return known or _vr_in_dictionary(tag)


def _vr_in_dictionary(tag: int) -> str:
    # Imported on first use: pydicom takes most of a second to import, and only nested elements
    # without a VR need its dictionary.
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415

    if not tag & 0xFFFF:  # group length, PS3.5 7.2
        return "UL"
    try:
        return dictionary_VR(tag)[:2]  # "US or SS" is read as US
    except KeyError:
        return "UN"


def _read_element(  # noqa: PLR0913 - how it is written, and what of it is wanted
    element: Element,
    sets: CharacterSets,
    *,
    explicit: bool,
    little_endian: bool,
    depth: int = 0,
    binary: bool = False,
) -> JsonElement:
    vr = vr_of(element.tag, element.vr)
    if element.vr == "UN":  # whatever the data set is written in, PS3.5 6.2.2
        explicit, little_endian = False, True
    if vr == "SQ":
        nested = _read_items(
            element.value,
            sets,
            explicit=explicit,
            little_endian=little_endian,
            depth=depth,
            binary=binary,
        )
        return {"vr": vr, "Value": nested} if nested else {"vr": vr}
    if binary and element.value and not _has_values(vr):
        raw = bytes(element.value) if little_endian else _words_swapped(vr, bytes(element.value))
        return {"vr": vr, "InlineBinary": base64.b64encode(raw).decode("ascii")}
    return _json_element(vr, _read_values(vr, element.value, sets, little_endian=little_endian))


def _read_elements(  # noqa: PLR0913 - as _read_element
    outline: Iterable[Element],
    sets: CharacterSets,
    *,
    explicit: bool,
    little_endian: bool,
    depth: int = 0,
    binary: bool = False,
) -> dict[int, JsonElement]:
    elements: dict[int, JsonElement] = {}
    for element in outline:
        if not element.tag & 0xFFFF:
            continue
        if element.tag == SPECIFIC_CHARACTER_SET:
            # Precedes all text in tag order; holds in nested items unless they have their own.
            sets = read_character_sets(element)
        elements[element.tag] = _read_element(
            element,
            sets,
            explicit=explicit,
            little_endian=little_endian,
            depth=depth,
            binary=binary,
        )
    return elements


def _read_items(  # noqa: PLR0913 - as _read_element
    value: memoryview,
    sets: CharacterSets,
    *,
    explicit: bool,
    little_endian: bool,
    depth: int,
    binary: bool,
) -> list[Any]:
    if depth >= MAX_DEPTH:
        return []
    encoding = {"explicit": explicit, "little_endian": little_endian}
    return [
        {
            f"{tag:08X}": element
            for tag, element in _read_elements(
                walk(item, **encoding), sets, **encoding, depth=depth + 1, binary=binary
            ).items()
            if binary or element["vr"] == "SQ" or _has_values(element["vr"])
        }
        for item in items(value, **encoding)
    ]


def _has_values(vr: str) -> bool:
    return vr in _STRINGS or vr == "AT" or (vr, True) in _NUMBERS


def _words_swapped(vr: str, raw: bytes) -> bytes:
    """Turn the byte order of a binary value around; of OB and UN it has none. PS3.5 7.3."""
    width = _WORD_BYTES.get(vr, 1)
    swapped = bytearray(raw)
    whole = len(raw) - len(raw) % width
    for offset in range(width):
        swapped[offset:whole:width] = raw[width - 1 - offset : whole : width]
    return bytes(swapped)


def _read_values(
    vr: str, raw: memoryview, sets: CharacterSets, *, little_endian: bool
) -> list[Any]:
    if vr in _STRINGS:
        return _read_strings(vr, bytes(raw), sets)
    if vr == "AT":
        pairs = _TAG_VALUES[little_endian].iter_unpack(raw[: len(raw) & ~3])
        return [f"{group:04X}{number:04X}" for group, number in pairs]
    number = _NUMBERS.get((vr, little_endian))
    if number is None:
        return []
    whole = len(raw) - len(raw) % number.size
    return [value for (value,) in number.iter_unpack(raw[:whole])]


def _read_strings(vr: str, raw: bytes, sets: CharacterSets) -> list[Any]:
    delimiters = _TEXT_DELIMITERS_OF.get(vr)
    text = _ASCII_ONLY.decode(raw) if delimiters is None else sets.decode(raw, delimiters)
    if vr in _ONE_VALUE:
        text = text.rstrip(_PADDING)
        return [text] if text else []
    parts = text.split("\\")
    if vr == "PN":
        return [_person_name(part) for part in parts]
    strip = str.rstrip if vr in _LEADING_SPACES_COUNT else str.strip
    return [strip(part, _PADDING) or None for part in parts]


def _person_name(text: str) -> dict[str, str] | None:
    groups = [group.strip(_PADDING) for group in text.split("=", 2)]
    return {name: group for name, group in zip(_GROUPS, groups, strict=False) if group} or None


def _json_element(vr: str, values: list[Any]) -> JsonElement:
    if all(value is None for value in values):
        return {"vr": vr}
    return {"vr": vr, "Value": values}


def _text_of(value: object) -> str:
    if type(value) is str:
        return value
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "=".join(str(value.get(group, "")) for group in _GROUPS).rstrip("=")
    return str(value)


def _encodable(
    tag: int, element: JsonElement, sets: CharacterSets, *, little_endian: bool
) -> EncodableElement:
    vr = element["vr"]
    if vr != "SQ":
        return tag, vr, encode_values(element, sets, little_endian=little_endian)
    return (
        tag,
        vr,
        [
            [
                _encodable(int(nested, 16), each, sets, little_endian=little_endian)
                for nested, each in item.items()
                if int(nested, 16) != SPECIFIC_CHARACTER_SET
            ]
            for item in element.get("Value", [])
        ],
    )
