"""A C-STORE sender that costs next to nothing, so that the receiver is what is measured.

    python -m tests.bench.sender '{"host": ..., ...}'       the fields of `Errand`

One data set is encoded once into the PDUs of a whole C-STORE-RQ. For each instance only the UIDs
and the Message ID are overwritten in place, with others of the same length; then one call gives
everything to the kernel, and the response is waited for.

As a program it associates, prints a line when it is ready, waits for a line, sends, and prints
when (monotonic clock) it began and ended. It imports nothing but the standard library.
"""

import dataclasses
import json
import secrets
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from .association import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    C_STORE_RQ,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    DATA_SET_PRESENT,
    LAST,
    MESSAGE_ID,
    PRIORITY,
    STATUS,
    Association,
    PeerFailed,
    command_pdu,
    element,
    p_data,
    us,
)

CT_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
_MESSAGE_ID_MAX: Final = 0xFFFF
#: Free for all to use with pydicom; the digits behind it are random.
_UID_PREFIX: Final = "1.2.826.0.1.3680043.8.498."
_UID_DIGITS: Final = 18
#: Everything that is overwritten is in the head; pixel data need not be searched.
_HEAD_BYTES: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class Uids:
    """The UIDs of one instance. Their lengths do not depend on the numbers."""

    root: str
    series_number: int = 0
    instance_number: int = 0

    @property
    def study(self) -> str:
        """Study Instance UID."""
        return f"{self.root}.1"

    @property
    def series(self) -> str:
        """Series Instance UID."""
        return f"{self.root}.2.{1000 + self.series_number}"

    @property
    def instance(self) -> str:
        """SOP Instance UID."""
        return f"{self.root}.3.{100_000 + self.instance_number}"


#: What the data set that is given to a sender has as its UIDs.
PLACEHOLDER: Final = Uids(_UID_PREFIX + "9" * _UID_DIGITS)


def new_root() -> str:
    """Return a UID nobody has used, for the study of one association."""
    low = 10 ** (_UID_DIGITS - 1)
    return f"{_UID_PREFIX}{low + secrets.randbelow(9 * low)}"


class StoreRequest:
    """The PDUs of a C-STORE-RQ in one buffer, for one instance of a study after the other."""

    def __init__(self, data_set: bytes, root: str, fragment_bytes: int) -> None:
        """Encode the instances' common part, in fragments of that many bytes."""
        first = Uids(root)
        data_set = data_set.replace(PLACEHOLDER.root.encode(), root.encode())
        self._pdus = bytearray(
            command_pdu(
                {
                    AFFECTED_SOP_CLASS_UID: CT_IMAGE_STORAGE,
                    COMMAND_FIELD: C_STORE_RQ,
                    MESSAGE_ID: 1,
                    PRIORITY: 0,
                    COMMAND_DATA_SET_TYPE: DATA_SET_PRESENT,
                    AFFECTED_SOP_INSTANCE_UID: first.instance,
                }
            )
        )
        for start in range(0, len(data_set), fragment_bytes):
            fragment = data_set[start : start + fragment_bytes]
            self._pdus += p_data(LAST if start + fragment_bytes >= len(data_set) else 0, fragment)
        self._instances = self._places(first.instance.encode(), expected=2)
        self._series = self._places(first.series.encode(), expected=1)
        (message_id,) = self._places(element(MESSAGE_ID, 1), expected=1)
        self._message_id = message_id + len(element(MESSAGE_ID, 1)) - 2

    def _places(self, wanted: bytes, expected: int) -> list[int]:
        head = bytes(self._pdus[:_HEAD_BYTES])
        places = []
        at = head.find(wanted)
        while at >= 0:
            places.append(at)
            at = head.find(wanted, at + 1)
        if len(places) != expected:
            raise ValueError(f"{wanted!r} is in the message {len(places)} times, not {expected}")
        return places

    def of(self, uids: Uids, message_id: int) -> bytearray:
        """Return the PDUs for an instance; the next call overwrites them."""
        for places, uid in ((self._instances, uids.instance), (self._series, uids.series)):
            encoded = uid.encode()
            for place in places:
                self._pdus[place : place + len(encoded)] = encoded
        struct.pack_into("<H", self._pdus, self._message_id, message_id)
        return self._pdus


class StoreAssociation(Association):
    """An association that stores CT slices of one study in Explicit VR Little Endian."""

    def __init__(self, host: str, port: int, called_aet: str, data_set: bytes, root: str) -> None:
        """Associate, or raise `PeerFailed`."""
        super().__init__(
            host,
            port,
            called_aet,
            abstract_syntax=CT_IMAGE_STORAGE,
            transfer_syntax=_EXPLICIT_VR_LITTLE_ENDIAN,
        )
        self._request = StoreRequest(data_set, root, self.fragment_bytes)
        self._message_id = 0

    def store(self, uids: Uids) -> None:
        """Send an instance and return when it is acknowledged with 0000, or raise `PeerFailed`."""
        self._message_id = self._message_id % _MESSAGE_ID_MAX + 1
        self.send(self._request.of(uids, self._message_id))
        status = us(self.read_response()[STATUS])
        if status != 0:
            raise PeerFailed(f"answered a C-STORE-RQ with status {status:04X}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What the program is to send and where to. `data_set` is the path of the encoded slice."""

    host: str
    port: int
    called_aet: str
    data_set: str
    instances: int

    def to_json(self) -> str:
        """Write it for the command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def main() -> int:
    """Run one errand."""
    errand = Errand.from_json(sys.argv[1])
    data_set = Path(errand.data_set).read_bytes()
    root = new_root()
    try:
        association = StoreAssociation(errand.host, errand.port, errand.called_aet, data_set, root)
        print("ready", flush=True)
        if not sys.stdin.readline():
            return 1
        began = time.monotonic()
        for number in range(errand.instances):
            association.store(Uids(root, instance_number=number))
        ended = time.monotonic()
        association.release()
    except (OSError, PeerFailed) as error:
        print(f"the peer {error}", file=sys.stderr)
        return 1
    print(json.dumps({"began": began, "ended": ended}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
