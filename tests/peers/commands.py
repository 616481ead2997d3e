"""The operator's commands, each in its own process."""

import subprocess
import sys
from collections.abc import Mapping

from tests.peers.node_process import ROOT


def lenticular(
    environment: Mapping[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "lenticular.cli", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
