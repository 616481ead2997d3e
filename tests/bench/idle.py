"""What associations cost the gateway that are open and do nothing, as modalities leave them."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .processes import tree_cpu_seconds
from .receivers import OURS, Running, Site
from .requestor import Association
from .sender import CT_IMAGE_STORAGE
from .storing import started

_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
_WATCHED_SECONDS: Final = 5.0
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Idle:
    """Share of one core that all associations take, and resident memory of each."""

    associations: int
    core_share: float
    bytes_each: float


def idle(associations: int, site: Site) -> Idle:
    """Open associations, and watch the gateway while they do nothing."""
    with started(OURS, site) as running, ExitStack() as stack:
        # What the first association brings with it is not every association's.
        stack.callback(_associate(running).close)
        resident = _resident_bytes(running.pid)
        for _ in range(associations - 1):
            stack.callback(_associate(running).close)
        grown = _resident_bytes(running.pid) - resident
        before = tree_cpu_seconds(running.pid)
        time.sleep(_WATCHED_SECONDS)
        spent = tree_cpu_seconds(running.pid) - before
    return Idle(associations, spent / _WATCHED_SECONDS, grown / max(1, associations - 1))


def _associate(running: Running) -> Association:
    return Association(
        "127.0.0.1",
        running.port,
        running.aet,
        abstract_syntax=CT_IMAGE_STORAGE,
        transfer_syntax=_EXPLICIT_VR_LITTLE_ENDIAN,
    )


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmRSS":
            return int(value.split()[0]) * _KIB
    return 0
