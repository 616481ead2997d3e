"""An object store in the place of S3, lean enough that S3 is not what is measured.

    python -m tests.bench.sink [--put-seconds S] [--get-seconds S] [--keep]

It speaks as much HTTP as S3 clients need to PUT, HEAD, GET and list objects: Content-Length is held
to, `If-None-Match: *` too, `Expect: 100-continue` is answered, ranges and user metadata are given
back. Signatures and checksums are not looked at.

Unless it is told to keep them, it forgets the bytes of objects; a GET then gives as many zeros. On
Linux the kernel throws a body away without copying it to us (MSG_TRUNC, tcp(7)), so that a PUT
costs this process a tenth of a millisecond.

Each PUT is answered S seconds after its last byte came, each GET S seconds after it was asked for,
in its connection's own thread.
"""

import argparse
import json
import socket
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

_HEAD_MAX_BYTES: Final = 64 * 1024
_SCRATCH_BYTES: Final = 1 << 20
_DISCARD: Final = (socket.MSG_TRUNC | socket.MSG_WAITALL) if sys.platform == "linux" else 0
_MORE: Final = socket.MSG_MORE if sys.platform == "linux" else 0
_END_OF_HEAD: Final = b"\r\n\r\n"
#: What S3 lists at a time.
_PAGE: Final = 1000
_METADATA: Final = "x-amz-meta-"
_LAST_MODIFIED: Final = "Mon, 05 Jan 2026 10:15:00 GMT"
_LISTED_MODIFIED: Final = "2026-01-05T10:15:00.000Z"


@dataclass(frozen=True, slots=True)
class _Object:
    """What is known of an object; `body` is None unless objects are kept."""

    length: int
    metadata: Mapping[str, str]
    body: bytearray | None

    @property
    def etag(self) -> str:
        """What stands for its content, which nobody here looks at."""
        return f'"{self.length:032x}"'

    def part(self, wanted_range: str) -> tuple[bytes | memoryview, str]:
        """Return the bytes of a Range header, or all, and the Content-Range where it is a part."""
        first, last = 0, self.length - 1
        if wanted_range.startswith("bytes="):
            low, _, high = wanted_range.removeprefix("bytes=").partition("-")
            first = int(low)
            last = min(last, int(high) if high else last)
        count = last + 1 - first
        part = bytes(count) if self.body is None else memoryview(self.body)[first : first + count]
        return part, f"bytes {first}-{last}/{self.length}" if wanted_range else ""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]


@dataclass(slots=True)
class _Store:
    """The objects by path, and how they are taken."""

    put_seconds: float
    get_seconds: float
    keep: bool
    objects: dict[str, _Object] = field(default_factory=dict)

    def listing(self, bucket: str, prefix: str, after: str) -> bytes:
        """Return a page of ListObjectsV2's answer; its continuation token is its last path."""
        start = f"/{bucket}/"
        paths = sorted(path for path in self.objects if path.startswith(start + prefix))
        first = bisect_right(paths, after)
        page = paths[first : first + _PAGE]
        more = first + _PAGE < len(paths)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        contents = "".join(
            f"<Contents><Key>{escape(path.removeprefix(start))}</Key>"
            f"<Size>{known.length}</Size><ETag>{known.etag}</ETag>"
            f"<LastModified>{_LISTED_MODIFIED}</LastModified></Contents>"
            for path in page
            for known in [self.objects[path]]
        )
        return (
            '<?xml version="1.0"?><ListBucketResult>'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
        ).encode()


class _Gone(Exception):
    """The client closed the connection, or says what cannot be followed."""


class _Connection:
    """One client's requests, one after the other."""

    def __init__(self, sock: socket.socket, store: _Store) -> None:
        self._sock = sock
        self._store = store
        self._received = bytearray()
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))

    def serve(self) -> None:
        """Answer until the client goes."""
        with self._sock:
            try:
                while True:
                    self._answer(self._read_head())
            except (OSError, _Gone):
                return

    def _read_head(self) -> _Request:
        while (end := self._received.find(_END_OF_HEAD)) < 0:
            piece = self._sock.recv(_HEAD_MAX_BYTES)
            if not piece or len(self._received) > _HEAD_MAX_BYTES:
                raise _Gone
            self._received += piece
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        del self._received[: end + len(_END_OF_HEAD)]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        return _Request(method, unquote(path), parse_qs(query), headers)

    def _answer(self, request: _Request) -> None:
        known = self._store.objects.get(request.path)
        if request.method == "PUT":
            self._put(request, known)
        elif request.method == "GET" and "list-type" in request.query:
            (prefix,) = request.query.get("prefix", [""])
            (after,) = request.query.get("continuation-token", [""])
            self._say("200 OK", body=self._store.listing(request.path.strip("/"), prefix, after))
        elif request.method not in ("GET", "HEAD"):
            self._say("501 Not Implemented")
            raise _Gone
        elif known is None:
            self._say("404 Not Found")
        else:
            self._give(request, known)

    def _put(self, request: _Request, known: _Object | None) -> None:
        if "content-length" not in request.headers:
            self._say("411 Length Required")
            raise _Gone
        if request.headers.get("expect", "").lower() == "100-continue":
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(request.headers["content-length"])
        body = None
        if self._store.keep:
            body = self._take(length)
        else:
            self._skip(length)
        if self._store.put_seconds:
            time.sleep(self._store.put_seconds)
        if known is not None and request.headers.get("if-none-match") == "*":
            self._say("412 Precondition Failed")
            return
        metadata = {
            name: value for name, value in request.headers.items() if name.startswith(_METADATA)
        }
        self._store.objects[request.path] = _Object(length, metadata, body)
        self._say("200 OK", {"ETag": f'"{length:032x}"'})

    def _give(self, request: _Request, known: _Object) -> None:
        body, content_range = known.part(request.headers.get("range", ""))
        if self._store.get_seconds and request.method == "GET":
            time.sleep(self._store.get_seconds)
        headers = {
            **known.metadata,
            "ETag": known.etag,
            "Last-Modified": _LAST_MODIFIED,
        }
        if content_range:
            headers["Content-Range"] = content_range
        self._say(
            "206 Partial Content" if content_range else "200 OK",
            headers,
            body,
            without_body=request.method == "HEAD",
        )

    def _take(self, length: int) -> bytearray:
        """Read a body."""
        body = bytearray(length)
        at = min(length, len(self._received))
        body[:at] = self._received[:at]
        del self._received[:at]
        view = memoryview(body)
        while at < length:
            count = self._sock.recv_into(view[at:])
            if not count:
                raise _Gone
            at += count
        return body

    def _skip(self, length: int) -> None:
        """Read a body and forget it."""
        here = min(length, len(self._received))
        del self._received[:here]
        length -= here
        while length:
            count = self._sock.recv_into(self._scratch, min(length, _SCRATCH_BYTES), _DISCARD)
            if not count:
                raise _Gone
            length -= count

    def _say(
        self,
        status: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        *,
        without_body: bool = False,
    ) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if without_body or not body:
            self._sock.sendall(head)
        else:
            self._sock.sendall(head, _MORE)
            self._sock.sendall(body)


def main() -> None:
    """Serve on a free port of this machine until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sink")
    parser.add_argument("--put-seconds", type=float, default=0.0)
    parser.add_argument("--get-seconds", type=float, default=0.0)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    store = _Store(options.put_seconds, options.get_seconds, options.keep)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        print(json.dumps({"event": "ready", "port": listening.getsockname()[1]}), flush=True)
        while True:
            sock, _ = listening.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(sock, store)
            threading.Thread(target=connection.serve, daemon=True).start()


if __name__ == "__main__":
    main()
