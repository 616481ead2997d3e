"""Whether instances are safe: in the index, in the bucket, and with the content that came.

Ten thousand references are mostly a few series. So an instance is looked up by its UID only to find
its series; the rest of the series comes from the index page by page, and what the bucket holds of
it by listing, a thousand objects a request:

    10,000 references of one series    1 lookup, the series' items, 10 listings

An object is the one that was indexed when size and ETag are the same: S3 changes the ETag with the
content, and has compared a checksum when the object was written. Where the ETag is not known, or
another (an object that was copied gets one), the object is read and its SHA-256 compared with the
one in its key, which the gateway computed while the instance arrived.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from .archive import INSTANCES, Archive, InstanceKey, Listed
from .commitment import Reference
from .errors import InstanceMissing
from .index import Index
from .index_items import Item, series_of_instance
from .sop_classes import STORAGE
from .status import CommitmentFailure

_log: Final = logging.getLogger(__name__)
_PARALLEL: Final = 32
#: To look up fewer instances than this one by one is cheaper than to read a whole series.
_FEW: Final = 8

_Series = tuple[str, str]


def check(
    archive: Archive, index: Index, references: Sequence[Reference], *, wait_for_missing: bool
) -> dict[Reference, CommitmentFailure] | None:
    """Return the references that are not safe, and why (PS3.3 C.14.1.1).

    With `wait_for_missing` None as soon as one is not in the index: it may be on its way there.

    Raises:
        StoreUnavailable: bucket or table could not be asked.
    """
    items = _find(index, [each.sop_instance_uid for each in references], wait_for_missing)
    if items is None:
        return None
    unsafe = _unsafe(archive, list(items.values()))
    failures: dict[Reference, CommitmentFailure] = {}
    for reference in references:
        item = items.get(reference.sop_instance_uid)
        if item is None:
            failures[reference] = (
                CommitmentFailure.NO_SUCH_OBJECT_INSTANCE
                if reference.sop_class_uid in STORAGE
                else CommitmentFailure.REFERENCED_SOP_CLASS_NOT_SUPPORTED
            )
        elif item["sop_class_uid"] != reference.sop_class_uid:
            failures[reference] = CommitmentFailure.CLASS_INSTANCE_CONFLICT
        elif reference.sop_instance_uid in unsafe:
            failures[reference] = CommitmentFailure.PROCESSING_FAILURE
    return failures


def _find(index: Index, uids: Sequence[str], wait_for_missing: bool) -> dict[str, Item] | None:  # noqa: FBT001
    """Return the items of instances by UID; None when one is missing that is to be waited for."""
    found: dict[str, Item] = {}
    open_ = list(dict.fromkeys(uids))
    # One lookup first: its series may be all that is asked for. When it is not, more and more at
    # a time.
    width = 1
    with ThreadPoolExecutor(_PARALLEL) as pool:
        while open_:
            asked, open_ = open_[:width], open_[width:]
            places = dict(zip(asked, pool.map(index.series_of, asked), strict=True))
            if wait_for_missing and not all(places.values()):
                return None
            first = {uid: series[0] for uid, series in places.items() if series}
            wanted = {*asked, *open_}
            for items in pool.map(lambda job: _read(index, *job), _jobs(first, len(wanted))):
                for item in items:
                    uid = str(item["uid"])
                    if uid in wanted:
                        found.setdefault(uid, item)
            if wait_for_missing and not first.keys() <= found.keys():
                # The secondary index led to an item that is gone.
                return None
            open_ = [uid for uid in open_ if uid not in found]
            width = min(2 * width, _PARALLEL)
    return found


def _jobs(first: Mapping[str, _Series], wanted: int) -> list[tuple[_Series, str | None]]:
    """Return what to read: a series each, or instances one by one when few are wanted."""
    if wanted <= _FEW:
        return [(series, uid) for uid, series in first.items()]
    return [(series, None) for series in dict.fromkeys(first.values())]


def _read(index: Index, series: _Series, sop_instance_uid: str | None) -> list[Item]:
    if sop_instance_uid is None:
        return list(index.instances(*series))
    item = index.instance(*series, sop_instance_uid)
    return [] if item is None else [item]


def _unsafe(archive: Archive, items: Collection[Item]) -> set[str]:
    """Return the UIDs of the instances that the bucket does not hold as they were indexed."""
    by_series: dict[_Series, list[Item]] = {}
    for item in items:
        series = series_of_instance(item)
        assert series is not None
        by_series.setdefault(series, []).append(item)
    prefixes = [
        prefix for series, of_series in by_series.items() for prefix in _prefixes(series, of_series)
    ]
    with ThreadPoolExecutor(_PARALLEL) as pool:
        held = {
            listed.key: listed
            for listing in pool.map(lambda prefix: list(archive.listing(prefix)), prefixes)
            for listed in listing
        }
        safe = pool.map(lambda item: is_safe(archive, item, held), items)
        return {str(item["uid"]) for item, ok in zip(items, safe, strict=True) if not ok}


def _prefixes(series: _Series, items: Sequence[Item]) -> Iterable[str]:
    """Return what to list so as to see the objects of these instances."""
    of_series = f"{INSTANCES}{'/'.join(series)}/"
    if len(items) > _FEW:
        return [of_series]
    return [f"{of_series}{item['uid']}/" for item in items]


def is_safe(archive: Archive, item: Item, held: Mapping[str, Listed]) -> bool:
    """Tell whether every content that came of an instance is there, given what the bucket lists.

    With several contents under one UID nobody knows which one a requester means: all must be safe.
    """
    copies = item["copies"]
    assert isinstance(copies, frozenset)
    return all(_is_held(archive, item, key, held.get(key)) for key in copies)


def _is_held(archive: Archive, item: Item, key: str, listed: Listed | None) -> bool:
    parsed = InstanceKey.parse(key)
    if listed is None or parsed is None:
        _log.error("indexed object is not in the bucket", extra={"object_key": key})
        return False
    if key == item["object_key"]:
        if listed.size != item["size"]:
            _log.error("object has another size than indexed", extra={"object_key": key})
            return False
        if listed.etag == item.get("etag"):
            return True
    try:
        right = archive.sha256(key) == parsed.sha256
    except InstanceMissing:
        right = False
    if not right:
        _log.error("object is not the one its key names", extra={"object_key": key})
    return right
