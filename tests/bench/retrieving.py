"""C-MOVE and C-GET of a study whose destination throws everything away, archive beside archive.

Each archive is filled by C-STORE, ours is then indexed (`lenticular rebuild-index`, since the sink
tells nobody of new objects), and one requestor asks for the study, first by C-MOVE to somebody who
throws it away and then by C-GET for itself. Ours does it a second time from an S3 that takes its
time for each GET.

Two spans are reported: the whole of it, and that from the first pending response on, which leaves
out how long it takes to find the study; what the table takes for the study's instances, which are
read meanwhile, is measured beside it.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.commands import lenticular

from .mover import get_study, move_study
from .processes import ServerFailed, tree_cpu_seconds
from .receivers import DESTINATION, DISCARDER, OURS, Receiver, Running, Site
from .sender import StoreAssociation, Uids, new_root
from .storing import started

_INDEX_SECONDS: Final = 600
#: What is asked for first finds caches and connections cold, in every archive, and does not count.
_WARM_UP: Final = ("C-MOVE",)
_OPERATIONS: Final = ("C-MOVE", "C-GET")


@dataclass(frozen=True, slots=True)
class RetrieveSample:
    """What one archive did in one round."""

    operation: str
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
        """Instances a second after the first response."""
        return self.instances / max(self.seconds - self.first_seconds, sys.float_info.min)


def sample_retrievals(  # noqa: PLR0913, PLR0917 - what is measured, how often and where
    archives: Sequence[Receiver],
    instances: int,
    rounds: int,
    site: Site,
    data_set: Path,
    get_seconds: float,
) -> Iterator[RetrieveSample]:
    """Fill every archive in every round, and have it send what it has."""
    slow = f"{OURS.name}, {1000 * get_seconds:g} ms a GET"
    entries = [(archive, archive.name, 0.0) for archive in archives]
    entries += [(OURS, slow, get_seconds)] if OURS in archives else []
    for turn in range(rounds):
        first = turn % len(entries)
        for archive, name, seconds in (*entries[first:], *entries[:first]):
            with ExitStack() as stack:
                destination = stack.enter_context(started(DISCARDER, site))
                own = replace(
                    site, keep=True, destination_port=destination.port, get_seconds=seconds
                )
                running = stack.enter_context(started(archive, own))
                study = _fill(running, instances, data_set.read_bytes())
                if archive is OURS:
                    _index(running.environment)
                for operation in _WARM_UP:
                    _sample(running, operation, name, study)
                for operation in _OPERATIONS:
                    yield _sample(running, operation, name, study)


def _sample(running: Running, operation: str, name: str, study: str) -> RetrieveSample:
    before = tree_cpu_seconds(running.pid)
    where = ("127.0.0.1", running.port, running.aet, study)
    done = get_study(*where) if operation == "C-GET" else move_study(*where, DESTINATION)
    spent = tree_cpu_seconds(running.pid) - before
    return RetrieveSample(
        operation,
        name,
        done.completed,
        done.seconds,
        done.first_seconds,
        1000 * spent / done.completed,
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
    """Make the gateway's table hold what is in its bucket: that of an earlier round has gone."""
    done = lenticular(environment, "rebuild-index", "--yes", seconds=_INDEX_SECONDS)
    if done.returncode != 0:
        raise ServerFailed(f"the index could not be made: {done.stderr.strip()}")
