"""C-MOVE of a study to a destination that throws everything away, archive beside archive.

Each archive is filled by C-STORE, ours is then indexed (`lenticular rebuild-index`, since the sink
tells nobody of new objects), and one requestor asks for the study. Two spans are reported: the
whole of it, and that from the first pending response on, which leaves out how long the index takes
to answer; for ours that is moto, which is slow where DynamoDB is not.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from .mover import move_study
from .processes import ROOT, ServerFailed, tree_cpu_seconds
from .receivers import DESTINATION, DISCARDING, OURS, Receiver, Running, Site
from .sender import StoreAssociation, Uids, new_root
from .storing import started

_INDEX_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class MoveSample:
    """What one archive did in one round."""

    archive: str
    instances: int
    seconds: float
    first_seconds: float
    cpu_milliseconds: float

    @property
    def instances_per_second(self) -> float:
        """Instances a second over everything."""
        return self.instances / self.seconds

    @property
    def sent_per_second(self) -> float:
        """Instances a second after the first one."""
        return (self.instances - 1) / max(self.seconds - self.first_seconds, sys.float_info.min)


def sample_moves(
    archives: Sequence[Receiver], instances: int, rounds: int, site: Site, data_set: Path
) -> Iterator[MoveSample]:
    """Fill every archive in every round, and have it send what it has."""
    for turn in range(rounds):
        first = turn % len(archives)
        for archive in (*archives[first:], *archives[:first]):
            with ExitStack() as stack:
                destination = stack.enter_context(started(DISCARDING, site))
                own = replace(site, keep=True, destination_port=destination.port)
                running = stack.enter_context(started(archive, own))
                study = _fill(running, instances, data_set.read_bytes())
                if archive is OURS:
                    _index(running.environment)
                before = tree_cpu_seconds(running.pid)
                moved = move_study("127.0.0.1", running.port, running.aet, study, DESTINATION)
                spent = tree_cpu_seconds(running.pid) - before
                yield MoveSample(
                    archive.name,
                    moved.completed,
                    moved.seconds,
                    moved.first_seconds,
                    1000 * spent / instances,
                )


def _fill(running: Running, instances: int, data_set: bytes) -> str:
    """Store a study; return its Study Instance UID."""
    root = new_root()
    association = StoreAssociation("127.0.0.1", running.port, running.aet, data_set, root)
    for number in range(instances):
        association.store(Uids(root, instance_number=number))
    association.release()
    return Uids(root).study


def _index(environment: Mapping[str, str]) -> None:
    """Make the gateway's table hold what is in its bucket."""
    done = subprocess.run(
        [sys.executable, "-m", "lenticular.cli", "rebuild-index"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_INDEX_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"the index could not be made: {done.stderr.strip()}")
