"""Taking an object out of quarantine, once it can be placed.

A later version may read what an earlier one could not, and the table may take an item that it
refused. An object below `quarantine/` is then copied to the key of its instance, whose event
indexes it like any other, and gets a delete marker where it was; one below `instances/` is indexed.
What is in the bucket no more is taken off the list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from .archive import (
    QUARANTINE,
    Archive,
    content_sha256,
    studies_of,
)
from .errors import InstanceMissing, ItemRefused, StoreUnavailable
from .header import Unplaceable, placed_key, read_copy
from .index import Index

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of an object: the key that it has now, or why it has none.

    It stays in quarantine unless `gone`: then the bucket holds it no more.
    """

    object_key: str
    now: str | None
    reason: str | None
    gone: bool = False


def retry(client: "S3Client", archive: Archive, index: Index, key: str) -> Retried:
    """Place an object if that is possible now; doing it again changes nothing.

    Raises:
        InstanceMissing: what was made of it went meanwhile; doing it again is safe.
        StoreUnavailable: some of it was not done.
    """
    try:
        return _retried(client, archive, index, key)
    except InstanceMissing:
        if archive.holds(key):
            raise
    # Deleted with its study, or placed before and not taken off the list.
    index.release_from_quarantine(key)
    return Retried(key, None, "the object is gone", gone=True)


def _retried(client: "S3Client", archive: Archive, index: Index, key: str) -> Retried:
    target = placed_key(archive, key) if key.startswith(QUARANTINE) else key
    if isinstance(target, Unplaceable):
        return Retried(key, None, target.reason)
    if target != key:
        # What is at the target may go; what is here would be the only one left.
        if any(map(archive.is_deleting, studies_of([target]))):
            return Retried(key, None, "its study is being deleted")
        _copy(client, archive, key, target)
    with index.leased(studies_of([target])):
        copy = read_copy(archive, target)
        if isinstance(copy, Unplaceable):
            return Retried(key, None, copy.reason)
        try:
            index.record([copy])
        except ItemRefused as error:
            return Retried(key, None, str(error))
    if target != key:
        _asked(lambda: client.delete_object(Bucket=archive.bucket, Key=key))
    index.release_from_quarantine(key)
    return Retried(key, target, None)


def _copy(client: "S3Client", archive: Archive, key: str, target: str) -> None:
    """Copy an object with its metadata, and hold the copy against the SHA-256 in its key."""
    if not archive.holds(target):
        _asked(lambda: client.copy({"Bucket": archive.bucket, "Key": key}, archive.bucket, target))
    if archive.sha256(target) != content_sha256(target):
        raise StoreUnavailable(f"{target} is not what its key says: {key} stays as it is")


def _asked(request: Callable[[], object]) -> None:
    try:
        request()
    except (ClientError, BotoCoreError) as error:
        raise StoreUnavailable(f"S3 refused or did not answer: {type(error).__name__}") from error
