"""An S3 that remembers only digests: gigabytes cost it nothing, and ten thousand objects little.

It does what a gateway asks of S3 while it stores, and no more.
"""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import parse_qs, urlsplit

from lenticular.archive import DELETIONS

_READ_BYTES: Final = 1 << 20
_POLL_SECONDS: Final = 0.02
_PART: Final = re.compile(rb"<PartNumber>(\d+)</PartNumber>")
_NO_KEYS: Final = b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"


@dataclass(frozen=True)
class Part:
    """How long a part is, and its SHA-256."""

    size: int
    sha256: str


@dataclass
class Held:
    """What the store holds: parts that wait, by upload, and objects as their parts."""

    uploads: dict[str, dict[int, Part]] = field(default_factory=dict)
    objects: dict[str, list[Part]] = field(default_factory=dict)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.held = Held()
        self.lock = threading.Lock()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(200 if self._key in self._held.objects else 404)

    def do_GET(self) -> None:
        # Whether its study is being deleted is asked before a large file is put; none is here.
        if self._query["prefix"][0].startswith(DELETIONS):
            self._answer(200, _NO_KEYS)
        else:
            self._answer(501)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with cast("_Server", self.server).lock:
            if "uploads" in self._query:
                upload = f"upload{len(self._held.uploads)}"
                self._held.uploads[upload] = {}
                made = f"<UploadId>{upload}</UploadId>"
                answer = f"<InitiateMultipartUploadResult>{made}</InitiateMultipartUploadResult>"
            else:
                parts = self._held.uploads.pop(self._query["uploadId"][0])
                numbers = [int(number) for number in _PART.findall(body)]
                self._held.objects[self._key] = [parts[number] for number in numbers]
                answer = "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
        self._answer(200, answer.encode())

    def do_PUT(self) -> None:
        digest = hashlib.sha256()
        left = size = int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read(min(left, _READ_BYTES))
            digest.update(piece)
            left -= len(piece)
        part = Part(size, digest.hexdigest())
        if "uploadId" not in self._query:
            self._held.objects[self._key] = [part]
            self._answer(200, etag='"whole"')
            return
        number = int(self._query["partNumber"][0])
        self._held.uploads[self._query["uploadId"][0]][number] = part
        self._answer(200, etag=f'"{number}"')

    @property
    def _held(self) -> Held:
        return cast("_Server", self.server).held

    @property
    def _key(self) -> str:
        return urlsplit(self.path).path.split("/", 2)[2]

    @property
    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def _answer(self, status: int, content: bytes = b"", etag: str = "") -> None:
        self.send_response_only(status)
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def digesting_s3() -> Iterator[tuple[str, Held]]:
    """Run one; yield its endpoint and what it holds."""
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.held
        finally:
            server.shutdown()
            thread.join()
