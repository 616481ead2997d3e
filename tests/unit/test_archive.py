"""Keys and metadata of the archive's objects."""

from urllib.parse import unquote

import pytest

from lenticular.archive import CALLED_AE_TITLE, CALLING_AE_TITLE, InstanceKey, provenance

SHA256 = "a" * 64


def test_a_key_can_be_read_again() -> None:
    key = InstanceKey("1.2", "1.2.3", "1.2.3.4", SHA256)
    assert str(key) == f"instances/1.2/1.2.3/1.2.3.4/{SHA256}.dcm"
    assert InstanceKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        f"quarantine/1.2.3/{SHA256}.dcm",
        f"instances/1.2/1.2.3/{SHA256}.dcm",
        f"instances/1.2/../1.2.3/{SHA256}.dcm",
        "instances/1.2/1.2.3/1.2.3.4/short.dcm",
        f"instances/1.2/1.2.3/1.2.3.4/{SHA256}",
    ],
)
def test_other_keys_are_of_no_instance(key: str) -> None:
    assert InstanceKey.parse(key) is None


def test_ae_titles_survive_as_headers_whatever_spaces_they_have() -> None:
    metadata = provenance("CT  1", "A/B+C%20")
    assert unquote(metadata[CALLING_AE_TITLE]) == "CT  1"
    assert unquote(metadata[CALLED_AE_TITLE]) == "A/B+C%20"
    assert " " not in metadata[CALLING_AE_TITLE] + metadata[CALLED_AE_TITLE]
