"""The head of the files we keep."""

import hashlib

import pytest

import lenticular
from lenticular import part10
from lenticular.part10 import file_head


def test_the_head_of_a_file_is_the_same_in_every_release(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lenticular, part10):
        monkeypatch.setattr(module, "IMPLEMENTATION_VERSION_NAME", "LENTICULAR_999", raising=False)
    head = file_head("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1")
    # By its SHA-256 a content is known again. It must be this one, whatever else changes.
    assert (
        hashlib.sha256(head).hexdigest()
        == "cc7170b715abb3e7272c411e9ce2458c300a41933efcb96df3a9d044b2b0bb68"
    )
