"""Whether instances are safe: in the index, in the bucket, and with the content that came.

Ten thousand references are mostly a few series. So an instance is looked up by its UID only to find
its series; the rest of the series comes from the index page by page, and what the bucket holds of
it by listing, a thousand objects a request:

    10,000 references of one series    1 lookup, the series' items, 10 listings

An object is the one that was indexed when size and ETag are the same: S3 changes the ETag with the
content, and has compared a checksum when the object was written. Where the ETag is not known, or
another (an object that was copied gets one), the object is read and its SHA-256 compared with the
one in its key, which the gateway computed while the instance arrived. Where the original has been
retired, a form must be there from which it was once restored.
"""

import itertools
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from .archive import INSTANCES, Archive, InstanceKey, Listed
from .commitment import Reference
from .errors import InstanceMissing
from .index import Index
from .index_items import Item, forms_of, series_of_instance
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
    unsafe = _unsafe(archive, index, list(items.values()))
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
        return list(index.instance_contents(*series))
    item = index.instance(*series, sop_instance_uid)
    return [] if item is None else [item]


def _unsafe(archive: Archive, index: Index, items: Collection[Item]) -> set[str]:
    """Return the UIDs of the instances of which the bucket does not hold all that came."""
    by_series: dict[_Series, list[Item]] = {}
    for item in items:
        series = series_of_instance(item)
        assert series is not None
        by_series.setdefault(series, []).append(item)
    prefixes = [
        prefix for series, of_series in by_series.items() for prefix in _prefixes(series, of_series)
    ]
    with ThreadPoolExecutor(_PARALLEL) as pool:
        listings = pool.map(lambda prefix: list(archive.listing(prefix)), prefixes)
        copies = pool.map(lambda series: list(index.copies(*series)), by_series)
        held = {listed.key: listed for listing in listings for listed in listing}
        keys = {str(item["uid"]): {str(item["object_key"])} for item in items}
        for copy in itertools.chain.from_iterable(copies):
            key = InstanceKey.parse(str(copy["object_key"]))
            if key is not None and key.sop_instance_uid in keys:
                keys[key.sop_instance_uid].add(str(key))

        def is_unsafe(item: Item) -> bool:
            return not all(
                is_safe(archive, item, key, held.get(key)) for key in keys[str(item["uid"])]
            )

        unsafe = pool.map(is_unsafe, items)
        return {str(item["uid"]) for item, found in zip(items, unsafe, strict=True) if found}


def _prefixes(series: _Series, items: Sequence[Item]) -> Iterable[str]:
    """Return what to list so as to see the objects of these instances."""
    of_series = f"{INSTANCES}{'/'.join(series)}/"
    if len(items) > _FEW:
        return [of_series]
    return [f"{of_series}{item['uid']}/" for item in items]


def is_safe(archive: Archive, item: Item, key: str, listed: Listed | None) -> bool:
    """Tell whether a content of an instance can be had from the bucket as it came.

    `key` is that of its original object, `listed` what the bucket lists there. With several
    contents under one UID nobody knows which one a requester means: each must be safe.
    """
    original = InstanceKey.parse(key)
    assert original is not None
    if listed is not None and _is_as_indexed(item, listed):
        return True
    if listed is not None and _holds(archive, key, original.sha256):
        return True
    forms = [form for form in forms_of(item) if f"/{original.sha256}/" in form.object_key]
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
