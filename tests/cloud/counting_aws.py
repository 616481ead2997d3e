"""A way to AWS on which requests are counted by service and operation, with DynamoDB's own units.

It stands in front of moto, or of DynamoDB Local, which is asked to say what each request consumes,
as nobody who is counted here does.
"""

import http.client
import http.server
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast
from urllib.parse import parse_qs, urlsplit

_FORWARD_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
#: They belong to one connection, RFC 9110 7.6.1, or are written anew.
_NOT_FORWARDED: Final = frozenset({"connection", "content-length", "host", "transfer-encoding"})
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


class CountingAws:
    """Passes requests on and counts them.

    Attributes:
        counts: requests by `service:Operation`, and DynamoDB's units
        endpoint: where clients find it
    """

    def __init__(self, endpoint: str, *, but: bytes | None = None) -> None:
        """Stand in front of `endpoint`; what has `but` in its body is not counted."""
        self.but = but
        self.counts: dict[str, float] = defaultdict(float)
        self.address = urlsplit(endpoint).netloc
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,))
        self._thread.start()

    def count(self, name: str, number: float = 1) -> None:
        """Count a request, or units."""
        with self._lock:
            self.counts[name] += number

    def taken(self) -> dict[str, float]:
        """Return what was counted, and begin anew."""
        with self._lock:
            counts, self.counts = self.counts, defaultdict(float)
        return counts

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, aws: CountingAws) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.aws = aws


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_any(self) -> None:
        aws = cast("_Server", self.server).aws
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = self.headers.get("X-Amz-Target", "")
        counts = aws.but is None or aws.but not in body
        if counts:
            aws.count(operation(self.command, self.path, target))
        consumes = target.startswith("DynamoDB_")
        if consumes:
            body = json.dumps({**json.loads(body), "ReturnConsumedCapacity": "TOTAL"}).encode()
        connection = http.client.HTTPConnection(aws.address, timeout=_FORWARD_SECONDS)
        try:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _NOT_FORWARDED
            }
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if consumes and counts:
            name = target.rpartition(".")[2]
            aws.count(WRITE_UNITS if name in _WRITES else READ_UNITS, _units(json.loads(content)))
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            # The checksum is of what came, which nothing changes on its way.
            if name.lower() not in _NOT_FORWARDED or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

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
