"""How long it takes from the acknowledgement of an instance until a C-FIND returns it.

The node is the real one, offline: moto tells the queue of each object, the index function reads
the queue in batches as the template says, the gateway answers from the table. One association
stores at a steady pace and notes when each C-STORE-RSP came. Another one, in another thread, asks
ten times a second at IMAGE level for the instances of every series that still misses one, and notes
when each SOP Instance UID first came in a response. So the time of an instance is too long by up to
one turn of asking, which is reported beside it.

Series are short, so that a turn stays short; the study is one, as in a real examination.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association

from tests.peers.node_process import Node, running_node

from .association import CALLING_AET, PeerFailed
from .sender import StoreAssociation, Uids, new_root

_SERIES_INSTANCES: Final = 25
#: What the last instance gets before it counts as lost.
_PATIENCE_SECONDS: Final = 60.0
#: Asking all the time would take moto from the index function, and measure that.
_TURN_SECONDS: Final = 0.1
_PENDING: Final = frozenset({0xFF00, 0xFF01})
_STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"


@dataclass(frozen=True, slots=True)
class Findability:
    """Seconds from acknowledgement to findable of each instance that was found."""

    seconds: list[float]
    lost: int
    stored_per_second: float
    turns: list[float]


@dataclass
class _Progress:
    """What both threads know: when each SOP Instance UID was acknowledged and when found."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    found: dict[str, float] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None


def findability(
    data_set: bytes, folder: Path, instances: int, instances_per_second: float
) -> Findability:
    """Store instances into a node of its own, and watch for them.

    Raises:
        PeerFailed: the node refused to store or to answer.
    """
    with running_node(folder / "node.log") as node:
        return _watch(node, data_set, instances, instances_per_second)


def _watch(node: Node, data_set: bytes, instances: int, instances_per_second: float) -> Findability:
    progress = _Progress()
    root = new_root()
    uids = [
        Uids(root, series_number=number // _SERIES_INSTANCES, instance_number=number)
        for number in range(instances)
    ]
    storing = threading.Thread(
        target=_store, args=(node, data_set, uids, instances_per_second, progress)
    )
    with _finder(node) as finder:
        storing.start()
        turns = list(_turns(finder, uids, progress))
    storing.join()
    if progress.failure is not None:
        raise progress.failure
    times = list(progress.acknowledged.values())
    return Findability(
        [
            max(0.0, progress.found[uid] - acknowledged)
            for uid, acknowledged in progress.acknowledged.items()
            if uid in progress.found
        ],
        len(progress.acknowledged.keys() - progress.found.keys()),
        (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0,
        turns,
    )


def _store(
    node: Node,
    data_set: bytes,
    uids: list[Uids],
    instances_per_second: float,
    progress: _Progress,
) -> None:
    """Store at a pace; one that the node cannot keep becomes the pace it can."""
    try:
        association = StoreAssociation(node.host, node.port, node.aet, data_set, uids[0].root)
        began = time.monotonic()
        for number, each in enumerate(uids):
            time.sleep(max(0.0, began + number / instances_per_second - time.monotonic()))
            association.store(each)
            progress.acknowledged[each.instance] = time.monotonic()
        association.release()
    except (OSError, PeerFailed) as error:
        progress.failure = error
    finally:
        progress.ended.set()


def _turns(finder: Association, uids: list[Uids], progress: _Progress) -> Iterator[float]:
    """Ask until everything acknowledged has been found; yield the seconds that each turn took."""
    series_of = {each.instance: each for each in uids}
    deadline: float | None = None
    while True:
        began = time.monotonic()
        # Read before what is missing is: nothing is acknowledged after it.
        ended = progress.ended.is_set()
        missing = {
            series_of[uid].series: series_of[uid]
            for uid in progress.acknowledged.copy().keys() - progress.found.keys()
        }
        if ended:
            deadline = deadline or began + _PATIENCE_SECONDS
            if not missing or began > deadline:
                return
        for each in missing.values():
            for uid in _instances_of(finder, each):
                progress.found.setdefault(uid, time.monotonic())
        spent = time.monotonic() - began
        if missing:
            yield spent
        time.sleep(max(0.0, _TURN_SECONDS - spent))


@contextmanager
def _finder(node: Node) -> Iterator[Association]:
    ae = AE(ae_title=CALLING_AET)
    ae.add_requested_context(_STUDY_ROOT_FIND)
    finder = ae.associate(node.host, node.port, ae_title=node.aet)
    if not finder.is_established:
        raise PeerFailed("refused an association for C-FIND")
    try:
        yield finder
    finally:
        finder.release()


def _instances_of(finder: Association, uids: Uids) -> Iterator[str]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = uids.study
    identifier.SeriesInstanceUID = uids.series
    identifier.SOPInstanceUID = ""
    for status, answer in finder.send_c_find(identifier, _STUDY_ROOT_FIND):
        if "Status" not in status:
            raise PeerFailed("ended the association instead of answering a C-FIND-RQ")
        if status.Status in _PENDING and answer is not None:
            yield str(answer.SOPInstanceUID)
        elif status.Status != 0:
            raise PeerFailed(f"answered a C-FIND-RQ with status {status.Status:04X}")
