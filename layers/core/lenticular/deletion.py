"""Deleting a study so that it can be brought back, and bringing it back.

Nothing here destroys a byte. The bucket keeps versions: a deletion puts a delete marker on each
object of the study, and what is behind it ends when the bucket's lifecycle says so, by the tag that
it got before. In between, taking the markers away brings everything back.

    delete   record ─▶ tag, mark each object ─▶ make the index what the bucket is ─▶ completed
    restore  take markers, then tags away ─▶ make the index what the bucket is ─▶ restored

The record comes first and names every object, so what stops half-way is done again from it, and
whatever is not named in it (a retired original, an instance that came meanwhile) is left as it is.
The index is not told what to forget: it is made of what the bucket holds, as a rebuild makes it.

    deletions/{study}/{moment}.json              what is deleted, why, by whom, kept until when
    deletions/{study}/{moment}.completed.json    all of it is deleted
    deletions/{study}/{moment}.restored.json     it is back
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from .archive import DELETIONS, INSTANCES, TRANSCODED, Archive, DeletionKey, FormKey, InstanceKey
from .errors import OperatorError, StoreUnavailable
from .index import Index
from .index_items import INSTANCE_PREFIX
from .indexing import rebuild_study

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: The tag, name and value, of a version that may end because an operator deleted its study.
DELETED_TAG: Final = ("deleted", "true")
_GONE_CODES: Final = frozenset({"NoSuchKey", "404", "NoSuchVersion", "MethodNotAllowed", "405"})
_PARALLEL: Final = 16


class State(StrEnum):
    """How far a deletion is."""

    BEGUN = "begun"
    DELETED = "deleted"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True)
class Record:
    """A deletion as its object in the bucket tells it. Moments are ISO 8601, UTC."""

    study_instance_uid: str
    moment: str
    by: str
    reason: str
    kept_until: str
    keys: tuple[str, ...]

    @property
    def key(self) -> DeletionKey:
        """The key of its object."""
        return DeletionKey(self.study_instance_uid, self.moment)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deletion of a study would delete.

    Attributes:
        last_received: when the newest of its instances came (ISO 8601, UTC)
        held_until: the end of its retention; None when that is over
    """

    study_instance_uid: str
    instances: int
    size: int
    last_received: str
    held_until: datetime | None
    keys: tuple[str, ...]


class Deletions:
    """Deletes studies of an archive, and restores them."""

    def __init__(self, client: "S3Client", archive: Archive, index: Index) -> None:
        """Work on the bucket of `archive` through `client`."""
        self._client = client
        self._archive = archive
        self._index = index

    def plan(self, study: str, retention: timedelta, now: datetime) -> Plan:
        """Say what would be deleted, and whether retention holds it; nothing is changed.

        Raises `OperatorError` when there is no such study.
        """
        keys, size, originals, newest = [], 0, set(), ""
        for prefix in (INSTANCES, TRANSCODED):
            for listed in self._archive.listing(f"{prefix}{study}/"):
                keys.append(listed.key)
                size += listed.size
                of_form = FormKey.parse(listed.key)
                original = of_form.original if of_form else InstanceKey.parse(listed.key)
                if original is not None:
                    originals.add(original.sop_instance_uid)
                # A form is younger than its original, which errs on the side of keeping.
                newest = max(newest, listed.modified.astimezone(UTC).isoformat())
        if not keys:
            raise OperatorError(f"there is no study {study}")
        # Bytes that are copied into another bucket, say, are older than their objects.
        received = [
            str(item["stamp"]).partition("/")[0]
            for item in self._index.partition(study)
            if str(item["sk"]).startswith(INSTANCE_PREFIX)
        ]
        last = max(received, default=newest)
        held_until = datetime.fromisoformat(last) + retention
        return Plan(
            study, len(originals), size, last, held_until if held_until > now else None, tuple(keys)
        )

    def delete(self, plan: Plan, *, by: str, reason: str, kept: timedelta, now: datetime) -> Record:
        """Delete what a plan names.

        Raises:
            OperatorError: the bucket keeps no versions, so nothing could be brought back.
            StoreUnavailable: it stopped half-way; `finish` goes on.
        """
        self._require_versions()
        record = Record(
            plan.study_instance_uid,
            now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ"),
            by,
            reason,
            (now + kept).astimezone(UTC).isoformat(timespec="seconds"),
            plan.keys,
        )
        self._archive.create_document(str(record.key), _encode(record))
        self.finish(record)
        return record

    def finish(self, record: Record) -> None:
        """Do what of a deletion has not been done; doing it again changes nothing."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(self._mark, record.keys))
        rebuild_study(self._archive, self._index, record.study_instance_uid)
        self._archive.create_document(record.key.completed, b"{}")

    def restore(self, record: Record) -> int:
        """Bring back what a deletion deleted; return how many objects there are again.

        Raises:
            StoreUnavailable: it stopped half-way; doing it again is safe.
        """
        markers = self._markers(record)
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(self._unmark, markers))
            back = list(pool.map(self._untag, record.keys))
        rebuild_study(self._archive, self._index, record.study_instance_uid)
        self._archive.create_document(record.key.restored, b"{}")
        return sum(back)

    def all(self) -> Iterator[tuple[Record, State]]:
        """Yield every deletion there was, in order of study."""
        found: dict[DeletionKey, State] = {}
        for key in self._archive.keys(DELETIONS):
            parsed = DeletionKey.parse(key)
            if parsed is None:
                continue
            deletion, is_complete, is_restored = parsed
            state = State.RESTORED if is_restored else State.DELETED if is_complete else State.BEGUN
            found[deletion] = max(found.get(deletion, State.BEGUN), state, key=list(State).index)
        for deletion, state in found.items():
            document = self._archive.read_document(str(deletion))
            if document is not None:
                yield _decode(document), state

    def newest(self, study: str) -> Record:
        """Return the last deletion of a study that has not been restored, or `OperatorError`."""
        records = [
            record
            for record, state in self.all()
            if record.study_instance_uid == study and state is not State.RESTORED
        ]
        if not records:
            raise OperatorError(f"there is no deletion of the study {study} to be undone")
        return max(records, key=lambda record: record.moment)

    def _require_versions(self) -> None:
        answer = self._asked(
            lambda: self._client.get_bucket_versioning(Bucket=self._archive.bucket)
        )
        if answer is None or answer.get("Status") != "Enabled":
            raise OperatorError(
                f"the bucket {self._archive.bucket} keeps no versions: nothing is deleted"
            )

    def _mark(self, key: str) -> None:
        """Tag an object and put a delete marker on it; on one that is gone, nothing."""
        name, value = DELETED_TAG
        tagging: Any = {"TagSet": [{"Key": name, "Value": value}]}
        bucket = self._archive.bucket
        tagged = self._asked(
            lambda: self._client.put_object_tagging(Bucket=bucket, Key=key, Tagging=tagging)
        )
        if tagged is not None:
            self._asked(lambda: self._client.delete_object(Bucket=bucket, Key=key))

    def _markers(self, record: Record) -> list[tuple[str, str]]:
        """Return key and version of the delete markers that are on objects of a deletion now."""
        named = frozenset(record.keys)
        found = []
        pages = self._client.get_paginator("list_object_versions")
        try:
            for prefix in (INSTANCES, TRANSCODED):
                for page in pages.paginate(
                    Bucket=self._archive.bucket, Prefix=f"{prefix}{record.study_instance_uid}/"
                ):
                    found += [
                        (str(marker["Key"]), str(marker["VersionId"]))
                        for marker in page.get("DeleteMarkers", [])
                        if marker["IsLatest"] and marker["Key"] in named
                    ]
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(f"S3 did not list versions: {type(error).__name__}") from error
        return found

    def _unmark(self, marker: tuple[str, str]) -> None:
        key, version = marker
        self._asked(
            lambda: self._client.delete_object(
                Bucket=self._archive.bucket, Key=key, VersionId=version
            )
        )

    def _untag(self, key: str) -> bool:
        """Take the tag from an object that can be seen again; False when it cannot."""
        bucket = self._archive.bucket
        answer = self._asked(lambda: self._client.delete_object_tagging(Bucket=bucket, Key=key))
        return answer is not None

    def _asked(self, request: Any) -> Any:  # noqa: ANN401 - any request and its answer
        """Return what S3 answers; None where there is no such object (any more)."""
        try:
            return request()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _GONE_CODES:
                return None
            raise StoreUnavailable(f"S3 refused: {code}") from error
        except BotoCoreError as error:
            raise StoreUnavailable(f"S3 did not answer: {type(error).__name__}") from error


def _encode(record: Record) -> bytes:
    return json.dumps(asdict(record), indent=1).encode()


def _decode(document: bytes) -> Record:
    facts = json.loads(document)
    return Record(**{**facts, "keys": tuple(facts["keys"])})
