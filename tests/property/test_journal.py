"""What an entry of the spool says of its file returns as it went, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal_entry import EntryUnreadable, Trailer

trailers = st.builds(
    Trailer,
    key=st.text(max_size=400),
    metadata=st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=5),
    file_bytes=st.integers(0, 300),
)


def entry(trailer: Trailer) -> bytes:
    return bytes(trailer.file_bytes) + trailer.encode()


@given(trailers, st.integers(0, 300))
def test_a_trailer_returns_as_it_went_however_much_before_it_is_read(
    trailer: Trailer, before: int
) -> None:
    whole = entry(trailer)
    tail = whole[max(0, trailer.file_bytes - before) :]
    assert Trailer.decode(tail, len(whole)) == trailer


@given(trailers, st.data())
def test_a_trailer_with_a_changed_byte_is_refused(trailer: Trailer, data: st.DataObject) -> None:
    whole = bytearray(entry(trailer))
    at = data.draw(st.integers(trailer.file_bytes, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EntryUnreadable):
        Trailer.decode(bytes(whole), len(whole))


@given(trailers, st.data())
def test_an_entry_that_breaks_off_is_refused(trailer: Trailer, data: st.DataObject) -> None:
    whole = entry(trailer)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(EntryUnreadable):
        Trailer.decode(part, len(part))


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(content: bytes) -> None:
    with pytest.raises(EntryUnreadable):
        Trailer.decode(content, len(content))
