"""What associations cost the gateway that are open and do nothing, as modalities leave them."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from .association import Association
from .processes import tree_cpu_seconds, tree_resident_bytes
from .receivers import Receiver, Running, Site
from .sender import CT_IMAGE_STORAGE
from .storing import started

_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
_WATCHED_SECONDS: Final = 5.0
#: At least one for each worker.
_FIRST: Final = 4


@dataclass(frozen=True, slots=True)
class Idle:
    """Share of one core that all associations take, and resident memory of each and without any."""

    receiver: str
    associations: int
    core_share: float
    bytes_each: float
    bytes_without: int


def idle(receiver: Receiver, associations: int, site: Site) -> Idle:
    """Open associations, and watch the gateway while they do nothing."""
    with started(receiver, site) as running, ExitStack() as stack:
        without = tree_resident_bytes(running.pid)
        # What the first association brings with it is not every association's.
        for _ in range(_FIRST):
            stack.callback(_associate(running).close)
        resident = tree_resident_bytes(running.pid)
        for _ in range(associations - _FIRST):
            stack.callback(_associate(running).close)
        grown = tree_resident_bytes(running.pid) - resident
        before = tree_cpu_seconds(running.pid)
        time.sleep(_WATCHED_SECONDS)
        spent = tree_cpu_seconds(running.pid) - before
    return Idle(
        receiver.name,
        associations,
        spent / _WATCHED_SECONDS,
        grown / max(1, associations - _FIRST),
        without,
    )


def _associate(running: Running) -> Association:
    return Association(
        "127.0.0.1",
        running.port,
        running.aet,
        abstract_syntax=CT_IMAGE_STORAGE,
        transfer_syntax=_EXPLICIT_VR_LITTLE_ENDIAN,
    )
