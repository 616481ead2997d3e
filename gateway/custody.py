"""Custody: what is put here is in S3 before the call returns, and read back from there.

`Keeper` is what storing an instance needs of it; `spool.Spool` is the other one.

boto3 spends 2 to 3 ms of CPU on a PUT of half a megabyte, all of it holding the interpreter lock;
obstore (Rust's object_store) spends a quarter of that and lets other associations run meanwhile.
Every PUT carries a checksum of its bytes, which S3 verifies before it answers.
"""

import tempfile
from collections.abc import Mapping
from datetime import timedelta
from io import RawIOBase
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.parse import urlsplit

import boto3
import obstore
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import S3Store

from lenticular.archive import deletions_prefix, is_being_deleted, studies_of
from lenticular.aws import s3_client
from lenticular.errors import InstanceMissing, OperatorError, StoreUnavailable

from .backoff import persistently
from .upload import Uploads

_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_READ_TIMEOUT: Final = timedelta(seconds=60)
#: What S3 may take to answer a PUT, beside the time that the bytes take at the slowest we allow
#: for. With the retries it stays below the 30 s after which impatient senders give up waiting for
#: their answer: better A700 in time than an instance that is kept without its sender knowing.
_ANSWER_SECONDS: Final = 8
_SLOWEST_BYTES_PER_SECOND: Final = 4 << 20
_FIRST_PAUSE: Final = timedelta(milliseconds=100)
_LONGEST_PAUSE: Final = timedelta(seconds=3)
#: More than the retry time has room for, so that time alone decides.
_MOST_RETRIES: Final = 10_000
#: How long obstore goes on with the credentials that it was given; it would take half an hour. A
#: role's are renewed by botocore when they are asked for and have less than ten minutes left, so
#: that what we are given is valid for longer than we use it.
_CREDENTIALS_LIFETIME: Final = timedelta(minutes=9)
_AWS_SUFFIXES: Final = (".amazonaws.com", ".amazonaws.com.cn")


class AnotherRequestUnderWay(Exception):
    """S3 could not tell whether the object is there."""


#: What obstore raises: a bucket or an object that is not there is not among its own errors.
_FAILURES: Final = (BaseError, FileNotFoundError, AnotherRequestUnderWay)


class Buffered(Protocol):
    """Bytes that S3 can be given without a copy."""

    def __buffer__(self, flags: int, /) -> memoryview:
        """Expose the memory."""


class Keeper(Protocol):
    """Takes files into custody: what it took survives us. Safe to share between threads."""

    def scratch(self) -> IO[bytes]:
        """Open a file for what is too long for memory, or raise `OSError`; closing it removes it.

        It is written from its start and then given to `keep_large`.
        """

    def keep(self, key: str, file: "Buffered | bytearray", metadata: Mapping[str, str]) -> bool:
        """Take a file, never to be changed from now on; False when it was there already.

        Raises `StoreUnavailable`.
        """

    def keep_large(self, key: str, file: IO[bytes], metadata: Mapping[str, str]) -> bool:
        """Take a file that `scratch` opened; as `keep` otherwise."""


class Custody:
    """Puts files into the bucket and gets them from it. Safe to share between threads."""

    def __init__(
        self,
        bucket: str,
        *,
        retry_seconds: int,
        memory_bytes: int = 16 << 20,
        scratch_dir: Path | None = None,
    ) -> None:
        """Use `bucket` at the endpoint, region and credentials that boto3 finds.

        What S3 throttles or fails to do is tried again for `retry_seconds`. `keep` gets files of
        some `memory_bytes` at most. Scratch files go to `scratch_dir`, by default the system's.
        Raises `OperatorError` when AWS is not configured.
        """
        self._scratch_dir = scratch_dir
        self._retry_seconds = retry_seconds
        self._store = _open(bucket, retry_seconds, _READ_TIMEOUT)
        put_seconds = _ANSWER_SECONDS + memory_bytes / _SLOWEST_BYTES_PER_SECOND
        self._store_of_puts = _open(bucket, retry_seconds, timedelta(seconds=put_seconds))
        self._uploads = Uploads(s3_client(retries=False), bucket, retry_seconds=retry_seconds)

    def scratch(self) -> IO[bytes]:
        """Open a file that is unlinked from the start: nothing is left behind however we end."""
        return tempfile.TemporaryFile(dir=self._scratch_dir)

    def keep(self, key: str, file: Buffered | bytearray, metadata: Mapping[str, str]) -> bool:
        """Put a file and return once S3 has it; False when S3 had it already.

        The key holds the SHA-256 of the file, so an object that is there is this file. While an
        operator deletes its study, it is put over that: what is there may go, what comes now stays.

        Raises:
            StoreUnavailable: S3 did not take it; the file may or may not be there.
        """
        try:
            return persistently(
                lambda: self._put(key, file, metadata),
                self._retry_seconds,
                is_transient=_is_transient,
            )
        except _FAILURES as error:
            raise StoreUnavailable(f"S3 did not take the file: {_reason(error)}") from error

    def _put(self, key: str, file: Buffered | bytearray, metadata: Mapping[str, str]) -> bool:
        try:
            obstore.put(
                self._store_of_puts,
                key,
                file,
                attributes=_attributes(metadata),
                mode="create",
                use_multipart=False,
            )
        except AlreadyExistsError:
            # S3 says so in two ways, which the library does not tell apart. 412: the object is
            # there. 409: another request for the key was under way, and it need not be there.
            # In this order: what is there after none was deleting it is not what one has hidden.
            if not self._is_going(key):
                try:
                    obstore.head(self._store_of_puts, key)
                except FileNotFoundError as error:
                    raise AnotherRequestUnderWay from error
                return False
            obstore.put(
                self._store_of_puts,
                key,
                file,
                attributes=_attributes(metadata),
                use_multipart=False,
            )
        return True

    def _is_going(self, key: str) -> bool:
        """Tell whether what is there may be deleted with its study by a deletion under way."""
        return any(
            is_being_deleted(str(each["path"]) for page in pages for each in page)
            for study in studies_of([key])
            for pages in [obstore.list(self._store_of_puts, deletions_prefix(study))]
        )

    def keep_large(
        self, key: str, file: IO[bytes] | RawIOBase, metadata: Mapping[str, str]
    ) -> bool:
        """Put a file too large for memory, in parts; as `keep` otherwise.

        A part that fails leaves nothing, see `Uploads.put`.
        """
        try:
            return self._uploads.put(key, file, metadata, is_going=self._is_going)
        except _FAILURES as error:
            raise StoreUnavailable(f"S3 did not take the file: {_reason(error)}") from error

    def get(self, key: str, start: int, length: int) -> memoryview:
        """Get `length` bytes of a file from `start` on.

        Raises:
            InstanceMissing: the bucket holds no such object.
            StoreUnavailable: S3 did not give these bytes.
        """
        try:
            part = memoryview(obstore.get_range(self._store, key, start=start, length=length))
        except FileNotFoundError as error:
            raise InstanceMissing(f"the bucket holds no object {key}") from error
        except BaseError as error:
            raise StoreUnavailable(f"S3 did not give the file: {_reason(error)}") from error
        if len(part) != length:
            raise StoreUnavailable("S3 gave another number of bytes than the index has of the file")
        return part


def _is_transient(error: Exception) -> bool:
    """Tell a failure of S3 or the way there from a refusal.

    obstore tries again what S3 throttles or fails to do, but no PUT on condition whose connection
    broke or whose time ran out. To us a second one is safe: the key says what the bytes are.
    """
    return isinstance(error, (GenericError, AnotherRequestUnderWay))


def _attributes(metadata: Mapping[str, str]) -> dict[str, str]:
    return {"Content-Type": "application/dicom", **metadata}


def _reason(error: Exception) -> str:
    """Name the failure without the URL and headers that the library's message goes on with."""
    return type(error).__name__


def _credentials() -> Boto3CredentialProvider:
    session = boto3.Session()
    if session.get_credentials() is None:
        raise OperatorError(
            "AWS credentials are not configured: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or give the gateway a role"
        )
    return Boto3CredentialProvider(session, ttl=_CREDENTIALS_LIFETIME)


def _open(bucket: str, retry_seconds: int, timeout: timedelta) -> S3Store:
    client = s3_client()
    endpoint = client.meta.endpoint_url
    host = urlsplit(endpoint).hostname or ""
    # AWS wants the bucket in the host name; other stores are mostly reached without a DNS
    # entry for each bucket.
    virtual_hosted = host.endswith(_AWS_SUFFIXES)
    if virtual_hosted:
        endpoint = endpoint.replace(host, f"{bucket}.{host}", 1)
    return S3Store(
        bucket,
        endpoint=endpoint,
        region=client.meta.region_name,
        virtual_hosted_style_request=virtual_hosted,
        # S3 checks the CRC of a PUT, which costs a tenth of a second SHA-256; the digest itself is
        # in the key.
        checksum_algorithm="CRC64NVME",
        unsigned_payload=True,
        credential_provider=_credentials(),
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": _CONNECT_TIMEOUT,
            "timeout": timeout,
        },
        retry_config={
            "max_retries": _MOST_RETRIES,
            "retry_timeout": timedelta(seconds=retry_seconds),
            "backoff": {
                "init_backoff": _FIRST_PAUSE,
                "max_backoff": _LONGEST_PAUSE,
                "base": 2,
            },
        },
    )
