"""What a command has done is in a file, and what keeps it from getting there is told."""

import resource
from pathlib import Path

import pytest

from lenticular.cli.state import State


def test_a_disk_that_is_full_is_told_by_the_name_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "state"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with State(file, {"send to": "A@127.0.0.1:104"}) as state:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large") as failed:
                state.note("1.2.3")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert failed.value.filename == str(file)
