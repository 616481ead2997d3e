"""The file an instance is kept in: preamble, prefix and file meta information, PS3.10 7.1.

The head depends only on what was received (SOP class, SOP instance, transfer syntax), never on the
sender or the time, so an instance that is sent twice gives the same file, the same SHA-256 and the
same object. Who sent it and when is metadata of the object.
"""

import struct
from typing import Final

from . import IMPLEMENTATION_CLASS_UID
from .elements import encode_element
from .errors import CannotUnderstand

#: (0002,0013), whatever the release: it is part of the file, and with another one a data set that
#: is sent again after an upgrade would be another content. It never changes.
_VERSION_NAME_OF_FILES: Final = "LENTICULAR_010"
_PREAMBLE_AND_PREFIX: Final = bytes(128) + b"DICM"
PREAMBLE_AND_PREFIX_BYTES: Final = len(_PREAMBLE_AND_PREFIX)
_FILE_META_GROUP_LENGTH: Final = 0x00020000
_TRANSFER_SYNTAX_UID: Final = 0x00020010
_PRIVATE_INFORMATION_CREATOR_UID: Final = 0x00020100
PRIVATE_INFORMATION: Final = 0x00020102
# Tag, VR "UL", length 4, value: the group length is the first element and always this long.
_GROUP_LENGTH_ELEMENT: Final = struct.Struct("<HH2sHL")
_META_START: Final = len(_PREAMBLE_AND_PREFIX) + _GROUP_LENGTH_ELEMENT.size


def file_head(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    *,
    private_information: bytes | None = None,
) -> bytes:
    """Return what precedes the data set in the file of an instance (PS3.10 7.1).

    Private information stays in the file: group 0002 is never sent to a peer.
    """
    private: tuple[tuple[int, str, str | bytes], ...] = ()
    if private_information is not None:
        private = (
            (_PRIVATE_INFORMATION_CREATOR_UID, "UI", IMPLEMENTATION_CLASS_UID),
            (PRIVATE_INFORMATION, "OB", private_information),
        )
    elements: tuple[tuple[int, str, str | bytes], ...] = (
        (0x00020001, "OB", b"\x00\x01"),
        (0x00020002, "UI", sop_class_uid),
        (0x00020003, "UI", sop_instance_uid),
        (_TRANSFER_SYNTAX_UID, "UI", transfer_syntax_uid),
        (0x00020012, "UI", IMPLEMENTATION_CLASS_UID),
        (0x00020013, "SH", _VERSION_NAME_OF_FILES),
        *private,
    )
    meta = b"".join(
        encode_element(
            tag,
            vr,
            value.encode("ascii", "replace") if isinstance(value, str) else value,
            explicit=True,
            little_endian=True,
        )
        for tag, vr, value in elements
    )
    group_length = encode_element(
        _FILE_META_GROUP_LENGTH, "UL", struct.pack("<L", len(meta)),
        explicit=True, little_endian=True,
    )  # fmt: skip
    return _PREAMBLE_AND_PREFIX + group_length + meta


def data_set_offset(file: bytes | bytearray | memoryview) -> int:
    """Return where the data set starts in a PS3.10 file that has a group length.

    Raises:
        CannotUnderstand: the file has no preamble and prefix, or no (0002,0000).
    """
    if bytes(file[128:132]) != b"DICM" or len(file) < _META_START:
        raise CannotUnderstand("the file has no PS3.10 preamble and prefix")
    group, element, vr, length, value = _GROUP_LENGTH_ELEMENT.unpack_from(file, 132)
    if (group, element, vr, length) != (0x0002, 0x0000, b"UL", 4):
        raise CannotUnderstand("the file meta information has no group length")
    return _META_START + int(value)
