"""From stored objects to the index: a batch for the index function, everything for a rebuild.

Objects are grouped by study, because that is what the index writes at a time and what can fail at a
time. An object that cannot be placed, or whose item the table will never take, is listed in
quarantine with the reason and is done with; one that cannot be read because AWS failed is failed,
and comes again.
"""

import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from .archive import (
    INSTANCES,
    OF_STUDIES,
    QUARANTINE,
    TRANSCODED,
    Archive,
    FormKey,
    LeftAloneKey,
    key_prefix,
    studies_of,
)
from .errors import InstanceMissing, ItemRefused, StoreUnavailable
from .header import Unplaceable, read_copy
from .index import Index
from .index_items import Converted, Copy, Item, members_of, registers_of, study_items
from .index_keys import PROCEDURE_PREFIX

_log: Final = logging.getLogger(__name__)
_PARALLEL_READS: Final = 16
_READS_AT_A_TIME: Final = 256
#: Another batch wrote the same study while a rebuild was at it; after this many times, give up.
_MOST_ROUNDS: Final = 20


class Became(Enum):
    """What became of an object that was to be indexed."""

    INDEXED = auto()
    QUARANTINED = auto()
    #: Deleted since it was named. Nothing is lost by not indexing what is not there.
    GONE = auto()
    #: AWS failed; it must be tried again.
    FAILED = auto()


def index_objects(archive: Archive, index: Index, keys: Iterable[str]) -> list[str]:
    """Make the index hold these objects; return the keys that must be tried again.

    Keys may repeat, be in any order, and have been indexed before.
    """
    outcomes = index_each(archive, index, keys)
    return [key for key, became in outcomes.items() if became is Became.FAILED]


def index_each(archive: Archive, index: Index, keys: Iterable[str]) -> dict[str, Became]:
    """Make the index hold these objects as `index_objects` does; say what became of each key."""
    wanted = list(dict.fromkeys(keys))
    try:
        with index.leased(studies_of(wanted)):
            return _index_each(archive, index, wanted)
    except StoreUnavailable as error:
        _log.warning("objects not indexed", extra={"reason": str(error), "objects": len(wanted)})
        return dict.fromkeys(wanted, Became.FAILED)


def _index_each(archive: Archive, index: Index, keys: Sequence[str]) -> dict[str, Became]:
    outcomes: dict[str, Became] = {}
    by_study: dict[str, dict[str, Copy]] = defaultdict(dict)
    for key, outcome in _read_all(archive, keys):
        match outcome:
            case Copy():
                by_study[outcome.key.study_instance_uid][key] = outcome
            case Unplaceable():
                outcomes[key] = _quarantined(index, key, outcome)
            case InstanceMissing():
                _log.warning("object is gone", extra={"object_key": key})
                outcomes[key] = Became.GONE
            case StoreUnavailable():
                _log.warning("object not read", extra={"object_key": key, "reason": str(outcome)})
                outcomes[key] = Became.FAILED
    for copies in by_study.values():
        outcomes |= _recorded(index, copies)
    return outcomes


def _quarantined(index: Index, key: str, why: Unplaceable) -> Became:
    """List an object in quarantine."""
    try:
        index.quarantine(key, why.reason, why.received, why.calling_ae_title)
    except StoreUnavailable as error:
        _log.warning("object not indexed", extra={"reason": str(error)})
        return Became.FAILED
    _log.warning("object quarantined", extra={"object_key": key, "reason": why.reason})
    return Became.QUARANTINED


def _recorded(index: Index, copies: Mapping[str, Copy]) -> dict[str, Became]:
    """Record copies of one study, by the keys of the objects that they were read from."""
    try:
        index.record(list(copies.values()))
    except StoreUnavailable as error:
        _log.warning("study not indexed", extra={"reason": str(error), "objects": len(copies)})
        return dict.fromkeys(copies, Became.FAILED)
    except ItemRefused as error:
        outcomes: dict[str, Became] = {}
        for key, copy in copies.items():
            if len(copies) > 1:
                # Only whose item is refused may suffer for it, so each on its own.
                outcomes |= _recorded(index, {key: copy})
            else:
                why = Unplaceable(str(error), copy.received, copy.calling_ae_title)
                outcomes[key] = _quarantined(index, str(copy.key), why)
        return outcomes
    return dict.fromkeys(copies, Became.INDEXED)


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
    months: set[str] = set()
    read = 0
    rebuilt: set[str] = set()
    for study, _ in archive.studies():
        rebuilt.add(study)
        read += _rebuild_study(archive, index, study, unplaceable, months)
        progress(read)
    for study in index.every_study_uid() - rebuilt:
        read += _rebuild_study(archive, index, study, unplaceable, months)
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
    for month in sorted(months):
        index.list_month(month)
    progress(read)
    return read


def rebuild_study(archive: Archive, index: Index, study: str) -> None:
    """Make the index hold exactly what the bucket holds of a study; raises as `rebuild`."""
    listed = {
        str(item["sk"])
        for each in OF_STUDIES
        for item in index.quarantined(key_prefix(each, study))
    }
    unplaceable: dict[str, Unplaceable] = {}
    months: set[str] = set()
    _rebuild_study(archive, index, study, unplaceable, months)
    for key, why in unplaceable.items():
        index.quarantine(key, why.reason, why.received, why.calling_ae_title)
    for key in listed - unplaceable.keys():
        index.release_from_quarantine(key)
    for month in months:
        index.list_month(month)


def _rebuild_study(
    archive: Archive,
    index: Index,
    study: str,
    unplaceable: dict[str, Unplaceable],
    months: set[str],
) -> int:
    """Make one study's items what its objects say; return the number of objects read."""
    with index.leased([study]):
        return _rebuild_leased(archive, index, study, unplaceable, months)


def _rebuild_leased(
    archive: Archive,
    index: Index,
    study: str,
    unplaceable: dict[str, Unplaceable],
    months: set[str],
) -> int:
    """Do what `_rebuild_study` does.

    The items are read before the bucket is listed. An object is always there before its item, so an
    item whose object is not in that listing names nothing and may go. But one that went and has
    come again since may have found its item there and changed nothing: so what was removed is
    looked for once more. Where the table takes an item never, what it is too much of is left out of
    the study, and the study done again.
    """
    refused: dict[str, Unplaceable] = {}
    rounds = 0
    while rounds < _MOST_ROUNDS:
        # Performed procedure steps are in objects of their own (`procedures.rebuild`).
        present = {
            str(item["sk"]): item
            for item in index.partition(study)
            if not str(item["sk"]).startswith(PROCEDURE_PREFIX)
        }
        try:
            copies, read, listed = _read_study(archive, study, unplaceable)
        except InstanceMissing:
            # Retired since it was listed, or deleted: what it is now, the next listing says.
            rounds += 1
            continue
        copies = [copy for copy in copies if str(copy.key) not in refused]
        wanted = study_items(copies, newest=index.newest_shown)
        months.update(str(item["study_month"]) for item in wanted if "study_month" in item)
        replaced, removes = [], False
        try:
            for item in wanted:
                was = present.pop(str(item["sk"]), None)
                removes |= bool(was and members_of(was) - members_of(item))
                replaced.append(_replaced(index, item, was))
        except _Refused as error:
            # Each time there is a copy less, so this ends.
            copy = _most_of(error.item, copies)
            _log.warning(
                "object quarantined", extra={"object_key": str(copy.key), "reason": str(error)}
            )
            refused[str(copy.key)] = Unplaceable(str(error), copy.received, copy.calling_ae_title)
            continue
        removed = [index.remove(item) for item in present.values()]
        if all(replaced + removed) and not (
            (removes or removed) and listed != {*_keys_of(archive, study)}
        ):
            unplaceable.update(refused)
            return read
        rounds += 1
    raise StoreUnavailable("a study is being written too fast to be rebuilt")


class _Refused(Exception):
    """The table will never take `item`."""

    def __init__(self, error: ItemRefused, item: Item) -> None:
        super().__init__(str(error))
        self.item = item


def _replaced(index: Index, item: Item, present: Item | None) -> bool:
    try:
        return index.replace(item, present)
    except ItemRefused as error:
        raise _Refused(error, item) from error


def _most_of(item: Item, copies: Sequence[Copy]) -> Copy:
    """Return the copy without which an item that is refused becomes smallest.

    The item of an instance shows one copy. That of a series or study has attributes of several.
    """
    shown = [copy for copy in copies if str(copy.key) == item.get("object_key")]
    if shown:
        return shown[0]
    taken: dict[str, int] = defaultdict(int)
    if "stamps" in item:
        registers = registers_of(item)
        for tag, stamp in registers.stamps.items():
            taken[stamp] += len(json.dumps(registers.elements[tag]))
    of_item = [copy for copy in copies if copy.stamp in taken] or copies
    return max(of_item, key=lambda copy: (taken[copy.stamp], copy.stamp))


def _keys_of(archive: Archive, study: str) -> Iterator[str]:
    return itertools.chain.from_iterable(
        archive.keys(key_prefix(each, study)) for each in OF_STUDIES
    )


def _read_study(
    archive: Archive, study: str, unplaceable: dict[str, Unplaceable]
) -> tuple[list[Copy], int, set[str]]:
    """Read every content of a study; return how many objects that took, and all that were listed.

    Raises:
        InstanceMissing: an object went after it was listed.
        StoreUnavailable: some could not be read.
    """
    # Forms first: an original that goes after them, and so is in neither, has changed its item.
    made = list(archive.keys(key_prefix(TRANSCODED, study)))
    became, one_form = _conversions(archive, made)
    keys = list(archive.keys(key_prefix(INSTANCES, study)))
    listed = {*made, *keys}
    retired = one_form.keys() - keys
    keys += [one_form[original] for original in retired]
    copies: list[Copy] = []
    for key, outcome in _read_all(archive, keys):
        match outcome:
            case Copy():
                of_copy = became.get(str(outcome.key), Converted())
                if str(outcome.key) in retired:
                    of_copy = replace(of_copy, retired=True)
                # One that was sent again after its retirement is as old as its forms say.
                dates = (form.received for form in of_copy.forms)
                copies.append(replace(outcome.first_received(*dates), converted=of_copy))
            case Unplaceable():
                unplaceable[key] = outcome
            case InstanceMissing() | StoreUnavailable():
                raise outcome
    return copies, len(keys), listed


def _conversions(
    archive: Archive, keys: Iterable[str]
) -> tuple[dict[str, Converted], dict[str, str]]:
    """Read what became of the originals of a study, by the keys of all that was made of them.

    Names one form of each that has any.
    """
    became: dict[str, Converted] = defaultdict(Converted)
    one_form: dict[str, str] = {}
    for key in keys:
        if form_key := FormKey.parse(key):
            original = str(form_key.original)
            try:
                form = archive.form(key)
            except InstanceMissing:
                continue
            known = became[original]
            became[original] = replace(known, forms=(*known.forms, form))
            one_form[original] = key
        elif left_alone := LeftAloneKey.parse(key):
            original = str(left_alone.original)
            became[original] = replace(became[original], left_alone=left_alone.reason)
    return became, one_form


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
