"""The operator's commands, each in its own process."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


def lenticular(
    environment: Mapping[str, str], *arguments: str | Path, seconds: float = 120
) -> "subprocess.CompletedProcess[str]":
    """Run a command and wait for its end; no command ends with a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "lenticular.cli", *map(str, arguments)],
        env={**environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'layers/core'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done
