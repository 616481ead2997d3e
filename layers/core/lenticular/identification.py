"""The UIDs in the head of a data set, found while the rest of it is still on its way."""

import zlib
from dataclasses import dataclass
from typing import Final

from .element_headers import (
    ENCODINGS,
    HEADER_BYTES,
    IMPLICIT_LITTLE_ENDIAN,
    SHORT_FORM,
    UNDEFINED_LENGTH,
    ElementsError,
    Encoding,
    Fault,
    is_long_form,
)
from .elements import undefined_length_end
from .transfer_syntaxes import TransferSyntax

#: What `find_uids` inflates at most: elements come in tag order (PS3.5 7.1), the UIDs are early.
MAX_INFLATED_BYTES: Final = 1 << 20
#: Inflating 16 KiB is enough for almost every head and takes a sixtieth of the time of the most.
_DEFLATED_SLICE_BYTES: Final = 64 << 10
_FIRST_INFLATED_BYTES: Final = 1 << 14

_SOP_CLASS_UID: Final = 0x00080016
_SOP_INSTANCE_UID: Final = 0x00080018
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_IDENTIFYING: Final = frozenset(
    {_SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID}
)
_LAST_IDENTIFYING: Final = max(_IDENTIFYING)


@dataclass(frozen=True, slots=True)
class Identification:
    """The UIDs in the head of a data set, None where absent or empty.

    They are as the sender wrote them, without padding and not checked in any other way. Unless
    `complete`, more of the data set may bring more of them.
    """

    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    complete: bool

    @property
    def is_identified(self) -> bool:
        """Whether there is any of the four."""
        return bool(
            self.sop_instance_uid
            or self.sop_class_uid
            or self.study_instance_uid
            or self.series_instance_uid
        )


def find_uids(data: bytes | memoryview, transfer_syntax: TransferSyntax) -> Identification:
    """Find the four identifying UIDs in the head of a data set of which more may be to come.

    Looks no further than the first element behind (0020,000E). Elements out of order before it
    are taken as they come. Raises ElementsError when the head is malformed; a head that breaks
    off is not an error but not `complete`.
    """
    encoding = ENCODINGS[transfer_syntax.explicit, transfer_syntax.little_endian]
    if transfer_syntax.deflated:
        return _find_deflated_uids(data, encoding)
    return _find_uids(data, encoding)


def _find_uids(data: bytes | memoryview, encoding: Encoding) -> Identification:
    """Walk without `walk`: this runs once an instance while its sender waits."""
    found: dict[int, str] = {}
    unpack = encoding.header.unpack_from
    explicit = encoding.explicit
    end = len(data)
    position = 0
    complete = False
    vr: bytes | None = None
    while position + HEADER_BYTES <= end:
        if explicit:
            group, number, vr, length = unpack(data, position)
        else:
            group, number, length = unpack(data, position)
        tag = group << 16 | number
        if tag > _LAST_IDENTIFYING:
            complete = True
            break
        start = position + HEADER_BYTES
        if vr is not None and vr not in SHORT_FORM and is_long_form(vr):
            if start + 4 > end:
                break
            (length,) = encoding.length.unpack_from(data, start)
            start += 4
        if length == UNDEFINED_LENGTH:
            inside = IMPLICIT_LITTLE_ENDIAN if vr == b"UN" else encoding
            stop = _undefined_length_end_if_there(data, start, inside, tag)
            if stop is None:
                break
            position = stop + HEADER_BYTES
            continue
        position = start + length
        if tag in _IDENTIFYING and position <= end and tag not in found:
            found[tag] = bytes(data[start:position]).decode("ascii", "replace").strip(" \0")
            if len(found) == len(_IDENTIFYING):
                complete = True
                break
    return Identification(
        sop_class_uid=found.get(_SOP_CLASS_UID) or None,
        sop_instance_uid=found.get(_SOP_INSTANCE_UID) or None,
        study_instance_uid=found.get(_STUDY_INSTANCE_UID) or None,
        series_instance_uid=found.get(_SERIES_INSTANCE_UID) or None,
        complete=complete,
    )


def _undefined_length_end_if_there(
    data: bytes | memoryview, position: int, encoding: Encoding, outermost: int
) -> int | None:
    """Return what `undefined_length_end` does, or None when the delimiter is yet to come."""
    try:
        return undefined_length_end(memoryview(data), position, len(data), encoding, outermost)
    except ElementsError as error:
        if error.fault is Fault.TRUNCATED:
            return None
        raise


def _find_deflated_uids(data: bytes | memoryview, encoding: Encoding) -> Identification:
    """Inflate the head step by step; PS3.5 A.5 deflates without a zlib header."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    head = b""
    waiting = b""
    position = 0
    step = _FIRST_INFLATED_BYTES
    while True:
        if not waiting:
            # In slices: zlib copies all of the input that it has not used.
            waiting = bytes(data[position : position + _DEFLATED_SLICE_BYTES])
            position += len(waiting)
        try:
            inflated = inflater.decompress(waiting, step)
        except zlib.error as error:
            raise ElementsError(Fault.MALFORMED, position - len(waiting), None) from error
        head += inflated
        waiting = inflater.unconsumed_tail
        identification = _find_uids(head, encoding)
        # zlib may hold back output after it took all input: only a step not filled is the end.
        at_end = not waiting and position >= len(data) and len(inflated) < step
        if identification.complete or at_end or len(head) >= MAX_INFLATED_BYTES:
            return identification
        step = MAX_INFLATED_BYTES - len(head)
