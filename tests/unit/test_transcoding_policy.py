"""The rules of the internal storage format lead where they say, by each condition there is."""

import pytest

from lenticular.transcoding_policy import TARGETS, Facts, TranscodingPolicy

CT, SEG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.66.4"
EXPLICIT, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
FACTS = Facts("CT", CT, EXPLICIT, 16)


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        ("modality=CT", True),
        ("modality=MR,CT", True),
        ("modality=MR", False),
        (f"sop-class={CT}", True),
        (f"sop-class={SEG},{CT}", True),
        (f"sop-class={SEG}", False),
        (f"syntax={EXPLICIT}", True),
        (f"syntax={JPEG_2000}", False),
        ("bits=16", True),
        ("bits=8", False),
        (f"modality=CT sop-class={CT} syntax={EXPLICIT} bits=8,16", True),
        (f"modality=CT sop-class={SEG}", False),
        (f"syntax={EXPLICIT} bits=8", False),
    ],
)
def test_a_rule_fits_when_all_of_its_conditions_hold(condition: str, fits: bool) -> None:
    policy = TranscodingPolicy.parse(f"{condition} -> rle; none")
    assert policy.target(FACTS) == (TARGETS["rle"] if fits else None)


@pytest.mark.parametrize("name", TARGETS)
def test_every_format_can_be_led_to_and_the_first_rule_that_fits_leads(name: str) -> None:
    policy = TranscodingPolicy.parse(f"modality=CT -> {name}; sop-class={CT} -> deflate; rle")
    assert policy.target(FACTS) == TARGETS[name]
    assert policy.target(Facts("PT", CT, EXPLICIT, 16)) == TARGETS["deflate"]
    assert policy.target(Facts("PT", SEG, EXPLICIT, 1)) == TARGETS["rle"]


def test_without_a_rule_that_fits_everything_stays() -> None:
    policy = TranscodingPolicy.parse(f"sop-class={SEG} -> deflate")
    assert policy.target(FACTS) is None
    assert not policy.keeps_everything
    assert TranscodingPolicy.parse("none").keeps_everything


@pytest.mark.parametrize(
    "text",
    [
        "zip",
        "modality=CT -> zip",
        "-> rle",
        "sop-class=CT -> rle",
        "syntax= -> rle",
        "size=1 -> rle",
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        TranscodingPolicy.parse(text)
