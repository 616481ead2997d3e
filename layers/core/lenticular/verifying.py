"""Bucket against index against checksums: what is stored is held against what is said of it.

A study at a time: its objects as the bucket lists them, its items as the table has them, and, if
wanted, every byte against the SHA-256 that the object's key has had since ingest. Where only a form
is left, the original is restored from it, to the same end. The node may be in use: the listing is
older than the items, so what one of them seems to lack is looked up once more before it is a
finding, and what came within the last minutes may still be on its way to the index.

Only what adds to the index is repaired. What removes from it would hide a loss, and is left to
`rebuild-index`, which a person runs who knows.
"""

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from .archive import (
    INSTANCES,
    QUARANTINE,
    TRANSCODED,
    Archive,
    Form,
    FormKey,
    InstanceKey,
    LeftAloneKey,
    Listed,
    content_sha256,
    key_prefix,
    studies_of,
)
from .byte_ranges import ReadAhead
from .errors import CannotUnderstand, InstanceMissing
from .index import Index
from .index_items import Converted, Item, converted, forms_of
from .index_keys import (
    COPY_PREFIX,
    INSTANCE_PREFIX,
    STUDY_SORT_KEY,
    series_of_instance,
    series_uid_of,
)
from .indexing import Became, index_each
from .splice import restored_sha256

#: A study that ingest writes while it is counted is counted again, so often at most.
_MOST_COUNTS: Final = 5
#: The name under which objects in quarantine are reported; no UID looks like it.
IN_QUARANTINE: Final = "quarantine"


class Kind(StrEnum):
    """What can be wrong, in words for an operator."""

    NOT_INDEXED = "not in the index"
    FORM_NOT_INDEXED = "form not in the index"
    NOT_LISTED = "not listed in quarantine"
    QUARANTINED = "cannot be indexed, quarantined now"
    MISSING = "not in the bucket"
    FORM_MISSING = "form not in the bucket"
    CHANGED = "not as it was indexed"
    DAMAGED = "not what its checksum says"
    NOT_RESTORED = "does not restore to its original, which is gone"
    MISCOUNTED = "counts are wrong: rebuild-index"
    UNKNOWN = "not an object of this node"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be, and whether it is now."""

    kind: Kind
    object_key: str
    repaired: bool = False


@dataclass(slots=True)
class Report:
    """What was looked at of a study, and found.

    Attributes:
        recent: objects that may still be on their way to the index
    """

    study_instance_uid: str
    objects: int = 0
    bytes_read: int = 0
    recent: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verifier:
    """Looks at everything, some studies and objects at a time. Safe to share between threads.

    Attributes:
        reads: whether every byte is read, and not only listed
        sample: the part of the studies of which bytes are read, 0 to 1; all others are listed only
        seed: what says which studies these are; another one says others
        repairs: whether the index gets what it lacks
        grace: how long an object may take to its place in the index
    """

    archive: Archive
    index: Index
    reads: bool = True
    sample: float = 1.0
    seed: str = ""
    repairs: bool = True
    parallel: int = 16
    grace: timedelta = timedelta(minutes=15)

    def reads_of(self, study_instance_uid: str) -> bool:
        """Tell whether the bytes of a study are read."""
        digest = hashlib.sha256(f"{self.seed}/{study_instance_uid}".encode()).digest()
        return self.reads and int.from_bytes(digest[:8]) < self.sample * (1 << 64)

    def run(self, done: Container[str] = frozenset()) -> Iterator[Report]:
        """Yield a report of each study that is not `done`, and one of the quarantine.

        Raises:
            StoreUnavailable: it could not go on; what has been yielded stands.
        """
        quarantined = frozenset(str(item["sk"]) for item in self.index.quarantined())
        seen: set[str] = set()
        with (
            ThreadPoolExecutor(self.parallel) as studies,
            ThreadPoolExecutor(self.parallel) as reads,
        ):
            look = _Look(self, quarantined, reads)
            waiting: deque[Future[Report]] = deque()
            try:
                for study, listed in itertools.chain(
                    self._listed(seen), self._only_indexed(seen), [(IN_QUARANTINE, None)]
                ):
                    if study in done:
                        continue
                    waiting.append(studies.submit(look.at, study, listed))
                    if len(waiting) > 2 * self.parallel:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for each in waiting:
                    each.cancel()

    def _listed(self, seen: set[str]) -> Iterator[tuple[str, list[Listed]]]:
        for study, listed in self.archive.studies():
            seen.add(study)
            yield study, list(listed)

    def _only_indexed(self, seen: set[str]) -> Iterator[tuple[str, list[Listed]]]:
        for study in sorted(self.index.every_study_uid() - seen):
            yield study, []


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at everything."""

    verifier: Verifier
    quarantined: frozenset[str]
    pool: ThreadPoolExecutor

    @property
    def archive(self) -> Archive:
        return self.verifier.archive

    @property
    def index(self) -> Index:
        return self.verifier.index

    def at(self, study: str, listed: Sequence[Listed] | None) -> Report:
        report = Report(study)
        if listed is None:
            self._quarantine(report)
            return report
        report.objects = len(listed)
        items = list(self.index.partition(study))
        known = _Known.of(items)
        self._originals(report, known, listed)
        self._forms(report, known, listed)
        self._counts(report, study, known, items)
        if self.verifier.reads_of(study):
            self._read(report, known, listed)
        return report

    def _originals(self, report: Report, known: "_Known", listed: Sequence[Listed]) -> None:
        originals = {each.key: each for each in listed if each.key.startswith(INSTANCES)}
        lacking: list[str] = []
        for key, object_ in originals.items():
            if item := known.shown.get(key):
                if not _is_as_indexed(object_, item):
                    report.findings.append(Finding(Kind.CHANGED, key))
            elif InstanceKey.parse(key) is None:
                if key not in self.quarantined:
                    report.findings.append(Finding(Kind.UNKNOWN, key))
            elif key not in known.hidden and key not in self.quarantined:
                if self._is_recent(object_):
                    report.recent += 1
                else:
                    lacking.append(key)
        report.findings += self._indexed(Kind.NOT_INDEXED, lacking)
        with_forms = {
            str(form_key.original) for each in listed if (form_key := FormKey.parse(each.key))
        }
        missing = [
            key
            for key in (known.shown.keys() | known.hidden) - originals.keys()
            if not (key in with_forms and (key in known.hidden or known.is_retired(key)))
        ]
        report.findings += [
            Finding(Kind.MISSING, key)
            for key in self._gone(missing)
            if not self._is_retired_by_now(key)
        ]

    def _is_recent(self, listed: Listed) -> bool:
        return datetime.now(UTC) - listed.modified < self.verifier.grace

    def _holds(self, key: str) -> bool:
        return self.archive.holds(key)

    def _gone(self, keys: Iterable[str]) -> list[str]:
        """Return what the bucket does not hold, but for what is just being deleted.

        What has been deleted by then is no longer in the index when that is read after this.
        """
        gone = [key for key in keys if not self._holds(key)]
        going = set(filter(self.archive.is_deleting, set(studies_of(gone))))
        return [key for key in gone if going.isdisjoint(studies_of([key]))]

    def _is_retired_by_now(self, key: str) -> bool:
        """Tell whether an original went since its item was read, as it should."""
        item = self._item_of(InstanceKey.parse(key))
        if not item or item["object_key"] != key:
            # The item is gone too, or shows another content since.
            return not item
        became = converted(item)
        return became.retired and any(self._holds(form.object_key) for form in became.forms)

    def _is_named_still(self, key: str) -> bool:
        """Tell whether the index names a form that is gone, as its item did when it was read."""
        form_key = FormKey.parse(key)
        item = self._item_of(form_key.original if form_key else None)
        return item is not None and key in {form.object_key for form in forms_of(item)}

    def _item_of(self, original: InstanceKey | None) -> Item | None:
        if original is None:
            return None
        return self.index.instance(
            original.study_instance_uid,
            original.series_instance_uid,
            original.sop_instance_uid,
            consistent=True,
        )

    def _indexed(self, kind: Kind, keys: Sequence[str]) -> list[Finding]:
        """Give the index what it lacks; an object that goes meanwhile is no finding."""
        if not self.verifier.repairs:
            return [Finding(kind, key) for key in keys]
        outcomes = index_each(self.archive, self.index, keys)
        return [
            _repair(kind, key, became)
            for key, became in outcomes.items()
            if became is not Became.GONE
        ]

    def _forms(self, report: Report, known: "_Known", listed: Sequence[Listed]) -> None:
        forms = {each.key: each for each in listed if FormKey.parse(each.key)}
        others = {each.key for each in listed if each.key.startswith(TRANSCODED)} - forms.keys()
        report.findings += [
            Finding(Kind.UNKNOWN, key) for key in sorted(others) if not LeftAloneKey.parse(key)
        ]
        report.findings += [
            Finding(Kind.FORM_MISSING, key)
            for key in self._gone(known.forms.keys() - forms.keys())
            if self._is_named_still(key)
        ]
        report.findings += [
            Finding(Kind.CHANGED, key)
            for key, form in known.forms.items()
            if key in forms and forms[key].size != form.size
        ]
        for key, object_ in forms.items():
            if key not in known.forms:
                if self._is_recent(object_):
                    report.recent += 1
                else:
                    report.findings += self._form_indexed(key, known)

    def _form_indexed(self, key: str, known: "_Known") -> list[Finding]:
        """Tell the index of a form; where its original is gone too, of the instance first.

        A form that goes meanwhile is no finding.
        """
        form_key = FormKey.parse(key)
        assert form_key is not None
        original = form_key.original
        if not self.verifier.repairs:
            return [Finding(Kind.FORM_NOT_INDEXED, key)]
        try:
            form = self.archive.form(key)
        except InstanceMissing:
            return []
        retired = str(original) not in known.shown and not self._holds(str(original))
        if retired:
            [became] = index_each(self.archive, self.index, [key]).values()
            if became is Became.GONE:
                return []
            if became is not Became.INDEXED:
                return [_repair(Kind.FORM_NOT_INDEXED, key, became)]
        told = self.index.record_converted(
            original, Converted((form,), retired=retired), shown=False
        )
        return [Finding(Kind.FORM_NOT_INDEXED, key, repaired=told)]

    def _counts(self, report: Report, study: str, known: "_Known", items: list[Item]) -> None:
        """Hold counts against what is counted, again while ingest or a deletion writes it."""
        repaired = any(finding.repaired for finding in report.findings)
        for _ in range(_MOST_COUNTS):
            if (not repaired and known.is_counted()) or self.archive.is_deleting(study):
                return
            items = list(self.index.partition(study))
            known, repaired = _Known.of(items), False
        if not known.is_counted():
            report.findings.append(Finding(Kind.MISCOUNTED, key_prefix(INSTANCES, study)))

    def _read(self, report: Report, known: "_Known", listed: Sequence[Listed]) -> None:
        """Read every byte of a study's objects, and restore the originals that only forms have."""
        keys = {each.key for each in listed}

        def read(object_: Listed) -> tuple[int, Kind | None]:
            key = object_.key
            expected = self._expected(key, known)
            if expected is None:
                return 0, None
            try:
                if self.archive.sha256(key) != expected:
                    return object_.size, Kind.DAMAGED
                form_key = FormKey.parse(key)
                if form_key and str(form_key.original) not in keys:
                    proven = self._restores(object_, form_key.original)
                    return object_.size, None if proven else Kind.NOT_RESTORED
            except InstanceMissing:
                return 0, None
            return object_.size, None

        for object_, (length, wrong) in zip(listed, self.pool.map(read, listed), strict=True):
            report.bytes_read += length
            if wrong:
                report.findings.append(Finding(wrong, object_.key))

    def _restores(self, form: Listed, original: InstanceKey) -> bool:
        """Tell whether a form in the bucket restores to its original."""

        def fetch(start: int, length: int) -> bytes:
            return self.archive.range(form.key, start, length)

        try:
            return restored_sha256(ReadAhead(fetch, form.size)) == original.sha256
        except CannotUnderstand:
            return False

    def _expected(self, key: str, known: "_Known") -> str | None:
        """Return the SHA-256 that an object should have; None when it says nothing by its bytes."""
        if InstanceKey.parse(key) or key.startswith(QUARANTINE):
            return content_sha256(key)
        if FormKey.parse(key):
            form = known.forms.get(key)
            try:
                return form.sha256 if form else self.archive.form(key).sha256
            except InstanceMissing:
                return None
        return None

    def _quarantine(self, report: Report) -> None:
        listed = list(self.archive.listing(QUARANTINE))
        report.objects = len(listed)
        keys = {each.key for each in listed}
        lacking = []
        for each in listed:
            if each.key not in self.quarantined:
                if self._is_recent(each):
                    report.recent += 1
                else:
                    lacking.append(each.key)
        report.findings += self._indexed(Kind.NOT_LISTED, lacking)
        report.findings += [
            Finding(Kind.MISSING, key)
            for key in self._gone(sorted(self.quarantined - keys))
            if not self._is_released(key)
        ]
        if self.verifier.reads:
            self._read(report, _Known(), listed)

    def _is_released(self, key: str) -> bool:
        return key not in {item["sk"] for item in self.index.quarantined()}


@dataclass(slots=True)
class _Known:
    """What the index says of a study: contents shown by key, those behind them, and forms."""

    shown: dict[str, Item] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    forms: dict[str, Form] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    said: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Iterable[Item]) -> "_Known":
        known = cls()
        instances: Counter[str] = Counter()
        for item in items:
            sk = str(item["sk"])
            if sk.startswith(INSTANCE_PREFIX):
                known.shown[str(item["object_key"])] = item
                known.forms |= {form.object_key: form for form in forms_of(item)}
                place = series_of_instance(item)
                assert place is not None
                instances[place[1]] += 1
                instances[""] += 1
            elif sk.startswith(COPY_PREFIX):
                known.hidden.add(str(item["object_key"]))
            elif series := series_uid_of(item):
                known.said[series] = int(str(item["instances"]))
            elif sk == STUDY_SORT_KEY:
                known.said[""] = int(str(item["instances"]))
        known.hidden -= known.shown.keys()
        known.counted = dict(instances)
        return known

    def is_counted(self) -> bool:
        """Tell whether series and study say as many instances as there are items."""
        return self.counted == self.said

    def is_retired(self, key: str) -> bool:
        """Tell whether the item of a content says that its original is retired."""
        return converted(self.shown[key]).retired


def _repair(kind: Kind, key: str, became: Became) -> Finding:
    """Report what the index lacked by what became of it; not of what is gone."""
    if became is Became.QUARANTINED and kind is not Kind.NOT_LISTED:
        return Finding(Kind.QUARANTINED, key)
    return Finding(kind, key, repaired=became is not Became.FAILED)


def _is_as_indexed(listed: Listed, item: Item) -> bool:
    return listed.size == int(str(item["size"])) and listed.etag == item.get("etag", listed.etag)
