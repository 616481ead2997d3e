"""What commands read and write: states that go on after any break, dates, rates, peers, columns."""

import json
from contextlib import redirect_stdout
from datetime import date, timedelta
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenticular.cli import printing
from lenticular.cli.imports import days_of
from lenticular.cli.pace import Pace
from lenticular.cli.peers import peer_named
from lenticular.cli.state import State
from lenticular.errors import OperatorError

NAMES = st.text(min_size=1, max_size=20)


@given(st.lists(st.tuples(NAMES, st.integers()), max_size=8), st.integers(0, 400))
def test_a_state_that_was_cut_off_anywhere_goes_on(done: list[tuple[str, int]], cut: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        with State(path, {"to": "somebody"}) as state:
            for name, size in done:
                state.note(name, size=size)
            expected = dict(state.done)
        whole = path.read_bytes()
        path.write_bytes(whole[: max(0, len(whole) - cut)])
        with State(path, {"to": "somebody"}) as state:
            # What is left is the beginning of what was done, and never anything else.
            left = {name: facts["size"] for name, facts in state.done.items()}
            assert left.items() <= {(name, size) for name, size in done}
            for name, size in done:
                state.note(name, size=size)
        with State(path, {"to": "somebody"}) as state:
            assert state.done == expected
        with pytest.raises(OperatorError), State(path, {"to": "somebody else"}):
            pass


@given(st.dates(date(1990, 1, 1), date(2030, 1, 1)), st.integers(0, 400))
def test_days_are_all_those_from_the_first_to_the_last(first: date, length: int) -> None:
    last = first + timedelta(days=length)
    days = list(days_of(f"{first:%Y%m%d}-{last:%Y%m%d}"))
    assert (days[0], days[-1], len(days)) == (first, last, length + 1)
    if length:
        with pytest.raises(OperatorError):
            list(days_of(f"{last:%Y%m%d}-{first:%Y%m%d}"))


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 10)), max_size=20), st.floats(0.1, 100))
def test_a_rate_is_kept_on_average(work: list[tuple[int, float]], rate: float) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    pace = Pace(rate, clock=lambda: now, sleep=sleep)
    units = 0
    for count, seconds in work:
        now += seconds
        units += count
        pace.spend(count)
        assert units <= rate * now * (1 + 1e-9) + 1e-9


@given(
    st.from_regex(r"[A-Z][A-Z0-9_@]{0,14}[A-Z0-9]", fullmatch=True),
    st.from_regex(r"[a-z0-9.]{1,30}|\[[0-9a-f:]{2,20}\]", fullmatch=True),
    st.integers(1, 65535),
)
def test_a_peer_is_what_is_typed(aet: str, address: str, port: int) -> None:
    peer = peer_named(f"{aet}@{address}:{port}")
    assert (peer.aet, peer.address, peer.port) == (aet, address.strip("[]"), port)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"name": st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
             "count": st.integers(), "none": st.none()}
        ),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_nothing_of_a_row_is_cut_off(rows: list[dict[str, object]]) -> None:
    as_text, as_json = StringIO(), StringIO()
    with redirect_stdout(as_text):
        printing.print_rows(rows, as_json=False, columns=("name", "count", "none"))
    with redirect_stdout(as_json):
        printing.print_rows(rows, as_json=True)
    cells = [line.split() for line in as_text.getvalue().splitlines()[1:]]
    assert cells == [[str(row["name"]), str(row["count"])] for row in rows]
    assert [json.loads(line) for line in as_json.getvalue().splitlines()] == rows
