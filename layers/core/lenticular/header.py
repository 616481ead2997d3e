"""Read of a stored object what the index keeps of it, from as few of its bytes as that takes.

Everything the index keeps lies before any pixel data. The first range usually holds it all; when it
does not, more is read, until the data set's outline has been followed far enough.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .archive import (
    ORIGINAL_ETAG,
    ORIGINAL_SIZE,
    ORIGINAL_TRANSFER_SYNTAX,
    QUARANTINE,
    Archive,
    FormKey,
    InstanceKey,
    StoredObject,
    content_sha256,
)
from .attributes import BY_KEYWORD, BY_TAG, CATALOGUE, Attribute, Level
from .character_sets import character_sets
from .dicom_json import (
    SPECIFIC_CHARACTER_SET,
    JsonElement,
    read_character_sets,
    read_data_set,
    read_element,
    values_of,
)
from .element_headers import ElementsError, Fault
from .elements import walk
from .errors import CannotUnderstand
from .index_items import Copy
from .part10 import PREAMBLE_AND_PREFIX_BYTES, data_set_offset
from .placement import Placement, Problem, place, with_end
from .transfer_syntaxes import BY_UID, TransferSyntax

_FIRST_RANGE_BYTES: Final = 64 << 10
_GROWTH: Final = 4
#: A header longer than this is not read to its end: what was found so far is indexed.
_LONGEST_HEADER_BYTES: Final = 8 << 20
#: What is read at a time to follow a data set behind its header.
_FOLLOWED_BYTES: Final = 1 << 20
#: What the attributes of one level may take of an instance's item, as JSON in ASCII.
_LEVEL_CHARACTERS: Final = 64 << 10
#: What one attribute may take, bytes of JSON in UTF-8: the longest text of a VR in the catalogue
#: (LT, 10,240) and its wrapping. A study's item takes each of its attributes from any copy, so only
#: this keeps all 27 of them, patient and study, within the 400 KB of an item.
_ATTRIBUTE_BYTES: Final = 11_000

#: By these the indexes lead to a study. They have one value (PS3.6), and an index has one as well.
_SINGLE_VALUED: Final = frozenset(
    BY_KEYWORD[keyword].tag
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyDate")
)
_STOP_TAG: Final = CATALOGUE[-1].tag + 1
_MEDIA_STORAGE_SOP_CLASS_UID: Final = 0x00020002
_MEDIA_STORAGE_SOP_INSTANCE_UID: Final = 0x00020003
_TRANSFER_SYNTAX_UID: Final = 0x00020010


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """An object that stays in quarantine, with the reason an operator reads."""

    reason: str
    received: str
    calling_ae_title: str


def read_copy(archive: Archive, key: str) -> Copy | Unplaceable:
    """Read an object's header; a form's, where the original is retired, as if it were that.

    Raises:
        InstanceMissing: the bucket holds no such object.
        StoreUnavailable: S3 refused or could not be reached.
    """
    length = _FIRST_RANGE_BYTES
    while True:
        stored = archive.head(key, length)
        whole = len(stored.head) >= min(stored.size, _LONGEST_HEADER_BYTES)
        try:
            return _copy(stored, whole=whole)
        except _MoreWanted as more:
            length = min(max(length * _GROWTH, more.bytes), _LONGEST_HEADER_BYTES)


def placed_key(archive: Archive, key: str) -> str | Unplaceable:
    """Return the key that the instance in an object should have; raises as `read_copy`.

    The data set is followed to its end, as the gateway does.
    """
    length = _FIRST_RANGE_BYTES
    while True:
        stored = archive.head(key, length)
        whole = len(stored.head) >= min(stored.size, _LONGEST_HEADER_BYTES)
        try:
            found = _placed(stored, whole=whole)
        except _MoreWanted:
            length = min(length * _GROWTH, _LONGEST_HEADER_BYTES)
            continue
        if isinstance(found, Unplaceable):
            return found
        placement = _with_end(archive, stored, found)
        if placement.problem is not None:
            return _unplaceable(stored, placement.problem.value)
        return placement.key(content_sha256(key))


class _MoreWanted(Exception):
    """The range read so far ends too early; `bytes` is how many are needed at least."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.bytes = wanted


@dataclass(frozen=True, slots=True)
class FileHead:
    """What the head of a PS3.10 file says: its meta information, and where its instance belongs."""

    data_set_offset: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    placement: Placement


def read_file_head(head: bytes) -> FileHead:
    """Read the first bytes of a file, or raise `CannotUnderstand`: it has no group 0002."""
    start = data_set_offset(head)
    meta = read_data_set(
        memoryview(head)[PREAMBLE_AND_PREFIX_BYTES:start], explicit=True, little_endian=True
    )
    uids = (
        _uid(meta, _MEDIA_STORAGE_SOP_CLASS_UID),
        _uid(meta, _MEDIA_STORAGE_SOP_INSTANCE_UID),
        _uid(meta, _TRANSFER_SYNTAX_UID),
    )
    placement = place(
        memoryview(head)[start:],
        sop_class_uid=uids[0],
        sop_instance_uid=uids[1],
        transfer_syntax_uid=uids[2],
    )
    return FileHead(start, *uids, placement)


def _placed(stored: StoredObject, *, whole: bool) -> FileHead | Unplaceable:
    try:
        head = read_file_head(stored.head)
    except CannotUnderstand as error:
        return _unplaceable(stored, f"not a file this node wrote: {error}")
    if head.placement.problem is None:
        return head
    if not (whole or head.placement.head_complete):
        raise _MoreWanted(0)
    return _unplaceable(stored, head.placement.problem.value)


def _with_end(archive: Archive, stored: StoredObject, head: FileHead) -> Placement:
    start, size = head.data_set_offset, stored.size

    def read(offset: int) -> bytes:
        at = start + offset
        return archive.range(stored.key, at, _FOLLOWED_BYTES) if at < size else b""

    return with_end(head.placement, read, size - start, head.transfer_syntax_uid)


def _copy(stored: StoredObject, *, whole: bool) -> Copy | Unplaceable:
    form_key = FormKey.parse(stored.key)
    instance_key = form_key.original if form_key else InstanceKey.parse(stored.key)
    head = _placed(stored, whole=whole)
    if isinstance(head, Unplaceable):
        return head
    start, placement = head.data_set_offset, head.placement
    sop_class_uid, transfer_syntax_uid = head.sop_class_uid, head.transfer_syntax_uid
    data_set = memoryview(stored.head)[start:]
    if stored.key.startswith(QUARANTINE):
        # Only the gateway looks behind the head. `quarantine.retry` does, and tells for certain.
        return _unplaceable(stored, Problem.BROKEN_OFF.value)
    if instance_key is None or placement.key(instance_key.sha256) != str(instance_key):
        return _unplaceable(stored, "the object's key is not that of the instance in it")
    attributes, defect = _attributes(data_set, BY_UID[transfer_syntax_uid], start, whole=whole)
    of_original = stored.metadata if form_key else {}
    return Copy(
        instance_key,
        int(of_original.get(ORIGINAL_SIZE, stored.size)),
        stored.received,
        sop_class_uid,
        of_original.get(ORIGINAL_TRANSFER_SYNTAX, transfer_syntax_uid),
        attributes,
        defect,
        stored.calling_ae_title,
        etag=of_original.get(ORIGINAL_ETAG) if form_key else stored.etag,
    )


def _attributes(
    data_set: memoryview, transfer_syntax: TransferSyntax, start: int, *, whole: bool
) -> tuple[Mapping[Level, dict[str, JsonElement]], str | None]:
    """Read the catalogued attributes by level, and what kept us from reading them all."""
    if transfer_syntax.deflated:
        # Bounded, so that a small stream cannot become a large one in memory.
        data_set = memoryview(_inflated(data_set))
    encoding = {
        "explicit": transfer_syntax.explicit,
        "little_endian": transfer_syntax.little_endian,
    }
    by_level: dict[Level, dict[str, JsonElement]] = {level: {} for level in Level}
    room = dict.fromkeys(Level, _LEVEL_CHARACTERS)
    sets = character_sets(())
    defect = None
    try:
        for element in walk(data_set, **encoding, stop_tag=_STOP_TAG):
            if element.tag == SPECIFIC_CHARACTER_SET:
                sets = read_character_sets(element)
            attribute = BY_TAG.get(element.tag)
            if attribute is None:
                continue
            if len(element.value) > room[attribute.level]:
                defect = f"{attribute.keyword} is too long for the index"
                continue
            read, problem = _indexable(attribute, read_element(element, sets, **encoding))
            length = len(json.dumps(read))
            if length > room[attribute.level] or _stored_bytes(read, length) > _ATTRIBUTE_BYTES:
                defect = f"{attribute.keyword} is too long for the index"
                continue
            defect = problem or defect
            room[attribute.level] -= length
            by_level[attribute.level][f"{element.tag:08X}"] = read
    except ElementsError as error:
        if error.fault is Fault.TRUNCATED and not whole:
            wanted = 0 if transfer_syntax.deflated else start + error.wanted
            raise _MoreWanted(wanted) from error
        defect = str(error)
    return by_level, defect


def _stored_bytes(read: JsonElement, ascii_length: int) -> int:
    """Return the length of an element's JSON in UTF-8, which is never longer than in ASCII."""
    if ascii_length <= _ATTRIBUTE_BYTES:
        return ascii_length
    return len(json.dumps(read, ensure_ascii=False).encode("utf-8", "replace"))


def _indexable(attribute: Attribute, read: JsonElement) -> tuple[JsonElement, str | None]:
    """Return what of an element the index can be asked for, and what is wrong with the rest."""
    if read["vr"] != attribute.vr:
        return {"vr": attribute.vr}, f"{attribute.keyword} is not of VR {attribute.vr}"
    if attribute.tag in _SINGLE_VALUED and len(values_of(read)) > 1:
        first: JsonElement = {"vr": attribute.vr, "Value": values_of(read)[:1]}
        return first, f"{attribute.keyword} has more than one value"
    return read, None


def _inflated(data_set: memoryview) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data_set, _FIRST_RANGE_BYTES * 16)
    except zlib.error:
        return b""


def _unplaceable(stored: StoredObject, reason: str) -> Unplaceable:
    return Unplaceable(reason, stored.received, stored.calling_ae_title)


def _uid(meta: Mapping[int, JsonElement], tag: int) -> str:
    values = meta[tag].get("Value", []) if tag in meta else []
    return str(values[0]) if values and values[0] is not None else ""
