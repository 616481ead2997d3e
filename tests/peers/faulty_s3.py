"""A way to S3 on which requests fail as they do on AWS: a proxy that a test puts in front of moto.

The gateway alone takes this way; a test looks at the bucket directly.
"""

import base64
import hashlib
import json
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, cast

from tests.reverse_proxy import Answer, Forwarding, ReverseProxy

#: With this, closing a socket sends RST instead of FIN.
_LINGER_NOT_AT_ALL: Final = struct.pack("ii", 1, 0)


class Fault(Enum):
    """How a request to S3 can end other than well."""

    SLOW_DOWN = auto()
    INTERNAL_ERROR = auto()
    ACCESS_DENIED = auto()
    NO_SUCH_BUCKET = auto()
    #: What S3 says of If-None-Match when it cannot tell; the object need not be there.
    CONFLICT = auto()
    #: What S3 says of a long CompleteMultipartUpload: the answer began before the failure.
    ERROR_WITHIN_SUCCESS = auto()
    CONNECTION_RESET = auto()
    RESET_WITHIN_BODY = auto()
    #: S3 has done it, but nobody hears so.
    ANSWER_LOST = auto()
    BODY_ALTERED = auto()
    #: What DynamoDB says of more than the table, or a partition of it, can do.
    THROTTLED = auto()
    #: What DynamoDB says of an item that is too large, however often it comes.
    ITEM_REFUSED = auto()
    #: Nothing happens until `FaultyS3.heal`; then S3 does it.
    HELD = auto()


#: Status and error code, as the API references of Amazon S3 ("Error responses") and DynamoDB
#: ("Common Errors") list them.
_ERRORS: Final[Mapping[Fault, tuple[int, str]]] = {
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.INTERNAL_ERROR: (500, "InternalError"),
    Fault.ACCESS_DENIED: (403, "AccessDenied"),
    Fault.NO_SUCH_BUCKET: (404, "NoSuchBucket"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
    Fault.ERROR_WITHIN_SUCCESS: (200, "InternalError"),
    Fault.BODY_ALTERED: (400, "BadDigest"),
    Fault.THROTTLED: (400, "ProvisionedThroughputExceededException"),
    Fault.ITEM_REFUSED: (400, "ValidationException"),
}


def _crc64_nvme(body: bytes) -> bytes:
    """Compute CRC-64/NVME, which S3 calls CRC64NVME, as it stands in the header before base64."""
    crc = _ONES
    for byte in body:
        crc = _CRC64_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return (crc ^ _ONES).to_bytes(8, "big")


def _crc64_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_CRC64_POLYNOMIAL if byte & 1 else 0)
    return byte


_ONES: Final = (1 << 64) - 1
_CRC64_POLYNOMIAL: Final = 0x9A6C9329AC4BC9B5
_CRC64_TABLE: Final = [_crc64_of_byte(byte) for byte in range(256)]
#: How S3 verifies a body, by the header that says what it is.
_CHECKSUMS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "x-amz-checksum-crc64nvme": _crc64_nvme,
    "x-amz-checksum-sha256": lambda body: hashlib.sha256(body).digest(),
}


@dataclass
class _Rule:
    fault: Fault
    where: str
    times: int | None
    after: int


class FaultyS3(ReverseProxy):
    """Passes requests on to S3 but for those a test wants to fail.

    Attributes:
        failed: how many requests failed in each way
        held: how many requests are held now
        holding: what they are, as `fail` compares it
        mistakes: what went wrong here that should not have
    """

    def __init__(self, s3_endpoint: str) -> None:
        """Stand in front of `s3_endpoint`."""
        self.failed: Counter[Fault] = Counter()
        self.held = 0
        self.holding: list[str] = []
        self.mistakes: list[BaseException | None] = []
        self._rules: list[_Rule] = []
        self._changed = threading.Condition()
        self._healed = 0
        super().__init__(s3_endpoint, _Handler)

    def fail(
        self, fault: Fault, *, where: str = "", times: int | None = None, after: int = 0
    ) -> None:
        """Fail requests, all or the next so many, with `where` in `METHOD /bucket/key?query RANGE`.

        The first `after` of them pass. RANGE is as in the header: `bytes=0-99`.
        A request to DynamoDB, in front of which this may stand too, is `POST / BODY`.
        """
        with self._changed:
            self._rules.append(_Rule(fault, where, times, after))

    def heal(self) -> None:
        """Fail no more, and let go of what is held."""
        with self._changed:
            self._rules.clear()
            self._healed += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Stop listening, and let go of what is held."""
        self.heal()
        super().close()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - as socketserver calls it
        """Note a mistake of ours; a gateway that is killed leaves broken connections."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.mistakes.append(error)

    def fault_for(self, request: str) -> Fault | None:
        """Say how a request is to fail."""
        with self._changed:
            for rule in self._rules:
                if rule.where not in request:
                    continue
                if rule.after:
                    rule.after -= 1
                elif rule.times != 0:
                    if rule.times is not None:
                        rule.times -= 1
                    self.failed[rule.fault] += 1
                    return rule.fault
        return None

    def hold(self, request: str) -> None:
        """Return when `heal` is called."""
        with self._changed:
            healed = self._healed
            self.held += 1
            self.holding.append(request)
            self._changed.wait_for(lambda: self._healed > healed)
            self.holding.remove(request)
            self.held -= 1


class _Handler(Forwarding):
    @property
    def _s3(self) -> FaultyS3:
        return cast("FaultyS3", self.server)

    def do_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if "X-Amz-Target" in self.headers:
            body = self.rfile.read(length)
            request = f"{self.command} {self.path} {body.decode()}"
            fault = self._s3.fault_for(request)
        else:
            request = f"{self.command} {self.path} {self.headers.get('Range', '')}"
            fault = self._s3.fault_for(request)
            body = self.rfile.read(length // 2 if fault is Fault.RESET_WITHIN_BODY else length)
        match fault:
            case None:
                self.answer(self.forward(body))
            case Fault.HELD:
                self._s3.hold(request)
                self.answer(self.forward(body))
            case Fault.ANSWER_LOST:
                self.forward(body)
                self._reset()
            case Fault.CONNECTION_RESET | Fault.RESET_WITHIN_BODY:
                self._reset()
            case Fault.BODY_ALTERED:
                self._forward_if_intact(body[:-1] + bytes([body[-1] ^ 0xFF]))
            case _:
                self._refuse(fault)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = do_any

    def _forward_if_intact(self, body: bytes) -> None:
        """Verify checksums as S3 does and moto does not; without one anything is intact."""
        claims = [
            (claimed, compute)
            for name, compute in _CHECKSUMS.items()
            if (claimed := self.headers.get(name))
        ]
        if all(base64.b64decode(claimed) == compute(body) for claimed, compute in claims):
            self.answer(self.forward(body))
        else:
            self._refuse(Fault.BODY_ALTERED)

    def _refuse(self, fault: Fault) -> None:
        status, code = _ERRORS[fault]
        if "X-Amz-Target" in self.headers:
            content, kind = (
                json.dumps({"__type": f"#{code}"}).encode(),
                "application/x-amz-json-1.0",
            )
        else:
            content, kind = f"<Error><Code>{code}</Code></Error>".encode(), "application/xml"
        self.answer(Answer(status, [("Content-Type", kind)], content))

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
        self.connection.close()


@contextmanager
def faulty_s3(s3_endpoint: str) -> Iterator[FaultyS3]:
    """Run a way to S3 that is sound until a test says otherwise."""
    s3 = FaultyS3(s3_endpoint)
    try:
        yield s3
    finally:
        s3.close()
    assert not s3.mistakes
