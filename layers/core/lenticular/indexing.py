"""From stored objects to the index: a batch for the index function, everything for a rebuild.

Objects are grouped by study, because that is what the index writes at a time and what can fail at a
time. An object that cannot be placed is listed in quarantine with the reason and is done with; one
that cannot be read because AWS failed is failed, and comes again.
"""

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from .archive import INSTANCES, QUARANTINE, Archive
from .errors import InstanceMissing, StoreUnavailable
from .header import Unplaceable, read_copy
from .index import Index
from .index_items import PROCEDURE_PREFIX, Copy, study_items

_log: Final = logging.getLogger(__name__)
_PARALLEL_READS: Final = 16
_READS_AT_A_TIME: Final = 256
#: Another batch wrote the same study while a rebuild was at it; after this many times, give up.
_MOST_ROUNDS: Final = 20


def index_objects(archive: Archive, index: Index, keys: Iterable[str]) -> list[str]:
    """Make the index hold these objects; return the keys that must be tried again.

    Keys may repeat, be in any order, and have been indexed before.
    """
    failed: list[str] = []
    by_study: dict[str, list[Copy]] = defaultdict(list)
    for key, outcome in _read_all(archive, dict.fromkeys(keys)):
        match outcome:
            case Copy():
                by_study[outcome.key.study_instance_uid].append(outcome)
            case Unplaceable():
                try:
                    index.quarantine(
                        key, outcome.reason, outcome.received, outcome.calling_ae_title
                    )
                except StoreUnavailable as error:
                    _log.warning("object not indexed", extra={"reason": str(error)})
                    failed.append(key)
                else:
                    _log.warning(
                        "object quarantined", extra={"object_key": key, "reason": outcome.reason}
                    )
            case InstanceMissing():
                # Deleted since the event. Nothing is lost by not indexing what is not there.
                _log.warning("object is gone", extra={"object_key": key})
            case StoreUnavailable():
                _log.warning("object not read", extra={"object_key": key, "reason": str(outcome)})
                failed.append(key)
    for copies in by_study.values():
        try:
            index.record(copies)
        except StoreUnavailable as error:
            _log.warning("study not indexed", extra={"reason": str(error), "objects": len(copies)})
            failed += [str(copy.key) for copy in copies]
    return failed


def rebuild(
    archive: Archive, index: Index, progress: Callable[[int], None] = lambda _: None
) -> int:
    """Make the index hold exactly what the bucket holds; return the number of objects read.

    Works on an empty table and on one in use: what is right already is not written, what names no
    object is removed, and a study that ingest writes meanwhile is done again. `progress` is told
    the number of objects read so far.

    Raises:
        StoreUnavailable: stopped half-way; running it again is safe.
    """
    listed = {str(item["sk"]) for item in index.quarantined()}
    unplaceable: dict[str, Unplaceable] = {}
    read = 0
    rebuilt: set[str] = set()
    for study, _ in itertools.groupby(map(_study_of, archive.keys(INSTANCES))):
        rebuilt.add(study)
        read += _rebuild_study(archive, index, study, unplaceable)
        progress(read)
    for study in index.every_study_uid() - rebuilt:
        read += _rebuild_study(archive, index, study, unplaceable)
    for key, outcome in _read_all(archive, archive.keys(QUARANTINE)):
        read += 1
        if isinstance(outcome, StoreUnavailable):
            raise outcome
        if isinstance(outcome, Unplaceable):
            unplaceable[key] = outcome
    for key, outcome in unplaceable.items():
        index.quarantine(key, outcome.reason, outcome.received, outcome.calling_ae_title)
    for key in listed - unplaceable.keys():
        index.release_from_quarantine(key)
    progress(read)
    return read


def _rebuild_study(
    archive: Archive, index: Index, study: str, unplaceable: dict[str, Unplaceable]
) -> int:
    """Make one study's items what its objects say; return the number of objects read.

    The items are read before the bucket is listed. An object is always there before its item, so an
    item whose object is not in that listing names nothing and may go.
    """
    for _ in range(_MOST_ROUNDS):
        # Performed procedure steps are in objects of their own (`procedures.rebuild`).
        present = {
            str(item["sk"]): item
            for item in index.partition(study)
            if not str(item["sk"]).startswith(PROCEDURE_PREFIX)
        }
        keys = list(archive.keys(f"{INSTANCES}{study}/"))
        copies: list[Copy] = []
        for key, outcome in _read_all(archive, keys):
            match outcome:
                case Copy():
                    copies.append(outcome)
                case Unplaceable():
                    unplaceable[key] = outcome
                case StoreUnavailable():
                    raise outcome
        wanted = study_items(copies, newest=index.newest_shown)
        replaced = [index.replace(item, present.pop(str(item["sk"]), None)) for item in wanted]
        removed = [index.remove(item) for item in present.values()]
        if all(replaced + removed):
            return len(keys)
    raise StoreUnavailable("a study is being written too fast to be rebuilt")


def _read_all(
    archive: Archive, keys: Iterable[str]
) -> Iterator[tuple[str, Copy | Unplaceable | InstanceMissing | StoreUnavailable]]:
    """Read objects in parallel; a failure is the outcome of its own object only."""

    def read(key: str) -> Copy | Unplaceable | InstanceMissing | StoreUnavailable:
        try:
            return read_copy(archive, key)
        except (InstanceMissing, StoreUnavailable) as error:
            return error

    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        # Not all at once: a bucket of a million keys must not become a million futures.
        remaining = iter(keys)
        while some := list(itertools.islice(remaining, _READS_AT_A_TIME)):
            yield from zip(some, pool.map(read, some), strict=True)


def _study_of(key: str) -> str:
    return key.removeprefix(INSTANCES).partition("/")[0]
