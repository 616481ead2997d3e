"""Deleting a study so that it can be brought back, and bringing it back.

Nothing here destroys a byte. The bucket keeps versions: a deletion puts a delete marker on each
object of the study, and what is behind it ends when the bucket's lifecycle says so, by the tag that
it got before. In between, taking the markers away brings everything back.

    delete   record ─▶ tag, mark each ─▶ wait ─▶ mark forms that were made meanwhile
             ─▶ make the index what the bucket is ─▶ audit ─▶ completed
    restore  restoring ─▶ take markers, tags away ─▶ the index as well ─▶ audit ─▶ restored

The record comes first and names every object with its version, so what stops half-way is done again
from it, and whatever is not named in it is left as it is: an instance that came meanwhile, the same
one when it is sent again. Only a form of what is named goes with it, whenever it was made. The
index is not told what to forget: it is made of what the bucket holds, as a rebuild makes it.

A function, or a command, may have read an original before it was marked, and put a form or write an
item long after. Each has a lease on the study from before it reads until it has written
(`Index.leased`). So when what is marked cannot be read any more, and the leases that there are then
have ended, nothing comes behind. One whose holder died is waited for as long as a function may run.

    deletions/{study}/{moment}.json              what is deleted, why, by whom, kept until when
    deletions/{study}/{moment}.completed.json    all of it is deleted
    deletions/{study}/{moment}.restoring.json    it is being brought back, and is deleted no further
    deletions/{study}/{moment}.restored.json     it is back
"""

import json
import logging
import socket
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from .answers import patient_id_of
from .archive import (
    DELETIONS,
    OF_STUDIES,
    Archive,
    DeletionKey,
    FormKey,
    InstanceKey,
    LeftAloneKey,
    deletions_prefix,
    key_prefix,
)
from .audit import AuditMessage, AuditSource, Study
from .audit_outlets import Outlet, OutletFailed
from .errors import OperatorError, StoreUnavailable
from .forms import RETIRED_TAG
from .index import Index
from .index_keys import COPY_PREFIX, INSTANCE_PREFIX
from .indexing import rebuild_study
from .moments import moment
from .object_versions import Held, ObjectVersions

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log: Final = logging.getLogger(__name__)

#: The tag, name and value, of a version that may end because an operator deleted its study.
DELETED_TAG: Final = ("deleted", "true")
#: How long a function of the template may run, and a minute for what is under way when it is ended.
LONGEST_LEASE_SECONDS: Final = 360
#: A command that deletes a large study, and waits for a function that died, takes minutes.
_LOOK_SECONDS: Final = 3600.0
#: Somebody else hides what is being brought back; after this many times, give up.
_MOST_ROUNDS: Final = 20


class State(StrEnum):
    """How far a deletion is."""

    BEGUN = "begun"
    DELETED = "deleted"
    RESTORING = "restoring"
    RESTORED = "restored"


_UNDER_WAY: Final = frozenset({State.BEGUN, State.RESTORING})
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
        retired: originals that had gone before, of which `keys` has forms: key and version, which
            is empty where there was none any more
        older: key and version of what is behind those; it ends with them, and nothing shows it
        instances, patient_id: what the audit trail is told; the patient only until then
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
    retired: tuple[tuple[str, str], ...] = ()
    older: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> DeletionKey:
        """The key of its object."""
        return DeletionKey(self.study_instance_uid, self.moment)

    @property
    def named(self) -> list[tuple[str, str]]:
        """Key and version of each object that it deletes, forms before originals.

        One that is sent again meanwhile gets a form of its own then.
        """
        both = zip(self.keys, self.versions, strict=True)
        return sorted(both, key=lambda each: InstanceKey.parse(each[0]) is not None)

    @property
    def originals(self) -> list[tuple[str, str]]:
        """Key and version of each original that it deletes, or had gone before."""
        return [each for each in self.named if InstanceKey.parse(each[0])] + list(self.retired)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deletion of a study would delete.

    Attributes:
        last_received: when the newest of its instances came (`moments`)
        held_until: the end of its retention; None when that is over
        versions: of each of `keys`, the version that can be seen
        retired, older: as in `Record`
    """

    study_instance_uid: str
    instances: int
    size: int
    last_received: str
    held_until: datetime | None
    keys: tuple[str, ...]
    versions: tuple[str, ...]
    retired: tuple[tuple[str, str], ...]
    older: tuple[tuple[str, str], ...]


class BrokenOff:
    """Counts deletions and restorations that are not carried on, by the keys of their objects.

    Nobody but a command carries one on. What was under way an hour ago and still is has lost its.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        look_seconds: float = _LOOK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look into a bucket, every `look_seconds` at most."""
        self._archive = archive
        self._look_seconds = look_seconds
        self._clock = clock
        self._looked_at: float | None = None
        self._under_way: set[tuple[DeletionKey, State]] = set()
        self._count = 0

    def __call__(self) -> int:
        """Return how many the last two looks found; raises `StoreUnavailable`."""
        now = self._clock()
        if self._looked_at is None or now >= self._looked_at + self._look_seconds:
            states = _states(self._archive.keys(DELETIONS))
            under_way = {each for each in states.items() if each[1] in _UNDER_WAY}
            self._count = len(under_way & self._under_way)
            self._looked_at, self._under_way = now, under_way
        return self._count


class Deletions:
    """Deletes studies of an archive, and restores them."""

    def __init__(  # noqa: PLR0913 - what it works on, and whom it tells what
        self,
        client: "S3Client",
        archive: Archive,
        index: Index,
        trail: Sequence[Outlet] = (),
        pause: Callable[[float], object] = time.sleep,
        *,
        warn: Callable[[str], object] = _log.warning,
    ) -> None:
        """Work on the bucket of `archive` through `client`, and tell the audit trail.

        `pause` lets seconds pass; `warn` says what an operator should know but need not mend.
        """
        self._versions = ObjectVersions(client, archive.bucket)
        self._archive = archive
        self._index = index
        self._trail = trail
        self._pause = pause
        self._warn = warn

    def plan(self, study: str, retention: timedelta, now: datetime) -> Plan:
        """Say what would be deleted, and whether retention holds it; nothing is changed.

        Raises `OperatorError` when there is no such study, or it is being deleted or restored.
        """
        if self._under_way(study):
            raise _busy(study)
        held = self._held(study)
        seen = {key: each for key, each in held.items() if each.is_seen}
        if not seen:
            raise OperatorError(f"there is no study {study}")
        received, indexed = [], set()
        for item in self._index.partition(study):
            # Of several contents one is shown, which need not be the one that came last.
            if str(item["sk"]).startswith((INSTANCE_PREFIX, COPY_PREFIX)):
                received.append(str(item["stamp"]).partition("/")[0])
                indexed.add(str(item["object_key"]))
        originals, retired = set(), {}
        for key, each in seen.items():
            original = _original_of(key)
            if original is None or LeftAloneKey.parse(key):
                continue
            originals.add(original.sop_instance_uid)
            if str(original) not in seen:
                gone = held.get(str(original))
                retired[str(original)] = gone.version if gone else ""
            # Bytes that are copied into another bucket, say, are older than their objects; but of
            # what the index does not name, nothing else is known. A form is younger than its
            # original, which errs on the side of keeping.
            if str(original) not in indexed and (key == str(original) or str(original) not in seen):
                received.append(each.modified)
        last = max(received, default=max(each.modified for each in seen.values()))
        held_until = datetime.fromisoformat(last) + retention
        return Plan(
            study,
            instances=len(originals),
            size=sum(each.size for each in seen.values()),
            last_received=last,
            held_until=held_until if held_until > now else None,
            keys=tuple(seen),
            versions=tuple(each.version for each in seen.values()),
            retired=tuple(retired.items()),
            older=tuple(
                (key, version)
                for key in (*seen, *(key for key in retired if key in held))
                for version in held[key].older
            ),
        )

    def delete(self, plan: Plan, *, by: str, reason: str, kept: timedelta, now: datetime) -> Record:
        """Delete what a plan names, and return what there is to say of it.

        Raises:
            OperatorError: the bucket keeps no versions, so nothing could be brought back; or
                another has begun to delete or restore the study since the plan.
            StoreUnavailable: it stopped half-way; `finish` goes on.
            OutletFailed: so it did, and all that is missing is in the audit trail.
        """
        if not self._versions.are_kept():
            raise OperatorError(
                f"the bucket {self._archive.bucket} keeps no versions: nothing is deleted"
            )
        shown = self._index.study(plan.study_instance_uid)
        record = Record(
            plan.study_instance_uid,
            DeletionKey.begun(plan.study_instance_uid, now).moment,
            by=by,
            reason=reason,
            kept_until=moment(now + kept),
            keys=plan.keys,
            versions=plan.versions,
            instances=plan.instances,
            patient_id="" if shown is None else patient_id_of(shown),
            retired=plan.retired,
            older=plan.older,
        )
        # With the tag, so that the patient in it ends like the study (`forget_patient`).
        self._archive.create_document(str(record.key), _encode(record), DELETED_TAG)
        # Of two that write before they look, one sees the other at least; both may.
        if self._under_way(record.study_instance_uid) - {record.key}:
            self._versions.hide(str(record.key))
            raise _busy(record.study_instance_uid)
        return self.finish(record)

    def finish(self, record: Record) -> Record:
        """Do what of a deletion has not been done; doing it again changes nothing.

        Raises as `delete`, and `OperatorError` when it is being restored.
        """
        if self._archive.holds(record.key.restoring):
            raise _restored(record)
        self._versions.hide_all(record.named, DELETED_TAG)
        self._versions.tag_all(record.retired + record.older, DELETED_TAG)
        if self._index.leases(record.study_instance_uid):
            # Nobody is to find it while we wait.
            rebuild_study(self._archive, self._index, record.study_instance_uid)
        self._mark_late_forms(record)
        self._keep_what_came_again(record)
        self._give_way(record)
        rebuild_study(self._archive, self._index, record.study_instance_uid)
        self._tell(
            self._source.study_deleted(
                Study(record.study_instance_uid, record.patient_id),
                record.by,
                {"instances": record.instances, "reason": record.reason},
            )
        )
        self._give_way(record)
        self._archive.create_document(record.key.completed, b"{}")
        return self.forget_patient(record)

    def forget_patient(self, record: Record) -> Record:
        """Take the patient out of a record whose deletion the audit trail knows; again, nothing.

        The version that has it is tagged, and ends when those of the study's objects do.
        """
        forgetful = replace(record, patient_id="")
        if record.patient_id:
            self._archive.replace_document(str(record.key), _encode(forgetful))
        return forgetful

    def restore(self, record: Record, *, by: str) -> int:
        """Bring back what a deletion deleted; return how many of its objects there are again.

        An original that has gone since, but has a form, is there.

        Raises:
            StoreUnavailable, OutletFailed: it stopped half-way; doing it again is safe.
        """
        self._archive.create_document(record.key.restoring, b"{}")
        there = self._bring_back(record)
        shown = self._index.study(record.study_instance_uid, consistent=True)
        patient_id = record.patient_id or ("" if shown is None else patient_id_of(shown))
        formed = {str(form.original) for form in map(FormKey.parse, there) if form is not None}
        back = sum(key in formed or key in there for key in record.keys)
        self._tell(
            self._source.study_restored(
                Study(record.study_instance_uid, patient_id),
                by,
                {"objects": len(record.keys), "restored": back},
            )
        )
        self._archive.create_document(record.key.restored, b"{}")
        self.forget_patient(record)
        return back

    def all(self, study: str | None = None) -> Iterator[tuple[Record, State]]:
        """Yield every deletion there was, of all studies in their order or of one."""
        found = _states(self._archive.keys(DELETIONS if study is None else deletions_prefix(study)))
        for deletion, state in found.items():
            document = self._archive.read_document(str(deletion))
            if document is not None:
                yield _decode(document), state

    def newest(self, study: str) -> Record:
        """Return the last deletion of a study that has not been restored, or `OperatorError`."""
        records = [record for record, state in self.all(study) if state is not State.RESTORED]
        if not records:
            raise OperatorError(f"there is no deletion of the study {study} to be undone")
        return max(records, key=lambda record: record.moment)

    def _under_way(self, study: str) -> set[DeletionKey]:
        return {record.key for record, state in self.all(study) if state in _UNDER_WAY}

    def _give_way(self, record: Record) -> None:
        """Bring back what is being restored, and raise `OperatorError`; else nothing.

        That began while we marked, and may have ended before we did.
        """
        if self._archive.holds(record.key.restoring):
            self._bring_back(record)
            raise _restored(record)

    @property
    def _source(self) -> AuditSource:
        return AuditSource("lenticular", socket.gethostname())

    def _tell(self, message: AuditMessage) -> None:
        """Write a message down, or raise `OutletFailed`; a copy of it holds nothing up."""
        has_record = any(outlet.is_record for outlet in self._trail)
        for outlet in self._trail:
            try:
                outlet.send([message])
            except OutletFailed as error:
                if outlet.is_record or not has_record:
                    raise
                self._warn(f"the audit trail has it, but no copy went out: {error}")

    def _is_to_end(self, key: str, version: str) -> bool:
        """Tell whether a version was hidden on purpose: then it has a tag."""
        return not self._versions.tags(key, version).isdisjoint((DELETED_TAG, RETIRED_TAG))

    def _wait(self, study: str) -> None:
        """Wait for the end of every lease on a study that there is."""
        waited, left = 0, self._index.leases(study)
        while left and waited < LONGEST_LEASE_SECONDS:
            self._pause(1)
            waited += 1
            left &= self._index.leases(study)
        for name in left:
            # Should its holder live after all, it is told.
            self._index.end_lease(study, name)

    def _mark_late_forms(self, record: Record) -> None:
        """Mark what was made of deleted originals after the plan, until nothing more can be."""
        known = {*record.named, *record.retired, *record.older}
        for _ in range(_MOST_ROUNDS):
            self._wait(record.study_instance_uid)
            late = list(self._late_forms(record, known))
            if not late:
                return
            # Who has read one of them may write an item of it.
            self._versions.hide_all(late, DELETED_TAG)
            known.update(late)
        raise StoreUnavailable("forms are made of a study while it is deleted: run it again")

    def _keep_what_came_again(self, record: Record) -> None:
        """Let what was sent again since the plan be seen, with every form of it.

        Where originals are retired, such a form may be all there is of it by now. And a marker may
        have come down on what took the place of the version that it was meant for.
        """
        for _ in range(_MOST_ROUNDS):
            held = self._held(record.study_instance_uid)
            again = {
                key
                for key, version in record.originals
                if key in held and held[key].version not in ("", version)
            }
            forms = [key for key in held if key not in again and str(_original_of(key)) in again]
            hidden = [key for key in forms if held[key].version and held[key].marker]
            hidden += [
                key
                for key in again
                if held[key].marker and not self._is_to_end(key, held[key].version)
            ]
            self._versions.show_all((key, held[key].marker) for key in hidden)
            if not hidden and all(self._versions.untag(key) for key in forms if held[key].is_seen):
                return
        raise StoreUnavailable("what was sent again was hidden again: run it again")

    def _bring_back(self, record: Record) -> frozenset[str]:
        """Make all that there is of a deletion seen again; return its keys."""
        there = self._unmarked(record)
        if not self._versions.untag_all(there):
            raise StoreUnavailable("what was brought back was hidden again: run it again")
        # Behind their markers, as they were before.
        self._versions.tag_all(record.retired, RETIRED_TAG)
        rebuild_study(self._archive, self._index, record.study_instance_uid)
        return there

    def _late_forms(
        self, record: Record, known: Container[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        """Yield key and version of what was made of deleted originals after the plan.

        And of what is hidden with them but not `known`: it may be without the tag.
        """
        held = self._held(record.study_instance_uid)
        nothing = Held()
        # One that was sent again is another version, and what is made of that is not ours.
        gone = {
            key
            for key, version in record.originals
            if not held.get(key, nothing).is_seen
            and held.get(key, nothing).version in ("", version)
        }
        for key, each in held.items():
            if str(_original_of(key)) not in gone:
                continue
            for version in filter(None, (each.version, *each.older)):
                is_seen = each.is_seen and version == each.version
                if is_seen or (key, version) not in known:
                    yield key, version

    def _unmarked(self, record: Record) -> frozenset[str]:
        """Take every marker from what a deletion hid; return the keys that there is a version of.

        There may be several on one object: a request that was made again has put another.
        """
        named = frozenset(record.keys)
        originals = {key for key, _ in record.originals}
        for _ in range(_MOST_ROUNDS):
            held = {
                key: each
                for key, each in self._held(record.study_instance_uid).items()
                # A form that was made after the plan is not named, its original is.
                if each.version
                and (
                    key in named
                    or (InstanceKey.parse(key) is None and str(_original_of(key)) in originals)
                )
            }
            markers = [(key, each.marker) for key, each in held.items() if each.marker]
            if not markers:
                return frozenset(held)
            self._versions.show_all(markers)
        raise StoreUnavailable("a study is being deleted while it is brought back")

    def _held(self, study: str) -> dict[str, Held]:
        """Return what the bucket holds of a study, seen or not."""
        return self._versions.held(key_prefix(each, study) for each in OF_STUDIES)


def _busy(study: str) -> OperatorError:
    return OperatorError(
        f"the study {study} is being deleted or restored; if that broke off: "
        "`lenticular deletions --finish`, or `lenticular restore`"
    )


def _restored(record: Record) -> OperatorError:
    return OperatorError(f"the study {record.study_instance_uid} is being restored")


def _states(keys: Iterable[str]) -> dict[DeletionKey, State]:
    """Tell how far each deletion is whose objects have these keys."""
    found: dict[DeletionKey, State] = {}
    for key in keys:
        parsed = DeletionKey.parse(key)
        if parsed is None:
            continue
        deletion, said = parsed
        found[deletion] = max(
            found.get(deletion, State.BEGUN), _STATES[said], key=list(State).index
        )
    return found


def _original_of(key: str) -> InstanceKey | None:
    """Read which original an object is, or was made of."""
    made = FormKey.parse(key) or LeftAloneKey.parse(key)
    return made.original if made else InstanceKey.parse(key)


def _encode(record: Record) -> bytes:
    return json.dumps(asdict(record), indent=1).encode()


def _decode(document: bytes) -> Record:
    facts = json.loads(document)
    lists = {name: tuple(facts[name]) for name in ("keys", "versions")}
    # Records that were written before `older` was have none.
    pairs = {name: tuple(map(tuple, facts.get(name, ()))) for name in ("retired", "older")}
    return Record(**{**facts, **lists, **pairs})
