"""Writing forms into the bucket, and retiring the originals that they restore to.

A form is written once under its natural key, and S3 checks the SHA-256 of what arrives. It may go
into a class that costs less to keep and more to read: where the original stays, that is what is
read. Retiring tags the original and puts a delete marker on it: nothing here may destroy a version,
the bucket's lifecycle does that, by the tag, when the time for second thoughts has passed.
"""

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from .aws import error_code
from .errors import StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

#: The tag, name and value, of a version that may end because a form restores to it.
RETIRED_TAG: Final = ("retired", "true")
_CONTENT_TYPE: Final = "application/dicom"
#: Up to this size in one request. S3 wants parts of 5 MiB at least, and 10,000 at most.
_PART_BYTES: Final = 16 << 20
_MOST_PARTS: Final = 10_000
_READ_BYTES: Final = 1 << 20
#: A shorter object costs in a colder class what one of this length does.
_LEAST_COLD_BYTES: Final = 128 << 10
#: What S3 says of tagging where there is nothing, or where the newest version is a delete marker.
_GONE_CODES: Final = frozenset({"NoSuchKey", "404", "MethodNotAllowed", "405"})
_EXISTS_CODES: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})


class FormStore:
    """Writes below `transcoded/`. Safe to share between threads."""

    def __init__(self, client: "S3Client", bucket: str, storage_class: str | None = None) -> None:
        """Write to `bucket` through `client`, into a class of S3's that is read at once."""
        self._client = client
        self.bucket = bucket
        self._storage_class = storage_class

    def keep(
        self, key: str, file: IO[bytes], metadata: Mapping[str, str], *, replace: bool = False
    ) -> bool:
        """Put a form; False when S3 has one under this key already, which `replace` replaces.

        Raises:
            StoreUnavailable: S3 did not take it; it may or may not be there.
        """
        size = file.seek(0, io.SEEK_END)
        condition: dict[str, Any] = {} if replace else {"IfNoneMatch": "*"}
        common: dict[str, Any] = {
            "Bucket": self.bucket,
            "Key": key,
            "ContentType": _CONTENT_TYPE,
            "Metadata": dict(metadata),
        }
        if self._storage_class is not None and size >= _LEAST_COLD_BYTES:
            common["StorageClass"] = self._storage_class
        try:
            if size <= _PART_BYTES:
                file.seek(0)
                content = file.read()
                self._client.put_object(
                    **common, **condition, Body=content, ChecksumSHA256=_checksum(content)
                )
            else:
                self._upload(file, size, common, condition)
        except ClientError as error:
            if error_code(error) in _EXISTS_CODES and not replace:
                return False
            raise StoreUnavailable(f"S3 did not take the form: {error_code(error)}") from error
        except BotoCoreError as error:
            raise StoreUnavailable(f"S3 did not answer: {type(error).__name__}") from error
        return True

    def leave_alone(self, key: str) -> None:
        """Put the empty object whose key says why an original has no form."""
        self._call(self._client.put_object, Key=key, Body=b"")

    def retire(self, key: str) -> None:
        """Tag an original and put a delete marker on it; on one that is gone, nothing.

        Without the tag no version ends: a crash between the two leaves an object that is read. What
        is behind the newest version is left as it is. Mostly there is nothing, or what has a tag
        already: of an earlier retirement, or of a deletion, which promised to keep it for longer.
        What came twice while its study was deleted has none, and stays until the study is deleted.
        """
        name, value = RETIRED_TAG
        tagging: Any = {"TagSet": [{"Key": name, "Value": value}]}
        try:
            self._client.put_object_tagging(Bucket=self.bucket, Key=key, Tagging=tagging)
            self._client.delete_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error_code(error) not in _GONE_CODES:
                raise StoreUnavailable(f"S3 did not retire it: {error_code(error)}") from error
        except BotoCoreError as error:
            raise StoreUnavailable(f"S3 did not answer: {type(error).__name__}") from error

    def _upload(
        self, file: IO[bytes], size: int, common: dict[str, Any], condition: dict[str, Any]
    ) -> None:
        upload = self._client.create_multipart_upload(**common, ChecksumAlgorithm="SHA256")
        place: dict[str, Any] = {"Bucket": self.bucket, "Key": common["Key"]}
        place["UploadId"] = upload["UploadId"]
        part_bytes = max(_PART_BYTES, -(-size // _MOST_PARTS))
        parts: list[CompletedPartTypeDef] = []
        try:
            for number, part in enumerate(_parts(file, part_bytes), 1):
                checksum = _checksum(part)
                answer = self._client.upload_part(
                    **place, PartNumber=number, Body=part, ChecksumSHA256=checksum
                )
                parts.append(
                    {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}
                )
            self._client.complete_multipart_upload(
                **place, **condition, MultipartUpload={"Parts": parts}
            )
        except (ClientError, BotoCoreError):
            # What is left behind is not seen, and the bucket's lifecycle removes it in the end.
            self._client.abort_multipart_upload(**place)
            raise

    def _call(self, operation: Any, **request: Any) -> None:  # noqa: ANN401 - any of the client's
        try:
            operation(Bucket=self.bucket, **request)
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(f"S3 refused or did not answer: {error_code(error)}") from error


def file_sha256(file: IO[bytes]) -> str:
    """Return the SHA-256 of a whole file in hexadecimal; moves its position."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(_READ_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _parts(file: IO[bytes], length: int) -> Iterator[bytes]:
    file.seek(0)
    while part := file.read(length):
        yield part


def _checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode("ascii")
