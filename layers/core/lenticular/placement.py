"""Where an instance belongs, decided from its data set's head and the command it came with.

The gateway decides this before it answers, and the index function decides it again from the
stored file, so both use this one rule. An instance with a problem is kept in quarantine, never
thrown away.

Whether a data set goes on to its end is for the gateway alone: its sender has another one still.
Of what was acknowledged nothing becomes unfindable because a later version reads further.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .archive import InstanceKey, quarantine_key
from .character_sets import character_sets
from .dicom_json import SPECIFIC_CHARACTER_SET, read_character_sets, read_element, values_of
from .element_headers import ElementsError, Fault
from .elements import Element, walk
from .identification import Identification, find_uids
from .identifiers import is_uid
from .transfer_syntaxes import BY_UID, TransferSyntax
from .wholeness import is_whole

_PATIENT_ID: Final = 0x00100020
#: An LO has 64 characters; one that is longer than this is none, and nobody's index or record.
_PATIENT_ID_BYTES: Final = 1024
_INFLATED_BYTES: Final = 64 << 10


class Problem(Enum):
    """Why an instance cannot be placed; the value is what the operator reads."""

    UNKNOWN_TRANSFER_SYNTAX = "the transfer syntax is not one this node knows"
    UNREADABLE = "the data set cannot be read in its transfer syntax"
    BROKEN_OFF = "the data set cannot be followed to its end"
    INVALID_SOP_INSTANCE_UID = "the SOP Instance UID of the command is not a UID"
    SOP_CLASS_DIFFERS = "the SOP Class UID of the data set is not the command's"
    SOP_INSTANCE_DIFFERS = "the SOP Instance UID of the data set is not the command's"
    NO_STUDY_INSTANCE_UID = "the data set has no valid Study Instance UID"
    NO_SERIES_INSTANCE_UID = "the data set has no valid Series Instance UID"


@dataclass(frozen=True, slots=True)
class Placement:
    """The study and series of an instance, or the problem that keeps it from one.

    Unless `head_complete`, more of the data set may solve the problem.
    """

    sop_instance_uid: str | None
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    problem: Problem | None = None
    head_complete: bool = True

    def key(self, sha256: str) -> str:
        """Name the object that keeps this instance, given the SHA-256 of its file."""
        if self.problem or self.sop_instance_uid is None:
            return quarantine_key(self.sop_instance_uid, sha256)
        return str(
            InstanceKey(
                self.study_instance_uid, self.series_instance_uid, self.sop_instance_uid, sha256
            )
        )


def place(
    data_set: bytes | memoryview,
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
) -> Placement:
    """Place an instance by its data set and the UIDs of its command (or file meta information).

    `data_set` may end anywhere behind (0020,000E); nothing behind that is looked at. One that ends
    before is taken to be whole.
    """
    if not is_uid(sop_instance_uid):
        return Placement(None, problem=Problem.INVALID_SOP_INSTANCE_UID)

    def problem(which: Problem, *, head_complete: bool = True) -> Placement:
        return Placement(sop_instance_uid, problem=which, head_complete=head_complete)

    transfer_syntax = BY_UID.get(transfer_syntax_uid)
    if transfer_syntax is None:
        return problem(Problem.UNKNOWN_TRANSFER_SYNTAX)
    try:
        found = find_uids(data_set, transfer_syntax)
        if not (found.complete or found.series_instance_uid) and not transfer_syntax.deflated:
            # It ended before the head did: in order, or in the middle of an element?
            for _ in _elements(data_set, transfer_syntax):
                pass
        if not (found.is_identified or transfer_syntax.deflated):
            # Noise, or another transfer syntax: its first tag may be behind all that we look for.
            first = next(_elements(data_set, transfer_syntax), None)
            if first is not None and transfer_syntax.explicit and first.vr is None:
                return problem(Problem.UNREADABLE)
    except ElementsError as error:
        truncated = error.fault is Fault.TRUNCATED
        return problem(Problem.UNREADABLE, head_complete=not truncated)
    if which := _problem_of(found, sop_class_uid, sop_instance_uid):
        return problem(which, head_complete=found.complete)
    return Placement(
        sop_instance_uid, found.study_instance_uid or "", found.series_instance_uid or ""
    )


def with_end(
    placement: Placement,
    read: Callable[[int], bytes | memoryview],
    length: int,
    transfer_syntax_uid: str,
) -> Placement:
    """Return the placement of a data set that is `BROKEN_OFF` unless it `is_whole`."""
    if is_whole(read, length, BY_UID[transfer_syntax_uid]):
        return placement
    return Placement(placement.sop_instance_uid, problem=Problem.BROKEN_OFF)


def patient_id_in(data_set: bytes | memoryview, transfer_syntax_uid: str) -> str:
    """Return the Patient ID of a data set; empty where it has none, or none that can be read."""
    syntax = BY_UID[transfer_syntax_uid]
    encoding = {"explicit": syntax.explicit, "little_endian": syntax.little_endian}
    sets = character_sets(())
    try:
        if syntax.deflated:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            data_set = inflater.decompress(data_set, _INFLATED_BYTES)
        for element in walk(data_set, **encoding, stop_tag=_PATIENT_ID + 1):
            if element.tag == SPECIFIC_CHARACTER_SET:
                sets = read_character_sets(element)
            elif element.tag == _PATIENT_ID and len(element.value) <= _PATIENT_ID_BYTES:
                values = values_of(read_element(element, sets, **encoding))
                return str(values[0]) if values and values[0] else ""
    except (ElementsError, zlib.error):
        pass
    return ""


def _elements(data_set: bytes | memoryview, transfer_syntax: TransferSyntax) -> Iterator[Element]:
    return walk(
        data_set,
        explicit=transfer_syntax.explicit,
        little_endian=transfer_syntax.little_endian,
    )


def _problem_of(found: Identification, sop_class_uid: str, sop_instance_uid: str) -> Problem | None:
    # A UID that is absent from the data set is not a different one: the command's stands for it.
    if found.sop_class_uid and found.sop_class_uid != sop_class_uid:
        return Problem.SOP_CLASS_DIFFERS
    if found.sop_instance_uid and found.sop_instance_uid != sop_instance_uid:
        return Problem.SOP_INSTANCE_DIFFERS
    if not is_uid(found.study_instance_uid or ""):
        return Problem.NO_STUDY_INSTANCE_UID
    if not is_uid(found.series_instance_uid or ""):
        return Problem.NO_SERIES_INSTANCE_UID
    return None
