"""Deleting a study so that it can be brought back, and bringing it back.

Nothing here destroys a byte. The bucket keeps versions: a deletion puts a delete marker on each
object of the study, and what is behind it ends when the bucket's lifecycle says so, by the tag that
it got before. In between, taking the markers away brings everything back.

    delete   record ─▶ tag, mark each ─▶ make the index what the bucket is ─▶ audit ─▶ completed
    restore  restoring ─▶ take markers, tags away ─▶ the index as well ─▶ audit ─▶ restored

The record comes first and names every object with its version, so what stops half-way is done again
from it, and whatever is not named in it is left as it is: a retired original, an instance that came
meanwhile, the same one when it is sent again. Only a form of what is named goes with it, whenever
it was made. The index is not told what to forget: it is made of what the bucket holds, as a rebuild
makes it.

    deletions/{study}/{moment}.json              what is deleted, why, by whom, kept until when
    deletions/{study}/{moment}.completed.json    all of it is deleted
    deletions/{study}/{moment}.restoring.json    it is being brought back, and is deleted no further
    deletions/{study}/{moment}.restored.json     it is back
"""

import json
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from .answers import patient_id_of
from .archive import (
    DELETIONS,
    OF_STUDIES,
    Archive,
    DeletionKey,
    FormKey,
    InstanceKey,
    LeftAloneKey,
    key_prefix,
)
from .audit import AuditMessage, AuditSource, Study
from .audit_outlets import Outlet
from .errors import OperatorError, StoreUnavailable
from .index import Index
from .index_items import COPY_PREFIX, INSTANCE_PREFIX, PROCEDURE_PREFIX
from .indexing import rebuild_study
from .moments import moment

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: The tag, name and value, of a version that may end because an operator deleted its study.
DELETED_TAG: Final = ("deleted", "true")
_GONE_CODES: Final = frozenset({"NoSuchKey", "404", "NoSuchVersion", "MethodNotAllowed", "405"})
_PARALLEL: Final = 16
#: S3's name of a version that is older than the bucket's versioning.
_NULL_VERSION: Final = "null"
#: Somebody else hides what is being brought back; after this many times, give up.
_MOST_ROUNDS: Final = 20


class State(StrEnum):
    """How far a deletion is."""

    BEGUN = "begun"
    DELETED = "deleted"
    RESTORING = "restoring"
    RESTORED = "restored"


#: What an object of a deletion says, by what its key has behind the moment.
_STATES: Final[Mapping[str, State]] = MappingProxyType(
    {
        "": State.BEGUN,
        "completed": State.DELETED,
        "restoring": State.RESTORING,
        "restored": State.RESTORED,
    }
)


@dataclass(frozen=True, slots=True)
class Record:
    """A deletion as its object in the bucket tells it. `moment` is that of its key.

    Attributes:
        versions: of each of `keys`, the version that is deleted
        instances, patient_id: what the audit trail is told
    """

    study_instance_uid: str
    moment: str
    by: str
    reason: str
    kept_until: str
    keys: tuple[str, ...]
    versions: tuple[str, ...]
    instances: int
    patient_id: str

    @property
    def key(self) -> DeletionKey:
        """The key of its object."""
        return DeletionKey(self.study_instance_uid, self.moment)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deletion of a study would delete.

    Attributes:
        last_received: when the newest of its instances came (`moments`)
        held_until: the end of its retention; None when that is over
        versions: of each of `keys`, the version that can be seen
    """

    study_instance_uid: str
    instances: int
    size: int
    last_received: str
    held_until: datetime | None
    keys: tuple[str, ...]
    versions: tuple[str, ...]


@dataclass(slots=True)
class _Held:
    """What the bucket holds under a key: its newest version, and the marker that is on it."""

    version: str = ""
    size: int = 0
    modified: str = ""
    marker: str = ""

    @property
    def is_seen(self) -> bool:
        return bool(self.version and not self.marker)


class Deletions:
    """Deletes studies of an archive, and restores them."""

    def __init__(
        self, client: "S3Client", archive: Archive, index: Index, trail: Sequence[Outlet] = ()
    ) -> None:
        """Work on the bucket of `archive` through `client`, and tell the audit trail."""
        self._client = client
        self._archive = archive
        self._index = index
        self._trail = trail

    def plan(self, study: str, retention: timedelta, now: datetime) -> Plan:
        """Say what would be deleted, and whether retention holds it; nothing is changed.

        Raises `OperatorError` when there is no such study.
        """
        seen = {key: each for key, each in self._held(study).items() if each.is_seen}
        if not seen:
            raise OperatorError(f"there is no study {study}")
        received, indexed = [], set()
        for item in self._index.partition(study):
            # Of several contents one is shown, which need not be the one that came last.
            if str(item["sk"]).startswith((INSTANCE_PREFIX, COPY_PREFIX)):
                received.append(str(item["stamp"]).partition("/")[0])
                indexed.add(str(item["object_key"]))
        originals = set()
        for key, each in seen.items():
            original = _original_of(key)
            if original is None or LeftAloneKey.parse(key):
                continue
            originals.add(original.sop_instance_uid)
            # Bytes that are copied into another bucket, say, are older than their objects; but of
            # what the index does not name, nothing else is known. A form is younger than its
            # original, which errs on the side of keeping.
            if str(original) not in indexed and (key == str(original) or str(original) not in seen):
                received.append(each.modified)
        last = max(received, default=max(each.modified for each in seen.values()))
        held_until = datetime.fromisoformat(last) + retention
        return Plan(
            study,
            len(originals),
            sum(each.size for each in seen.values()),
            last,
            held_until if held_until > now else None,
            tuple(seen),
            tuple(each.version for each in seen.values()),
        )

    def delete(self, plan: Plan, *, by: str, reason: str, kept: timedelta, now: datetime) -> Record:
        """Delete what a plan names.

        Raises:
            OperatorError: the bucket keeps no versions, so nothing could be brought back.
            StoreUnavailable: it stopped half-way; `finish` goes on.
            OutletFailed: so it did, and all that is missing is in the audit trail.
        """
        self._require_versions()
        shown = self._index.study(plan.study_instance_uid)
        record = Record(
            plan.study_instance_uid,
            DeletionKey.begun(plan.study_instance_uid, now).moment,
            by,
            reason,
            moment(now + kept),
            plan.keys,
            plan.versions,
            plan.instances,
            "" if shown is None else patient_id_of(shown),
        )
        self._archive.create_document(str(record.key), _encode(record))
        self.finish(record)
        return record

    def finish(self, record: Record) -> None:
        """Do what of a deletion has not been done; doing it again changes nothing.

        Raises as `delete`, and `OperatorError` when it is being restored.
        """
        restored = OperatorError(f"the study {record.study_instance_uid} is being restored")
        if self._archive.holds(record.key.restoring):
            raise restored
        self._mark_all(zip(record.keys, record.versions, strict=True))
        self._mark_all(self._late_forms(record))
        rebuild_study(self._archive, self._index, record.study_instance_uid)
        self._tell(
            self._source.study_deleted(
                Study(record.study_instance_uid, record.patient_id),
                record.by,
                {"instances": record.instances, "reason": record.reason},
            )
        )
        self.sweep(record)
        if self._archive.holds(record.key.restoring):
            # That began while we marked, and may have ended before we did.
            self._bring_back(record)
            raise restored
        self._archive.create_document(record.key.completed, b"{}")

    def sweep(self, record: Record) -> None:
        """Take what was made of deleted originals by who had read them before they were marked.

        A form that is put, or an item that is written, behind the deletion.
        """
        late = list(self._late_forms(record))
        if late or self._is_indexed(record.study_instance_uid):
            self._mark_all(late)
            rebuild_study(self._archive, self._index, record.study_instance_uid)

    def restore(self, record: Record, *, by: str) -> int:
        """Bring back what a deletion deleted; return how many of its objects there are again.

        An original that has gone since, but has a form, is there.

        Raises:
            StoreUnavailable, OutletFailed: it stopped half-way; doing it again is safe.
        """
        self._archive.create_document(record.key.restoring, b"{}")
        there = self._bring_back(record)
        formed = {str(form.original) for form in map(FormKey.parse, there) if form is not None}
        back = sum(key in formed or key in there for key in record.keys)
        self._tell(
            self._source.study_restored(
                Study(record.study_instance_uid, record.patient_id),
                by,
                {"objects": len(record.keys), "restored": back},
            )
        )
        self._archive.create_document(record.key.restored, b"{}")
        return back

    def all(self) -> Iterator[tuple[Record, State]]:
        """Yield every deletion there was, in order of study."""
        found: dict[DeletionKey, State] = {}
        for key in self._archive.keys(DELETIONS):
            parsed = DeletionKey.parse(key)
            if parsed is None:
                continue
            deletion, said = parsed
            state = _STATES[said]
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

    @property
    def _source(self) -> AuditSource:
        return AuditSource("lenticular", socket.gethostname())

    def _tell(self, message: AuditMessage) -> None:
        for outlet in self._trail:
            outlet.send([message])

    def _mark_all(self, versions: Iterable[tuple[str, str]]) -> None:
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(self._mark, versions))

    def _mark(self, named: tuple[str, str]) -> None:
        """Tag a version and put a delete marker on it; where it is not the one seen, nothing."""
        key, version = named
        place: Any = {"Bucket": self._archive.bucket, "Key": key}
        answer = self._asked(lambda: self._client.head_object(**place))
        if answer is None or answer.get("VersionId", _NULL_VERSION) != version:
            return
        name, value = DELETED_TAG
        tagging: Any = {"TagSet": [{"Key": name, "Value": value}]}
        # By its version: whatever takes its place in between, no other one ends by the tag.
        tagged = self._asked(
            lambda: self._client.put_object_tagging(**place, VersionId=version, Tagging=tagging)
        )
        if tagged is not None:
            self._asked(lambda: self._client.delete_object(**place))

    def _is_indexed(self, study: str) -> bool:
        """Tell whether the index names anything of a study but its procedure steps."""
        items = self._index.partition(study)
        return any(not str(item["sk"]).startswith(PROCEDURE_PREFIX) for item in items)

    def _bring_back(self, record: Record) -> frozenset[str]:
        """Make all that there is of a deletion seen again; return its keys."""
        there = self._unmarked(record)
        with ThreadPoolExecutor(_PARALLEL) as pool:
            if not all(pool.map(self._untag, there)):
                raise StoreUnavailable("what was brought back was hidden again: run it again")
        rebuild_study(self._archive, self._index, record.study_instance_uid)
        return there

    def _late_forms(self, record: Record) -> Iterator[tuple[str, str]]:
        """Yield key and version of what was made of deleted originals after the plan."""
        held = self._held(record.study_instance_uid)
        # One that was sent again is another version, and what is made of that is not ours.
        deleted = {
            key
            for key, version in zip(record.keys, record.versions, strict=True)
            if key in held and held[key].marker and held[key].version == version
        }
        for key, each in held.items():
            if each.is_seen and str(_original_of(key)) in deleted:
                yield key, each.version

    def _unmarked(self, record: Record) -> frozenset[str]:
        """Take every marker from what a deletion hid; return the keys that there is a version of.

        There may be several on one object: a request that was made again has put another.
        """
        named = frozenset(record.keys)
        for _ in range(_MOST_ROUNDS):
            held = {
                key: each
                for key, each in self._held(record.study_instance_uid).items()
                # A form that was made after the plan is not named, its original is.
                if each.version and (key in named or str(_original_of(key)) in named)
            }
            markers = [(key, each.marker) for key, each in held.items() if each.marker]
            if not markers:
                return frozenset(held)
            with ThreadPoolExecutor(_PARALLEL) as pool:
                list(pool.map(self._unmark, markers))
        raise StoreUnavailable("a study is being deleted while it is brought back")

    def _held(self, study: str) -> dict[str, _Held]:
        """Return what the bucket holds of a study, seen or not, by key and in its order."""
        found: dict[str, _Held] = defaultdict(_Held)
        pages = self._client.get_paginator("list_object_versions")
        try:
            for each in OF_STUDIES:
                prefix = key_prefix(each, study)
                for page in pages.paginate(Bucket=self._archive.bucket, Prefix=prefix):
                    for version in page.get("Versions", []):
                        held = found[version["Key"]]
                        # S3 lists the newest first.
                        if not held.version:
                            held.version, held.size = version["VersionId"], version["Size"]
                            held.modified = moment(version["LastModified"])
                    for marker in page.get("DeleteMarkers", []):
                        if marker["IsLatest"]:
                            found[marker["Key"]].marker = marker["VersionId"]
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(f"S3 did not list versions: {type(error).__name__}") from error
        return dict(found)

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


def _original_of(key: str) -> InstanceKey | None:
    """Read which original an object is, or was made of."""
    made = FormKey.parse(key) or LeftAloneKey.parse(key)
    return made.original if made else InstanceKey.parse(key)


def _encode(record: Record) -> bytes:
    return json.dumps(asdict(record), indent=1).encode()


def _decode(document: bytes) -> Record:
    facts = json.loads(document)
    lists = {name: tuple(facts[name]) for name in ("keys", "versions")}
    return Record(**{**facts, **lists})
