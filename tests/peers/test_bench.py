"""The benchmark measures every subject; what it measures is nobody's test."""

import subprocess
import sys
from typing import Final

import pytest

from tests.bench.processes import ROOT

#: A word of each table, in the order they are printed.
_SUBJECTS: Final = (
    "storescp --fork",
    "of the bound",
    "of one core",
    "C-GET",
    "median s",
    "accession",
    "growth MB",
    "references",
    "HTJ2K RPCL",
    "rebuild-index, nothing to do",
)


@pytest.mark.slow
def test_a_little_of_everything_is_measured() -> None:
    little = "--rounds 1 --instances 2 --associations 1 --idle 2 --findable 2 --studies 20"
    least = "--matches 20 --references 1 --images 1 --objects 4"
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *little.split(), *least.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    at = 0
    for subject in _SUBJECTS:
        at = done.stdout.index(subject, at)
