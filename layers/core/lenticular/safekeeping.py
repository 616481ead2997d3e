"""Whether instances are safe: in the index, in the bucket, and with the content that came.

A reference names an instance by its UID alone, and senders have put one UID into two series, so
every place of each is wanted. A lookup for each finds them; of many references and few instances to
read all UIDs is quicker. Which it will be is not known before, so that is tried first, for as long
as it takes no longer than the lookups would. The rest is done by the series, for references are
mostly of a few: its items come from the index page by page, and what the bucket holds of it by
listing, a thousand objects a request.

With several contents under one UID, in one series or in several, nobody knows which one a requester
means: all that came must be safe. Beside those in the index these are the ones that only the bucket
has yet, and those that the gateway had acknowledged and not put there when it was asked. They are
waited for like an instance that is not in the index.

An object is the one that was indexed when size and ETag are the same: S3 changes the ETag with the
content, and has compared a checksum when the object was written. Where the ETag is not known, or
another (an object that was copied gets one), the object is read and its SHA-256 compared with the
one in its key, which the gateway computed while the instance arrived. Where the original has been
retired, a form must be there from which it was once restored.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from .archive import INSTANCES, Archive, InstanceKey, Listed, key_prefix
from .commitment import Reference
from .errors import InstanceMissing
from .index import Index
from .index_items import Item, forms_of_content
from .index_keys import series_of_instance
from .sop_classes import STORAGE
from .status import CommitmentFailure

_log: Final = logging.getLogger(__name__)
_PARALLEL: Final = 32
#: To read fewer instances than this one by one is cheaper than to read a whole series.
_FEW: Final = 8
#: Lookups between two looks whether waiting for an instance spares the rest of them.
_LOOKUPS_AT_A_TIME: Final = 256
#: A page of 1 MB takes less time than so many lookups of half a unit, and costs twice as much.
_LOOKUPS_A_PAGE: Final = 128

_Series = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Content:
    """A content that came under a UID: the key of its original object, and what is known of it.

    `item` is that of its instance in its series, None while there is none. `is_indexed` says
    whether that knows of this content.
    """

    key: InstanceKey
    item: Item | None
    is_indexed: bool


def check(
    archive: Archive,
    index: Index,
    references: Sequence[Reference],
    *,
    wait_for_missing: bool,
    arriving: Iterable[str] = (),
) -> dict[Reference, CommitmentFailure] | None:
    """Return the references that are not safe, and why (PS3.3 C.14.1.1).

    `arriving` are keys of objects that were on their way into the bucket. With `wait_for_missing`
    None as soon as one of those, or of the references, is not in the index: it may still come.

    Raises:
        StoreUnavailable: bucket or table could not be asked.
    """
    uids = list(dict.fromkeys(each.sop_instance_uid for each in references))
    with ThreadPoolExecutor(_PARALLEL) as pool:
        items = _find(index, pool, uids, wait_for_missing=wait_for_missing)
        if items is None:
            return None
        held = _held(archive, pool, items)
        contents = _contents(index, pool, items, held, arriving)
        if wait_for_missing and not all(
            content.is_indexed for each in contents.values() for content in each
        ):
            return None

        def is_unsafe(uid: str) -> bool:
            return not all(
                _is_safe(archive, content, held.get(str(content.key))) for content in contents[uid]
            )

        unsafe = {uid for uid, found in zip(uids, pool.map(is_unsafe, uids), strict=True) if found}
    failures = ((each, _failure(each, items[each.sop_instance_uid], unsafe)) for each in references)
    return {reference: failure for reference, failure in failures if failure is not None}


def _failure(
    reference: Reference, items: Sequence[Item], unsafe: set[str]
) -> CommitmentFailure | None:
    if not items:
        return (
            CommitmentFailure.NO_SUCH_OBJECT_INSTANCE
            if reference.sop_class_uid in STORAGE
            else CommitmentFailure.REFERENCED_SOP_CLASS_NOT_SUPPORTED
        )
    if reference.sop_class_uid not in {item["sop_class_uid"] for item in items}:
        return CommitmentFailure.CLASS_INSTANCE_CONFLICT
    return CommitmentFailure.PROCESSING_FAILURE if reference.sop_instance_uid in unsafe else None


def _find(
    index: Index,
    pool: ThreadPoolExecutor,
    uids: Sequence[str],
    *,
    wait_for_missing: bool,
) -> dict[str, list[Item]] | None:
    """Return the items of each UID, one a series; None when one is missing and waited for."""
    places = _all_places(index, uids) or _looked_up(
        index, pool, uids, wait_for_missing=wait_for_missing
    )
    if wait_for_missing and not all(uid in places for uid in uids):
        return None
    by_series: dict[_Series, list[str]] = defaultdict(list)
    for uid, of_uid in places.items():
        for series in of_uid:
            by_series[series].append(uid)
    items: dict[str, list[Item]] = {uid: [] for uid in uids}
    for read in pool.map(lambda job: _read(index, *job), _jobs(by_series)):
        for item in read:
            if str(item["uid"]) in items:
                items[str(item["uid"])].append(item)
    # The secondary index may have led to an item that is gone.
    return None if wait_for_missing and not all(items.values()) else items


def _all_places(index: Index, uids: Sequence[str]) -> dict[str, list[_Series]] | None:
    """Return the series of each UID from all UIDs there are; None when those are too many."""
    left = len(uids) // _LOOKUPS_A_PAGE
    wanted = frozenset(uids)
    places: dict[str, list[_Series]] = defaultdict(list)
    for page in index.uid_pages() if left else ():
        for uid, series in page:
            if uid in wanted:
                places[uid].append(series)
        left -= 1
        if not left:
            return None
    return places


def _looked_up(
    index: Index,
    pool: ThreadPoolExecutor,
    uids: Sequence[str],
    *,
    wait_for_missing: bool,
) -> dict[str, list[_Series]]:
    """Return the series of each UID that has any; of all, unless one that is missing stops us."""
    places: dict[str, list[_Series]] = {}
    for start in range(0, len(uids), _LOOKUPS_AT_A_TIME):
        some = uids[start : start + _LOOKUPS_AT_A_TIME]
        found = zip(some, pool.map(index.series_of, some), strict=True)
        places |= {uid: series for uid, series in found if series}
        if wait_for_missing and not all(uid in places for uid in some):
            break
    return places


def _jobs(by_series: Mapping[_Series, Sequence[str]]) -> Iterator[tuple[_Series, str | None]]:
    """Yield what to read: a series, or instances one by one where few of it are wanted."""
    for series, uids in by_series.items():
        if len(uids) > _FEW:
            yield series, None
        else:
            yield from ((series, uid) for uid in uids)


def _read(index: Index, series: _Series, sop_instance_uid: str | None) -> list[Item]:
    if sop_instance_uid is None:
        return list(index.instance_contents(*series))
    item = index.instance(*series, sop_instance_uid)
    return [] if item is None else [item]


def _held(
    archive: Archive, pool: ThreadPoolExecutor, items: Mapping[str, Sequence[Item]]
) -> dict[str, Listed]:
    """Return what the bucket lists under these instances, and perhaps under others, by key."""
    by_series: dict[_Series, list[str]] = defaultdict(list)
    for uid, of_uid in items.items():
        for item in of_uid:
            by_series[_series_of(item)].append(uid)
    prefixes = [
        prefix for series, of_series in by_series.items() for prefix in _prefixes(series, of_series)
    ]
    listings = pool.map(lambda prefix: list(archive.listing(prefix)), prefixes)
    return {listed.key: listed for listing in listings for listed in listing}


def _prefixes(series: _Series, uids: Sequence[str]) -> Iterable[str]:
    """Return what to list so as to see the objects of these instances."""
    if len(uids) > _FEW:
        return [key_prefix(INSTANCES, *series)]
    return [key_prefix(INSTANCES, *series, uid) for uid in uids]


def _contents(
    index: Index,
    pool: ThreadPoolExecutor,
    items: Mapping[str, Sequence[Item]],
    held: Iterable[str],
    arriving: Iterable[str],
) -> dict[str, list[_Content]]:
    """Return every content that came under each UID."""
    places = {(*_series_of(item), uid): item for uid, each in items.items() for item in each}
    series = dict.fromkeys((study, series) for study, series, _ in places)
    copies = pool.map(lambda each: list(index.copies(*each)), series)
    indexed = {str(item["object_key"]) for item in places.values()}
    indexed.update(str(copy["object_key"]) for of_series in copies for copy in of_series)
    contents: dict[str, list[_Content]] = {uid: [] for uid in items}
    for text in dict.fromkeys((*indexed, *held, *arriving)):
        # What is on its way into quarantine is none of an instance's.
        key = InstanceKey.parse(text)
        if key is not None and key.sop_instance_uid in contents:
            place = (key.study_instance_uid, key.series_instance_uid, key.sop_instance_uid)
            content = _Content(key, places.get(place), text in indexed)
            contents[key.sop_instance_uid].append(content)
    return contents


def _series_of(item: Item) -> _Series:
    series = series_of_instance(item)
    assert series is not None
    return series


def _is_safe(archive: Archive, content: _Content, listed: Listed | None) -> bool:
    """Tell whether a content can be had from the bucket as it came; `listed` is its object."""
    key, item = str(content.key), content.item
    if listed is not None and item is not None and _is_as_indexed(item, listed):
        return True
    # Where there is an item, what is not listed is not there.
    if (listed is not None or item is None) and _holds(archive, key, content.key.sha256):
        return True
    forms = [] if item is None else forms_of_content(item, content.key.sha256)
    if any(_holds(archive, form.object_key, form.sha256) for form in forms):
        return True
    _log.error("instance is not in the bucket as it was indexed", extra={"object_key": key})
    return False


def _is_as_indexed(item: Item, listed: Listed) -> bool:
    return (
        listed.key == item["object_key"]
        and listed.size == item["size"]
        and listed.etag == item.get("etag")
    )


def _holds(archive: Archive, key: str, sha256: str) -> bool:
    """Tell whether an object is there and has this SHA-256, which S3 may know without reading."""
    try:
        return (archive.known_sha256(key) or archive.sha256(key)) == sha256
    except InstanceMissing:
        return False
