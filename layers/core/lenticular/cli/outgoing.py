"""Files to be sent, and what keeps one from being sent (PS3.10 7.1).

A file goes out when it has a valid group 0002, a storage class and a transfer syntax that we know,
and a data set that is of the instance group 0002 names. Its IOD is looked at by dciodvfy, where
that is installed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lenticular.errors import CannotUnderstand, OperatorError
from lenticular.header import FileHead, read_file_head
from lenticular.part10 import PREAMBLE_AND_PREFIX_BYTES
from lenticular.sop_classes import STORAGE, may_be_storage
from lenticular.transfer_syntaxes import BY_UID

_FIRST_BYTES: Final = 64 << 10
_MOST_BYTES: Final = 8 << 20
_DICOMDIR: Final = "1.2.840.10008.1.3.10"


class Unfit(Exception):
    """A file that is not sent; says why, and nothing of a patient."""


@dataclass(frozen=True, slots=True)
class OutgoingFile:
    """A file that can be sent."""

    path: Path
    size: int
    modified_ns: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def context(self) -> tuple[str, str]:
        """The presentation context that it needs."""
        return self.sop_class_uid, self.transfer_syntax_uid


def files_below(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield files, and those in folders at any depth, in order; raise `OperatorError`.

    What begins with a dot is left out of folders.
    """
    for path in paths:
        if path.is_dir():
            for each in sorted(path.rglob("*")):
                hidden = any(part.startswith(".") for part in each.relative_to(path).parts)
                if each.is_file() and not hidden:
                    yield each
        elif path.is_file():
            yield path
        else:
            raise OperatorError(f"there is no file or folder {path}")


def read_outgoing(path: Path, *, unknown_classes: bool = False) -> OutgoingFile | None:
    """Look at a file; None when it is no DICOM file, or a DICOMDIR.

    Raises:
        Unfit: it is one that must not be sent.
    """
    state = path.stat()
    with path.open("rb") as file:
        head = file.read(_FIRST_BYTES)
        if head[PREAMBLE_AND_PREFIX_BYTES - 4 : PREAMBLE_AND_PREFIX_BYTES] != b"DICM":
            return None
        try:
            found = read_file_head(head)
            if found.placement.problem and not found.placement.head_complete:
                found = read_file_head(head + file.read(_MOST_BYTES - len(head)))
        except CannotUnderstand as error:
            raise Unfit(f"group 0002 is not valid: {error}") from error
    if found.sop_class_uid == _DICOMDIR:
        return None
    if problem := _problem(found, unknown_classes=unknown_classes):
        raise Unfit(problem)
    return OutgoingFile(
        path,
        state.st_size,
        state.st_mtime_ns,
        found.sop_class_uid,
        found.sop_instance_uid,
        found.transfer_syntax_uid,
    )


def _problem(found: FileHead, *, unknown_classes: bool) -> str | None:
    if found.transfer_syntax_uid not in BY_UID:
        return f"transfer syntax {found.transfer_syntax_uid or 'none'} is not known"
    if found.sop_class_uid not in STORAGE and not (
        unknown_classes and may_be_storage(found.sop_class_uid)
    ):
        return f"storage class {found.sop_class_uid or 'none'} is not known (--unknown-classes)"
    return found.placement.problem.value if found.placement.problem else None
