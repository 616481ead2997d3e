"""An object put in parts (S3 multipart upload): in the end it is there whole, or nothing is.

    create ─▶ part, part, part ... ─▶ complete, if the key has no object yet
                     │                    │
                     └───── failure ──────┴─▶ abort

boto3 makes these requests, for obstore neither completes an upload on condition nor aborts one that
failed. What it costs beside obstore is little for a file this large.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import RawIOBase
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from lenticular.aws import error_code
from lenticular.errors import StoreUnavailable

from .backoff import persistently

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

#: S3 takes 10,000 parts, so this is room for 160 GB.
_PART_BYTES: Final = 16 << 20
_PARTS_AT_A_TIME: Final = 4
_FAILURES: Final = (BotoCoreError, ClientError)
#: Error codes that S3 gives without fault of the request; the others of their kind have status 5xx.
_TRANSIENT_CODES: Final = frozenset({"BadDigest", "RequestTimeout", "SlowDown", "Throttling"})
_SERVER_ERROR: Final = 500

_T = TypeVar("_T")


class Uploads:
    """Puts files in parts. Safe to share between threads."""

    def __init__(self, client: "S3Client", bucket: str, *, retry_seconds: float) -> None:
        """Use `client`, which tries nothing again; each request is tried for `retry_seconds`."""
        self._client = client
        self._bucket = bucket
        self._retry_seconds = retry_seconds

    def put(
        self,
        key: str,
        file: IO[bytes] | RawIOBase,
        metadata: Mapping[str, str],
        *,
        is_going: Callable[[str], bool],
    ) -> bool:
        """Put a file, read from where it stands to its end; False when the key had an object.

        Over one that `is_going` says is deleted, the file is put. What that raises is passed on.

        Raises:
            StoreUnavailable: S3 did not take it. Nothing is visible, and no part is left unless
                S3 refused the abort too; the bucket's lifecycle rule removes those.
        """
        # In this order: what is there after none was deleting it is not what one has hidden.
        over = is_going(key)
        if not over and self.holds(key):
            return False
        created = self._asked(
            lambda: self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                ContentType="application/dicom",
                Metadata=metadata,
                ChecksumAlgorithm="SHA256",
            )
        )
        upload_id = created["UploadId"]
        try:
            parts = self._put_parts(key, upload_id, file)
            return self._complete(key, upload_id, parts, is_going, over=over)
        except BaseException:
            with contextlib.suppress(*_FAILURES):
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload_id
                )
            raise

    def holds(self, key: str) -> bool:
        """Tell whether the bucket holds the object, or raise `StoreUnavailable`."""
        try:
            self._asked(lambda: self._client.head_object(Bucket=self._bucket, Key=key))
        except StoreUnavailable as error:
            if _status(error.__cause__) == 404:  # noqa: PLR2004 - HTTP's own number
                return False
            raise
        return True

    def _put_parts(
        self, key: str, upload_id: str, file: IO[bytes] | RawIOBase
    ) -> "list[CompletedPartTypeDef]":
        parts: list[CompletedPartTypeDef] = []
        under_way: deque[Future[CompletedPartTypeDef]] = deque()
        # Leaving it waits for what is under way: a part that ends after the abort would stay.
        with ThreadPoolExecutor(_PARTS_AT_A_TIME) as pool:
            for number, part in enumerate(_parts(file), 1):
                if len(under_way) == _PARTS_AT_A_TIME:
                    parts.append(under_way.popleft().result())
                under_way.append(pool.submit(self._put_part, key, upload_id, number, part))
            parts += [each.result() for each in under_way]
        return parts

    def _put_part(
        self, key: str, upload_id: str, number: int, part: bytes
    ) -> "CompletedPartTypeDef":
        answer = self._asked(
            lambda: self._client.upload_part(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                PartNumber=number,
                Body=part,
                ChecksumAlgorithm="SHA256",
            )
        )
        completed: CompletedPartTypeDef = {"PartNumber": number, "ETag": answer["ETag"]}
        if "ChecksumSHA256" in answer:  # not every store that speaks S3 gives it back
            completed["ChecksumSHA256"] = answer["ChecksumSHA256"]
        return completed

    def _complete(
        self,
        key: str,
        upload_id: str,
        parts: "list[CompletedPartTypeDef]",
        is_going: Callable[[str], bool],
        *,
        over: bool,
    ) -> bool:
        """Make the parts an object; False when the key got another one meanwhile that stays.

        With `over`, whatever the key has. Else one that goes may be ours, of which the answer was
        lost, and to complete it again would only seem to put it anew: its sender begins again.
        """
        condition: dict[str, Any] = {} if over else {"IfNoneMatch": "*"}
        try:
            self._asked(
                lambda: self._client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": parts},
                    **condition,
                )
            )
        except StoreUnavailable:
            # Somebody else's object, or ours, of which the answer was lost: to us it is the same.
            if over or is_going(key) or not self.holds(key):
                raise
            with contextlib.suppress(*_FAILURES):
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload_id
                )
            return False
        return True

    def _asked(self, request: Callable[[], _T]) -> _T:
        """Return what S3 answers, or raise `StoreUnavailable`."""
        try:
            return persistently(request, self._retry_seconds, is_transient=_is_transient)
        except _FAILURES as error:
            raise StoreUnavailable(f"S3 did not take the file: {error_code(error)}") from error


def _parts(file: IO[bytes] | RawIOBase) -> Iterator[bytes]:
    while part := file.read(_PART_BYTES):
        yield part


def _is_transient(error: Exception) -> bool:
    if isinstance(error, ClientError):
        return (_status(error) or 0) >= _SERVER_ERROR or error_code(error) in _TRANSIENT_CODES
    return isinstance(error, HTTPClientError)


def _status(error: BaseException | None) -> int | None:
    if not isinstance(error, ClientError):
        return None
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
