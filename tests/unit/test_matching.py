"""Keys match attributes as PS3.4 C.2.2.2 says, one test a sentence of it."""

import time

import pytest

from lenticular.errors import InvalidIdentifier
from lenticular.matching import compile_date_and_time, compile_key, fold_person_name

PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
STUDY_DATE = 0x00080020
STUDY_TIME = 0x00080030
ACQUISITION_DATE_TIME = 0x0008002A
STUDY_UID = 0x0020000D


def matches(vr: str, key: object, *values: object, tag: int = PATIENT_ID) -> bool:
    keys = key if isinstance(key, list) else [key]
    return compile_key(vr, tag, {"vr": vr, "Value": keys})(values)


def name_matches(key: str, name: str) -> bool:
    groups = ("Alphabetic", "Ideographic", "Phonetic")
    key_groups, name_groups = (
        dict(zip(groups, text.split("="), strict=False)) for text in (key, name)
    )
    return matches("PN", key_groups, name_groups, tag=PATIENT_NAME)


# Universal matching, C.2.2.2.3.


@pytest.mark.parametrize("vr", ["LO", "PN", "DA", "TM", "DT", "UI", "IS", "US", "SQ"])
@pytest.mark.parametrize("key", [{}, {"Value": []}, {"Value": [None]}, {"Value": [""]}])
def test_an_empty_key_matches_everything_and_nothing(vr: str, key: dict[str, object]) -> None:
    matcher = compile_key(vr, PATIENT_ID, {"vr": vr, **key})

    assert matcher([])
    assert matcher(["anything"])


@pytest.mark.parametrize("vr", ["LO", "DA", "TM", "DT", "UI", "IS"])
@pytest.mark.parametrize("key", ["*", "**", " * "])
def test_stars_alone_match_everything_and_nothing(vr: str, key: str) -> None:
    assert matches(vr, key)
    assert matches(vr, key, "anything")


def test_stars_alone_match_every_name_and_none() -> None:
    assert matches("PN", {"Alphabetic": "*"}, tag=PATIENT_NAME)
    assert name_matches("*", "=山田")


@pytest.mark.parametrize("key", ["^", "^^^^", "*^*", "*^ ^=", "=^"])
def test_a_name_of_delimiters_alone_matches_every_name_and_none(key: str) -> None:
    assert name_matches(key, "")
    assert name_matches(key, "Doe^John")
    assert name_matches(key, "=山田")


def test_a_sequence_for_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidIdentifier, match="PatientName must be no sequence"):
        compile_key("PN", PATIENT_NAME, {"vr": "SQ", "Value": [{"00080100": {"vr": "SH"}}]})


@pytest.mark.parametrize("tag", [0x00080005, 0x00080052, 0x00080053, 0x00080201])
def test_what_only_qualifies_the_query_matches_everything(tag: int) -> None:
    assert matches("CS", "ISO_IR 100", tag=tag)


# Empty values.


@pytest.mark.parametrize(
    ("vr", "key"),
    [
        ("LO", "A"),
        ("LO", "A*"),
        ("LO", "?"),
        ("PN", {"Alphabetic": "A*"}),
        ("DA", "20240101"),
        ("DA", "20240101-"),
        ("TM", "-10"),
        ("DT", "2024"),
        ("UI", "1.2"),
        ("IS", "0"),
        ("US", 0),
        ("SQ", {"00080100": {"vr": "SH", "Value": ["A"]}}),
    ],
)
def test_an_attribute_without_a_value_matches_no_other_key(vr: str, key: object) -> None:
    assert not matches(vr, key)
    assert not matches(vr, key, None)


def test_two_double_quotes_match_the_empty_attribute_only() -> None:
    assert matches("LO", '""')
    assert matches("LO", '""', None)
    assert not matches("LO", '""', "A")
    assert matches("PN", {"Alphabetic": '""'}, tag=PATIENT_NAME)
    assert not matches("PN", {"Alphabetic": '""'}, {"Alphabetic": "A"}, tag=PATIENT_NAME)


# Single value matching, C.2.2.2.1.


@pytest.mark.parametrize("vr", ["AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT", "UR", "AS", "UI"])
def test_text_is_matched_exactly_and_in_its_case(vr: str) -> None:
    assert matches(vr, "Ab.1", "Ab.1")
    assert not matches(vr, "Ab.1", "AB.1")
    assert not matches(vr, "Ab.1", "Ab.12")


def test_padding_is_not_significant() -> None:
    assert matches("LO", " 123 ", "123")
    assert matches("LT", "note ", "note")
    assert not matches("LT", " note", "note")
    assert matches("UI", "1.2\0", "1.2")


@pytest.mark.parametrize("vr", ["IS", "DS"])
def test_number_strings_are_matched_as_numbers(vr: str) -> None:
    assert matches(vr, "1.50", "1.5")
    assert matches(vr, "007", "7")
    assert matches(vr, "1e2", "+100")
    assert not matches(vr, "1.5", "1.05")
    assert not matches(vr, "1", "one")


def test_binary_numbers_are_matched_as_numbers() -> None:
    assert matches("US", 512, 512)
    assert not matches("US", 512, 511)
    assert matches("FL", 0.5, 0.5)


def test_any_value_of_several_may_match() -> None:
    assert matches("CS", "AXIAL", "ORIGINAL", "PRIMARY", "AXIAL")
    assert matches("DS", "2", "1", "2.0")
    assert not matches("CS", "AXIAL", "ORIGINAL", None)


# List of UID matching, C.2.2.2.2, and multiple value matching, C.2.2.2.8.


def test_a_list_of_uids_matches_each_of_them() -> None:
    assert matches("UI", ["1.2", "1.3"], "1.3", tag=STUDY_UID)
    assert not matches("UI", ["1.2", "1.3"], "1.4", tag=STUDY_UID)


@pytest.mark.parametrize(
    ("vr", "keys", "value"),
    [
        ("CS", ["CT", "MR"], "MR"),
        ("SH", ["A", "B*"], "Bcd"),
        ("IS", ["1", "2"], "02"),
        ("DA", ["20240101", "20240301-"], "20240401"),
        ("PN", [{"Alphabetic": "A"}, {"Alphabetic": "B"}], {"Alphabetic": "b"}),
    ],
)
def test_several_values_of_a_key_match_each_of_them(
    vr: str, keys: list[object], value: object
) -> None:
    assert matches(vr, keys, value)
    assert not matches(vr, keys[:1], value)


# Wild card matching, C.2.2.2.4.


@pytest.mark.parametrize("vr", ["AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT"])
def test_wildcards_stand_for_any_characters(vr: str) -> None:
    assert matches(vr, "A*C?", "ABBBCD")
    assert matches(vr, "A*C?", "ACD")
    assert not matches(vr, "A*C?", "ABBBC")
    assert not matches(vr, "A*C?", "abbbcd")


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("?", "x", True),
        ("?", "xy", False),
        ("??", "xy", True),
        ("a*", "a", True),
        ("*a", "a", True),
        ("*a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*ab*ab*", "abab", True),
        ("*ab*ab*", "aab", False),
        ("*aab", "aaab", True),
        ("a?*c", "abc", True),
        ("a?*c", "ac", False),
        ("a**c", "abc", True),
        ("[a]*", "[a]b", True),
        ("[a]*", "ab", False),
        ("a.c*", "abc", False),
        ("*\\?", "x\\y", True),
        ("a*c", "a\nc", True),
        ("?", "\n", True),
    ],
)
def test_a_pattern_fits(pattern: str, text: str, expected: bool) -> None:
    assert matches("LT", pattern, text) is expected


@pytest.mark.parametrize("vr", ["UI", "UR", "AS"])
def test_other_text_has_no_wildcards(vr: str) -> None:
    assert matches(vr, "1.2?", "1.2?")
    assert not matches(vr, "1.2?", "1.23")
    assert not matches(vr, "1.2*", "1.23")


def test_many_stars_take_no_longer_than_few() -> None:
    text = "a" * 10_000
    started = time.monotonic()

    assert not matches("LT", "*a" * 31 + "*b", text)
    assert not matches("LT", "a*?a" * 16 + "b", text)

    assert time.monotonic() - started < 10


# Person names.


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("smith^john", "SMITH^John"),
        ("Muller^Jurgen", "Müller^Jürgen"),
        ("Müller^Jürgen", "MULLER^JURGEN"),
        ("JOSÉ", "Jose\u0301"),
        ("Strasse", "Straße"),
        ("Sorensen", "Sørensen"),
        ("ISTANBUL^IRMAK", "İstanbul^Irmak"),
        ("istanbul^irmak", "İSTANBUL^ırmak"),
        ("O'Brien", "O’Brien"),
        ("Łukasz", "lukasz"),
        ("ΜΑΡΊΑ^ΣΟΦΟΣ", "Μαρια^Σοφος"),
        ("Ёлкин", "ЕЛКИН"),
        ("ﾔﾏﾀﾞ", "ヤマダ"),
        ("ＳＭＩＴＨ", "smith"),
        ("שָׁלוֹם", "שלום"),
    ],
)
def test_names_are_matched_without_case_and_accents(key: str, name: str) -> None:
    assert name_matches(key, name)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("かき", "がぎ"),
        ("ハハ", "ババ"),
        ("호*", "홍^길동"),
        ("SMITH", "SMITH^JOHN"),
        ("SMITH^JOHN", "SMITH^JOHN^ADAM"),
        ("MUELLER", "MÜLLER"),
    ],
)
def test_different_names_do_not_match(key: str, name: str) -> None:
    assert not name_matches(key, name)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("SMITH", "SMITH^^^"),
        ("SMITH^JOHN^^", "SMITH^JOHN"),
        ("SMITH^*", "SMITH"),
        ("SMITH^J*^^", "SMITH^JOHN"),
        ("*^*^*", "SMITH"),
        ("SMITH ^ JOHN", "SMITH^JOHN"),
        ("SMITH^JOHN", " SMITH ^ JOHN "),
    ],
)
def test_empty_components_at_the_end_and_spaces_are_not_significant(key: str, name: str) -> None:
    assert name_matches(key, name)


@pytest.mark.parametrize(
    ("key", "name", "expected"),
    [
        ("smi*", "SMITH^JOHN", True),
        ("*john", "SMITH^JOHN", True),
        ("*h^j*", "SMITH^JOHN", True),
        ("sm?th*", "SMITH^JOHN", True),
        ("sm?th", "SMITH^JOHN", False),
        ("smith^?", "SMITH", False),
        ("m?ller", "Müller", True),
        ("*ß", "GROSS", True),
        ("?", "", False),
    ],
)
def test_wildcards_go_across_components(key: str, name: str, expected: bool) -> None:
    assert name_matches(key, name) is expected


JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"


@pytest.mark.parametrize("key", ["YAMADA*", "山田*", "山田^太郎", "やまだ*", "?田^太?"])
def test_a_key_of_one_group_matches_the_group_in_its_script(key: str) -> None:
    assert name_matches(key, JAPANESE)


@pytest.mark.parametrize("key", ["yamada*=山田*", "=山田^太郎", "==やまだ*", "*=*=やまだ^たろう"])
def test_every_group_of_a_key_matches_its_own(key: str) -> None:
    assert name_matches(key, JAPANESE)


@pytest.mark.parametrize(
    "key", ["yamada*=鈴木*", "=やまだ*", "==山田*", "suzuki*=山田*", "鈴木*", "suzuki"]
)
def test_a_name_fails_with_one_of_its_groups(key: str) -> None:
    assert not name_matches(key, JAPANESE)


def test_a_key_in_ascii_means_the_alphabetic_group() -> None:
    assert not name_matches("WANG4*", "Wang^XiaoDong=王^小东=Wang4^Xiao3Dong1")


def test_names_may_be_given_as_text() -> None:
    assert matches("PN", "yamada*=山田*", JAPANESE, tag=PATIENT_NAME)


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("SMITH^John^^", "smith^john"),
        (" Smith ^ John ", "smith^john"),
        ("Müßig^İdil", "mussig^idil"),
        ("Æsir^Þór", "aesir^thor"),
        ("홍^길동", "홍^길동"),
        ("^^", ""),
        ("", ""),
    ],
)
def test_a_folded_name_is_fit_for_an_index(name: str, folded: str) -> None:
    assert fold_person_name(name) == folded


# Range matching, C.2.2.2.5.


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("20240517", "20240517", True),
        ("20240517", "20240518", False),
        ("2024.05.17", "20240517", True),
        ("20240517", "2024.05.17", True),
        ("20240501-20240531", "20240501", True),
        ("20240501-20240531", "20240531", True),
        ("20240501-20240531", "20240601", False),
        ("20240501-20240531", "20240430", False),
        ("20240501 - 20240531", "20240502", True),
        ("2024.05.01-2024.05.31", "20240531", True),
        ("-20240531", "19000101", True),
        ("-20240531", "20240601", False),
        ("20240501-", "29990101", True),
        ("20240501-", "20240430", False),
        ("20240531-20240501", "20240515", False),
        ("202405", "20240517", True),
        ("2023-2024", "20241231", True),
        ("20240501-20240531", "May 2024", False),
        ("-", "20240501", True),
    ],
)
def test_dates_lie_in_their_ranges(key: str, value: str, expected: bool) -> None:
    assert matches("DA", key, value, tag=STUDY_DATE) is expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("10", "10", True),
        ("10", "1059", True),
        ("10", "105959.999999", True),
        ("10", "110000", False),
        ("1015", "10:15:30", True),
        ("10:15", "101530", True),
        ("101530", "101530.25", True),
        ("101530.25", "101530.250000", True),
        ("101530.25", "101530", False),
        ("101530", "10", False),
        ("1000-1100", "110059.5", True),
        ("1000-1100", "110100", False),
        ("1000-1100", "095959.999999", False),
        ("10-", "100000", True),
        ("-10", "105959", True),
        ("-10", "110000", False),
        ("235959", "235960", False),
        ("2359-", "235960", True),
        ("10", "10h", False),
    ],
)
def test_times_lie_in_their_ranges(key: str, value: str, expected: bool) -> None:
    assert matches("TM", key, value, tag=STUDY_TIME) is expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("2024", "20240517101500", True),
        ("202405", "20240517101500", True),
        ("20240517", "2024", False),
        ("2024", "2024", True),
        ("2023-2024", "20241231235959.999999", True),
        ("20240517-", "20240517", True),
        ("-20240517", "20240517235959", True),
        ("-20240517", "20240518", False),
        ("2024051710-2024051712", "202405171259", True),
        # Either clock unknown: the faces of the clocks are compared.
        ("2024051710+0200", "2024051710", True),
        ("2024051710", "2024051710-0500", True),
        # Both known: the moments are.
        ("2024051710+0200", "2024051709+0100", True),
        ("2024051710+0200", "2024051710+0100", False),
        ("20240517-0500", "202405180459+0000", True),
        ("20240517-0500", "202405180500+0000", False),
        ("20240517-0500-20240518-0500", "202405190459+0000", True),
        ("20240517-0500-20240518-0500", "202405190500+0000", False),
        ("20240517-0500-", "202405170459+0000", False),
        ("-20240517-0500", "202405180459+0000", True),
        ("20240517+0100-20240518+0100", "202405172200+0000", True),
        ("20240517-2024", "20241231", True),
        ("2024-0500", "20241231235959-0500", True),
        ("20241231235959+0000", "20250101005959+0100", True),
        ("0800+0000", "08000101000000+0000", True),
        ("2024-0500", "20240231000000+0000", True),
    ],
)
def test_moments_lie_in_their_ranges(key: str, value: str, expected: bool) -> None:
    assert matches("DT", key, value, tag=ACQUISITION_DATE_TIME) is expected


@pytest.mark.parametrize(
    ("vr", "key"),
    [
        ("DA", "today"),
        ("DA", "2024-05-17"),
        ("DA", "20241301"),
        ("DA", "20240501-31"),
        ("DA", "2024*"),
        ("TM", "25"),
        ("TM", "1"),
        ("TM", "10-11-12"),
        ("DT", "20240517T1015"),
        ("IS", "1*"),
        ("DS", "nan"),
        ("IS", "1-5"),
    ],
)
def test_a_key_that_cannot_be_meant_is_refused_without_its_value(vr: str, key: str) -> None:
    with pytest.raises(InvalidIdentifier) as caught:
        matches(vr, key, tag=STUDY_DATE)

    assert "StudyDate must be a" in str(caught.value)
    assert key not in str(caught.value)


def test_an_attribute_outside_the_catalogue_is_named_by_its_tag() -> None:
    with pytest.raises(InvalidIdentifier, match=r"\(0010,21D0\) must be a date"):
        matches("DA", "today", tag=0x001021D0)


# Combined date-time matching.


def combined(date: str, time: str, value: tuple[str, str]) -> bool:
    matcher = compile_date_and_time(STUDY_DATE, {"Value": [date]}, {"Value": [time]})
    return matcher([value[0]] if value[0] else [], [value[1]] if value[1] else [])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (("20240701", "0959"), False),
        (("20240701", "1000"), True),
        (("20240703", "0300"), True),
        (("20240705", "180059"), True),
        (("20240705", "1801"), False),
        (("20240705", ""), True),
        (("20240706", ""), False),
        (("", "1200"), False),
    ],
)
def test_two_ranges_are_one_range_of_moments(value: tuple[str, str], expected: bool) -> None:
    assert combined("20240701-20240705", "1000-1800", value) is expected


def test_open_ranges_are_combined_too() -> None:
    assert combined("20240701-", "1000-", ("20240702", "0100"))
    assert not combined("20240701-", "1000-", ("20240701", "0959"))
    assert combined("-20240705", "-1800", ("20240704", "2359"))
    assert not combined("-20240705", "-1800", ("20240705", "1801"))


def test_a_date_and_a_range_of_times_are_matched_on_their_own() -> None:
    assert combined("20240701", "1000-1800", ("20240701", "1500"))
    assert not combined("20240701-20240705", "10", ("20240703", "1100"))
    assert not combined("20240701", "1000-1800", ("20240702", "1500"))


def test_an_empty_date_or_time_does_not_restrict() -> None:
    assert combined("", "1000-1800", ("", "1200"))
    assert combined("20240701-20240705", "", ("20240705", "2300"))


# Sequence matching, C.2.2.2.6.


def coded(value: str, scheme: str = "99X") -> dict[str, object]:
    return {
        "00080100": {"vr": "SH", "Value": [value]},
        "00080102": {"vr": "SH", "Value": [scheme]},
    }


def test_an_item_must_match_all_keys_of_the_item() -> None:
    key = coded("P*")

    assert matches("SQ", key, coded("Q1"), coded("P1"))
    assert not matches("SQ", key, coded("Q1"), coded("P1", "DCM"))
    assert not matches("SQ", key, {"00080100": {"vr": "SH"}})


def test_an_item_without_restricting_keys_matches_a_missing_sequence() -> None:
    key = {"00080100": {"vr": "SH"}, "00080102": {"vr": "SH", "Value": ["*"]}}

    assert matches("SQ", key)
    assert matches("SQ", {})
    assert matches("SQ", key, coded("P1"))


def test_sequences_are_matched_inside_sequences() -> None:
    def requested(code: str) -> dict[str, object]:
        return {"00321064": {"vr": "SQ", "Value": [coded(code)]}}

    assert matches("SQ", requested("P?"), requested("Q1"), requested("P1"))
    assert not matches("SQ", requested("P?"), requested("Q1"))
