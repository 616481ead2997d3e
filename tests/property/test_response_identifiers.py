"""What is encoded once and put together says what a data set written at one go says."""

import json
from typing import Any
from unittest.mock import sentinel

from hypothesis import given
from hypothesis import strategies as st

from gateway.data_set import encode_data_set
from gateway.response_identifier import ResponseIdentifiers
from lenticular.answers import Entity, Match
from lenticular.attributes import CATALOGUE, Level
from lenticular.dicom_json import character_set_terms
from lenticular.index_items import Item
from lenticular.query import Query
from lenticular.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

SYNTAXES = [
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.uid,
    EXPLICIT_VR_BIG_ENDIAN.uid,
    EXPLICIT_VR_LITTLE_ENDIAN.uid,
    IMPLICIT_VR_LITTLE_ENDIAN.uid,
]
CHARACTER_SETS = [
    [], [""], ["ISO_IR 100"], ["ISO_IR 192"], ["GB18030"], ["", "ISO 2022 IR 87"], ["UNKNOWN"],
]  # fmt: skip
texts = st.text("abc 山é\\^=", max_size=9).map(lambda text: text.strip())
of_vr: dict[str, st.SearchStrategy[Any]] = {
    "PN": st.fixed_dictionaries({}, optional={"Alphabetic": texts, "Ideographic": texts}),
    "US": st.integers(0, 65535),
    "SQ": st.fixed_dictionaries(
        {}, optional={"00080104": texts.map(lambda text: {"vr": "LO", "Value": [text]})}
    ),
    "LO": texts, "LT": texts, "SH": texts,
}  # fmt: skip
plain = st.from_regex(r"[0-9]{1,7}", fullmatch=True)


def element(vr: str) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(of_vr.get(vr, plain), max_size=3)
    return several.map(lambda values: {"vr": vr, "Value": values} if values else {"vr": vr})


def attributes(*levels: Level) -> st.SearchStrategy[dict[str, Any]]:
    of_level = {f"{each.tag:08X}": each.vr for each in CATALOGUE if each.level in levels}
    # A number may have come as another kind of number than the catalogue has it.
    return st.dictionaries(st.sampled_from(sorted(of_level)), st.none(), max_size=6).flatmap(
        lambda tags: st.fixed_dictionaries(
            {tag: element("FL" if of_level[tag] == "DS" else of_level[tag]) for tag in tags}
        )
    )


STUDIES = st.builds(
    lambda said, number: Entity.study(
        item(said, number) | {"pk": f"STUDY#1.{number}", "modalities": frozenset({"CT", "MR"})}
    ),
    attributes(Level.PATIENT, Level.STUDY),
    st.integers(0, 99),
)


def below(level: Level) -> st.SearchStrategy[Entity]:
    return st.builds(
        lambda said, number: Entity.below(level, item(said, number)),
        attributes(level),
        st.integers(0, 99),
    )


def item(said: dict[str, Any], number: int) -> Item:
    return {"attributes": json.dumps(said), "uid": f"1.2.{number}", "series": 2, "instances": 30}


MATCHES = st.lists(
    st.builds(Match, STUDIES, below(Level.SERIES), below(Level.INSTANCE)), min_size=1, max_size=3
)
ASKED = st.sets(
    st.sampled_from([0x00080056, 0x00080061, 0x00201206, 0x00201209, 0x00104010])
    | st.sampled_from([each.tag for each in CATALOGUE]),
    max_size=12,
)


def at_one_go(query: Query, match: Match, terms: list[str], syntax: str) -> bytes:
    """Encode a match as anybody would."""
    assert match.series is not None
    assert match.instance is not None
    known = {**match.study.elements, **match.series.elements, **match.instance.elements}
    known["00080056"] = {"vr": "CS", "Value": ["ONLINE"]}
    known["00080061"] = {"vr": "CS", "Value": ["CT", "MR"]}
    known["00201206"] = {"vr": "IS", "Value": ["2"]}
    known["00201209"] = {"vr": "IS", "Value": ["30"]}
    vrs = {each.tag: each.vr for each in CATALOGUE}
    elements = {
        tag: known.get(f"{tag:08X}", {"vr": vrs.get(tag)})
        for tag in query.keys
        if tag in vrs or f"{tag:08X}" in known
    }
    elements[0x00080052] = {"vr": "CS", "Value": ["IMAGE"]}
    elements[0x00080054] = {"vr": "AE", "Value": ["ARCHIVE"]}
    return encode_data_set(elements, syntax, terms)


@given(
    matches=MATCHES,
    asked=ASKED,
    terms=st.sampled_from(CHARACTER_SETS),
    syntax=st.sampled_from(SYNTAXES),
    order=st.permutations(range(3)),
)
def test_matches_are_encoded_as_if_each_were_the_only_one(
    matches: list[Match], asked: set[int], terms: list[str], syntax: str, order: list[int]
) -> None:
    keys: dict[int, dict[str, Any]] = {tag: {"vr": "UN"} for tag in asked}
    keys[0x00080005] = {"vr": "CS", "Value": terms} if terms else {"vr": "CS"}
    query = Query(Level.INSTANCE, keys)
    identifiers = ResponseIdentifiers(
        query, sentinel.index, ae_title="ARCHIVE", transfer_syntax_uid=syntax
    )
    # An entity comes again with others below it, and so do those whose text was too much.
    for number in (*order, *order):
        match = matches[number % len(matches)]
        mixed = Match(matches[0].study, match.series, match.instance)
        for each in (match, mixed, mixed):
            expected = at_one_go(query, each, character_set_terms(keys[0x00080005]), syntax)
            assert identifiers.encode(each) == expected


def test_a_match_that_needs_utf_8_leaves_nothing_of_itself_in_the_next() -> None:
    terms = ["ISO_IR 100"]
    keys: dict[int, dict[str, Any]] = {
        0x00080005: {"vr": "CS", "Value": terms}, 0x00080020: {"vr": "DA"},
        0x00100010: {"vr": "PN"},
    }  # fmt: skip
    plain, other = (
        Match(
            Entity.study(
                item(
                    {
                        "00080020": {"vr": "DA", "Value": [day]},
                        "00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]},
                    },
                    1,
                )
                | {"pk": "STUDY#1"}
            )
        )
        for day, name in (("20260101", "Plain"), ("20260202", "山田"))
    )
    identifiers = ResponseIdentifiers(
        Query(Level.STUDY, keys), sentinel.index, ae_title="A", transfer_syntax_uid=SYNTAXES[2]
    )
    first = identifiers.encode(plain)
    assert b"20260101" in first
    assert "山田".encode() in identifiers.encode(other)
    assert identifiers.encode(plain) == first
