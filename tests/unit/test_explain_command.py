"""`lenticular explain` prints the plan of a query as a person would type it for findscu."""

import json

import pytest
from click.testing import CliRunner

from lenticular.cli import main


def _explain(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["explain", *arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["-k", "PatientName=Müller^J*"], ["plan  by-name", "by    prefix: muller^j"]),
        (
            ["-k", "StudyDate=20260101-", "-k", "StudyInstanceUID"],
            ["plan  by-date", "by    first: 20260101", "by    last: open"],
        ),
        (
            ["-k", "0020,000D=1.2\\1.3", "--level", "SERIES", "--relational"],
            [
                "plan  study-uid",
                "by    study instance uids: 1.2, 1.3",
                "then  the series of each study that matches",
            ],
        ),
        (["--model", "patient-root", "--level", "PATIENT"], ["plan  every-study"]),
    ],
)
def test_a_plan_is_printed(arguments: list[str], lines: list[str]) -> None:
    assert _explain(*arguments) == (0, "\n".join(lines) + "\n")


def test_a_plan_is_printed_as_json() -> None:
    code, printed = _explain("-k", "AccessionNumber=A1", "--json")
    assert code == 0
    assert json.loads(printed) == {
        "plan": "by-accession",
        "by": {"name": "by-accession", "key_name": "accession_number", "values": ["A1"]},
        "then": [],
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["-k", "PatientNom=A"], "PatientNom"), (["--level", "SERIES"], "StudyInstanceUID")],
)
def test_a_query_that_would_be_refused_is_one_sentence(arguments: list[str], named: str) -> None:
    code, printed = _explain(*arguments)
    assert code == 2
    assert named in printed
    assert len(printed.splitlines()) == 1
