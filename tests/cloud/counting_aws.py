"""A way to AWS on which requests are counted by service and operation, with DynamoDB's own units.

It stands in front of moto, or of DynamoDB Local, which is asked to say what each request consumes,
as nobody who is counted here does.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast
from urllib.parse import parse_qs, urlsplit

from tests.reverse_proxy import Forwarding, ReverseProxy

#: What a query string says of a request to S3 beside its method.
_S3_SUBRESOURCES: Final = ("uploads", "uploadId", "tagging", "versioning", "versions")
_S3_OPERATIONS: Final = {
    ("PUT", ""): "PutObject",
    ("PUT", "tagging"): "PutObjectTagging",
    ("PUT", "uploadId"): "UploadPart",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("GET", ""): "GetObject",
    ("GET", "list-type"): "ListObjectsV2",
    ("HEAD", ""): "HeadObject",
    ("DELETE", ""): "DeleteObject",
}
_WRITES: Final = frozenset({"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"})
READ_UNITS: Final = "dynamodb:read-units"
WRITE_UNITS: Final = "dynamodb:write-units"


class CountingAws(ReverseProxy):
    """Passes requests on and counts them.

    Attributes:
        counts: requests by `service:Operation`, and DynamoDB's units
    """

    def __init__(self, endpoint: str, *, but: bytes | None = None) -> None:
        """Stand in front of `endpoint`; what has `but` in its body is not counted."""
        self.but = but
        self.counts: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        super().__init__(endpoint, _Handler)

    def count(self, name: str, number: float = 1) -> None:
        """Count a request, or units."""
        with self._lock:
            self.counts[name] += number

    def taken(self) -> dict[str, float]:
        """Return what was counted, and begin anew."""
        with self._lock:
            counts, self.counts = self.counts, defaultdict(float)
        return counts


class _Handler(Forwarding):
    def do_any(self) -> None:
        aws = cast("CountingAws", self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = self.headers.get("X-Amz-Target", "")
        counts = aws.but is None or aws.but not in body
        if counts:
            aws.count(operation(self.command, self.path, target))
        consumes = target.startswith("DynamoDB_")
        if consumes:
            body = json.dumps({**json.loads(body), "ReturnConsumedCapacity": "TOTAL"}).encode()
        answer = self.forward(body)
        if consumes and counts:
            units = WRITE_UNITS if target.rpartition(".")[2] in _WRITES else READ_UNITS
            aws.count(units, _units(json.loads(answer.content)))
        self.answer(answer)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = do_any


def operation(method: str, path: str, target: str) -> str:
    """Name the operation of a request as AWS names it, `service:Operation`."""
    if target:
        service = "sqs" if target.startswith("AmazonSQS") else "dynamodb"
        return f"{service}:{target.rpartition('.')[2]}"
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    names = [name for name in (*_S3_SUBRESOURCES, "list-type") if name in query]
    return f"s3:{_S3_OPERATIONS[method, names[0] if names else '']}"


def _units(answer: dict[str, Any]) -> float:
    consumed = answer.get("ConsumedCapacity", [])
    each = consumed if isinstance(consumed, list) else [consumed]
    return sum(float(part["CapacityUnits"]) for part in each)


@contextmanager
def counting_aws(endpoint: str, *, but: bytes | None = None) -> Iterator[CountingAws]:
    """Run a way to AWS that counts, as `CountingAws` says."""
    aws = CountingAws(endpoint, but=but)
    try:
        yield aws
    finally:
        aws.close()
