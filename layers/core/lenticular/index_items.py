"""What the index holds of a study, as pure values: items, and how they merge.

Events come more than once and in any order, so an item must not depend on how it came about.
Every attribute of a study or series is a register: its value and the stamp of the copy it came
from. The newest non-empty value wins (the first, under `keep-first`), which is commutative,
associative and idempotent. The patient is one register: a name of one copy beside the birth date of
another would be a person who does not exist. Counts are never incremented: a series has as many
instances as its tallies have members, and a set takes the same member once, however often it comes.
"""

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .archive import Form, InstanceKey
from .attributes import Level, of_level
from .dicom_json import JsonElement, first_text
from .index_keys import (
    MONTH_PARTITION,
    PROCEDURE_PREFIX,
    QUARANTINE_PARTITION,
    STUDY_SORT_KEY,
    copies_sort_prefix,
    instance_sort_key,
    keys_of_study,
    month_and_moment,
    procedure_sort_key,
    series_sort_key,
    study_partition,
    study_uid_of,
    tallies_sort_prefix,
)

#: Elements by tag, eight upper-case hexadecimal digits.
Elements = Mapping[str, JsonElement]
#: An item before DynamoDB's type tags: text, whole number or set of texts by attribute name.
Item = dict[str, "str | int | frozenset[str]"]

#: What it takes to tell whether an instance is in the bucket as it was indexed.
INSTANCE_CONTENT: Final = (
    *("pk", "sk", "uid", "object_key", "size", "sop_class_uid"),
    *("etag", "forms"),
)

#: What transcoding adds to an instance's item, behind ingest.
CONVERSION_ATTRIBUTES: Final = ("forms", "left_alone", "retired")

#: What retrieving an instance takes to know of it.
INSTANCE_LOCATION: Final = (
    *("uid", "object_key", "size", "sop_class_uid", "transfer_syntax_uid"),
    *CONVERSION_ATTRIBUTES,
)

_PATIENT_ID: Final = "00100020"
_PATIENT_NAME: Final = "00100010"
_MODALITY: Final = "00080060"
#: Of the SHA-256 of a SOP Instance UID, what stands for it in a tally: 72 bits tell any number of
#: instances apart that a series can have. A multiple of three, so that base64 needs no padding.
_MEMBER_BYTES: Final = 9
#: The attributes that say who the patient is.
PATIENT_TAGS: Final = frozenset(f"{each.tag:08X}" for each in of_level(Level.PATIENT))


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of the internal storage format of one content of an instance.

    `retired`: the original object is gone, and its bytes are to be had from a form alone.
    """

    forms: tuple[Form, ...] = ()
    left_alone: str | None = None
    retired: bool = False

    def attributes(self, sha256: str) -> Item:
        """Write the attributes of the item that shows the content of this SHA-256."""
        return {
            "forms": frozenset(map(str, self.forms)),
            **({"left_alone": f"{sha256} {self.left_alone}"} if self.left_alone else {}),
            **({"retired": sha256} if self.retired else {}),
        }


def forms_of(item: Item) -> list[Form]:
    """Read the forms of every content that an instance's item has shown."""
    return [Form.parse(member) for member in _texts(item, "forms")]


def forms_of_content(item: Item, sha256: str) -> tuple[Form, ...]:
    """Read the forms of one content that an instance's item shows, or has shown."""
    return tuple(sorted(each for each in forms_of(item) if f"/{sha256}/" in each.object_key))


def forms_with(item: Item, new: Iterable[Form]) -> frozenset[str]:
    """Return the set of an instance's forms after some were written, perhaps over others."""
    by_key = {form.object_key: form for form in (*forms_of(item), *new)}
    return frozenset(map(str, by_key.values()))


def converted(item: Item) -> Converted:
    """Read what became of the content that an instance's item shows.

    What the item says of another content, shown before, is left out.
    """
    shown = InstanceKey.parse(str(item["object_key"]))
    sha256 = shown.sha256 if shown else ""
    of, _, reason = str(item.get("left_alone", "")).partition(" ")
    return Converted(
        forms_of_content(item, sha256),
        reason if of == sha256 else None,
        retired=item.get("retired") == sha256,
    )


@dataclass(frozen=True, slots=True)
class Copy:
    """One stored content of an instance, as read from its object."""

    key: InstanceKey
    size: int
    received: str
    sop_class_uid: str
    transfer_syntax_uid: str
    attributes: Mapping[Level, Elements]
    defect: str | None = None
    calling_ae_title: str = ""
    converted: Converted = field(default_factory=Converted)
    etag: str | None = None

    @property
    def stamp(self) -> str:
        """Order copies by arrival; the content decides between two of one microsecond."""
        return f"{self.received}/{self.key.sha256[:16]}"

    def first_received(self, *others: str | None) -> "Copy":
        """Return this copy as received at the oldest of its own and other dates or stamps."""
        dates = (other.partition("/")[0] for other in others if other)
        return replace(self, received=min([self.received, *dates]))


@dataclass(frozen=True, slots=True)
class Registers:
    """Attributes with the stamp of the copy each value came from."""

    elements: Elements = field(default_factory=dict)
    stamps: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, elements: Elements, stamp: str) -> "Registers":
        """Take every non-empty element of one copy."""
        present = {tag: element for tag, element in elements.items() if element.get("Value")}
        return cls(present, dict.fromkeys(present, stamp))

    def merged(self, other: "Registers", *, newest: bool) -> "Registers":
        """Return the winner for each attribute; those of the patient come from one copy all."""

        def wins(stamp: str | None, mine: str | None) -> bool:
            if stamp is None or mine is None:
                return mine is None and stamp is not None
            return stamp > mine if newest else stamp < mine

        elements, stamps = dict(self.elements), dict(self.stamps)
        if wins(other.patient_stamp, self.patient_stamp):
            for tag in PATIENT_TAGS & stamps.keys():
                del elements[tag], stamps[tag]
            taken = PATIENT_TAGS & other.stamps.keys()
        else:
            taken = frozenset()
        taken |= {
            tag
            for tag, stamp in other.stamps.items()
            if tag not in PATIENT_TAGS and wins(stamp, stamps.get(tag))
        }
        for tag in taken:
            elements[tag], stamps[tag] = other.elements[tag], other.stamps[tag]
        return Registers(elements, stamps)

    @property
    def patient_stamp(self) -> str | None:
        """The stamp of the copy that says who the patient is, None when none does."""
        return next((self.stamps[tag] for tag in PATIENT_TAGS if tag in self.stamps), None)


@dataclass(frozen=True, slots=True)
class Series:
    """A series as the index keeps it."""

    study_instance_uid: str
    series_instance_uid: str
    registers: Registers
    sop_class_uids: frozenset[str]
    instances: int

    def item(self) -> Item:
        """Write the series' item."""
        return _with_registers(self.registers) | {
            "pk": study_partition(self.study_instance_uid),
            "sk": series_sort_key(self.series_instance_uid),
            "uid": self.series_instance_uid,
            "sop_class_uids": self.sop_class_uids,
            "instances": self.instances,
        }

    @classmethod
    def from_item(cls, item: Item) -> "Series":
        """Read the series' item."""
        return cls(
            study_uid_of(item),
            str(item["uid"]),
            registers_of(item),
            frozenset(_texts(item, "sop_class_uids")),
            int(str(item["instances"])),
        )

    @property
    def modality(self) -> str | None:
        """The Modality of the series, None when no instance says."""
        return first_text(self.registers.elements, _MODALITY)


@dataclass(frozen=True, slots=True)
class Study:
    """A study as the index keeps it."""

    study_instance_uid: str
    registers: Registers
    series: int
    instances: int
    modalities: frozenset[str]
    sop_class_uids: frozenset[str]

    def item(self) -> Item:
        """Write the study's item with the keys of the indexes that lead to it."""
        return (
            _with_registers(self.registers)
            | {
                "pk": study_partition(self.study_instance_uid),
                "sk": STUDY_SORT_KEY,
                "series": self.series,
                "instances": self.instances,
                "modalities": self.modalities,
                "sop_class_uids": self.sop_class_uids,
            }
            | keys_of_study(self.registers.elements)
        )


def study_of(study_instance_uid: str, registers: Registers, series: Iterable[Series]) -> Study:
    """Derive a study's item from its attributes and its series."""
    all_series = list(series)
    return Study(
        study_instance_uid,
        registers,
        series=len(all_series),
        instances=sum(each.instances for each in all_series),
        modalities=frozenset(each.modality for each in all_series if each.modality),
        sop_class_uids=frozenset().union(*(each.sop_class_uids for each in all_series)),
    )


def series_registers(copy: Copy) -> Registers:
    """Return what one copy says of its series."""
    return Registers.of(copy.attributes[Level.SERIES], copy.stamp)


def study_registers(copy: Copy) -> Registers:
    """Return what one copy says of its study and, if it names one, of its patient."""
    patient = copy.attributes[Level.PATIENT]
    if not any(first_text(patient, tag) for tag in (_PATIENT_ID, _PATIENT_NAME)):
        patient = {}
    return Registers.of({**patient, **copy.attributes[Level.STUDY]}, copy.stamp)


def instance_item(shown: Copy) -> Item:
    """Write the item of an instance, of the copy that is shown."""
    key = shown.key
    item: Item = {
        "pk": study_partition(key.study_instance_uid),
        "sk": instance_sort_key(key.series_instance_uid, key.sop_instance_uid),
        "uid": key.sop_instance_uid,
        "attributes": _json(shown.attributes[Level.INSTANCE]),
        "sop_class_uid": shown.sop_class_uid,
        "transfer_syntax_uid": shown.transfer_syntax_uid,
        "object_key": str(key),
        "size": shown.size,
        "stamp": shown.stamp,
    }
    if shown.defect:
        item["defect"] = shown.defect
    if shown.calling_ae_title:
        item["calling_ae_title"] = shown.calling_ae_title
    if shown.etag:
        # By it a commitment knows the object again without reading it.
        item["etag"] = shown.etag
    return item | shown.converted.attributes(key.sha256)


def copy_item(instance: Item) -> Item:
    """Write the item that lists the content which an instance's item shows, or would show.

    An instance of one content, as nearly all are, has none of these.
    """
    key = InstanceKey.parse(str(instance["object_key"]))
    assert key is not None
    prefix = copies_sort_prefix(key.series_instance_uid, key.sop_instance_uid)
    return {
        "pk": instance["pk"],
        "sk": f"{prefix}{key.sha256}",
        "object_key": instance["object_key"],
        "stamp": instance["stamp"],
    }


def tally_items(
    study_instance_uid: str, series_instance_uid: str, sop_instance_uids: Iterable[str]
) -> list[Item]:
    """Write the items that count the instances of a series.

    A member is the hash of a SOP Instance UID, and its first digit says in which of 16 shards it
    is. So a batch adds to a few short sets, and all of them are read in one page: 60 KB for 5,000
    instances, where the instances themselves are 7 MB.
    """
    shards: dict[str, set[str]] = defaultdict(set)
    for uid in sop_instance_uids:
        digest = hashlib.sha256(uid.encode()).digest()
        member = base64.urlsafe_b64encode(digest[:_MEMBER_BYTES]).decode("ascii")
        shards[f"{digest[0] >> 4:x}"].add(member)
    prefix = tallies_sort_prefix(series_instance_uid)
    return [
        {
            "pk": study_partition(study_instance_uid),
            "sk": f"{prefix}{shard}",
            "members": frozenset(members),
        }
        for shard, members in sorted(shards.items())
    ]


def members_of(tally: Item) -> frozenset[str]:
    """Read the members of a tally."""
    return frozenset(_texts(tally, "members"))


def month_item(month: str) -> Item:
    """Write the item that says that there may be studies of a month."""
    return {"pk": MONTH_PARTITION, "sk": month}


def study_items(copies: Iterable[Copy], *, newest: bool) -> list[Item]:
    """Fold every copy of one study into the items the index must hold of it.

    This is what ingest arrives at step by step; a rebuild computes it in one go.
    """
    by_instance: dict[tuple[str, str], list[Copy]] = defaultdict(list)
    for copy in copies:
        by_instance[copy.key.series_instance_uid, copy.key.sop_instance_uid].append(copy)
    items: list[Item] = []
    by_series: dict[str, list[list[Copy]]] = defaultdict(list)
    for (series_instance_uid, _), of_instance in by_instance.items():
        by_series[series_instance_uid].append(of_instance)
        choose = max if newest else min
        item = instance_item(choose(of_instance, key=lambda copy: copy.stamp))
        forms = (str(form) for copy in of_instance for form in copy.converted.forms)
        items.append(item | {"forms": frozenset(forms)})
        if len({copy.key for copy in of_instance}) > 1:
            listed = [copy_item(instance_item(copy)) for copy in of_instance]
            items += {str(each["sk"]): each for each in listed}.values()
    all_series = []
    of_study = Registers()
    for series_instance_uid, instances in by_series.items():
        of_series = Registers()
        every_copy = [copy for of_instance in instances for copy in of_instance]
        for copy in every_copy:
            of_series = of_series.merged(series_registers(copy), newest=newest)
            of_study = of_study.merged(study_registers(copy), newest=newest)
        series = Series(
            every_copy[0].key.study_instance_uid,
            series_instance_uid,
            of_series,
            frozenset(copy.sop_class_uid for copy in every_copy),
            len(instances),
        )
        all_series.append(series)
        items.append(series.item())
        items += tally_items(
            series.study_instance_uid,
            series_instance_uid,
            (copy.key.sop_instance_uid for copy in every_copy),
        )
    if all_series:
        items.append(study_of(all_series[0].study_instance_uid, of_study, all_series).item())
    return items


@dataclass(frozen=True, slots=True)
class Procedure:
    """A performed procedure step as the index keeps it with one of its studies.

    `number` is that of the step's state (`archive.ProcedureKey`). `received` is how many of the
    `announced` instances are there, of whichever of its studies. `checks` is how often that was
    looked at since the step is final, `next_check` when it will be again (UTC), and `overdue` says
    that we have stopped waiting.
    """

    study_instance_uid: str
    sop_instance_uid: str
    number: int
    state: str
    since: str
    calling_ae_title: str
    station_ae_title: str
    modality: str
    started: str
    ended: str
    accession_numbers: tuple[str, ...]
    announced: int
    received: int
    is_final: bool
    checks: int = 0
    next_check: str = ""
    overdue: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the step is over and all that it made is there."""
        return self.is_final and self.received == self.announced

    def item(self) -> Item:
        """Write the step's item with the keys of the index that lists steps by month."""
        texts = {name: getattr(self, name) for name in _PROCEDURE_TEXTS}
        month, moment = month_and_moment(*self.started.partition("T")[::2])
        return {name: text for name, text in texts.items() if text} | {
            "pk": study_partition(self.study_instance_uid),
            "sk": procedure_sort_key(self.sop_instance_uid),
            "number": self.number,
            "accession_numbers": frozenset(self.accession_numbers),
            "announced": self.announced,
            "received": self.received,
            "is_final": int(self.is_final),
            "checks": self.checks,
            "overdue": int(self.overdue),
            "procedure_month": month,
            "procedure_moment": moment,
        }

    @classmethod
    def from_item(cls, item: Item) -> "Procedure":
        """Read the step's item."""
        texts = {name: str(item.get(name, "")) for name in _PROCEDURE_TEXTS}
        return cls(
            study_instance_uid=study_uid_of(item),
            sop_instance_uid=str(item["sk"]).removeprefix(PROCEDURE_PREFIX),
            number=int(str(item["number"])),
            accession_numbers=tuple(sorted(_texts(item, "accession_numbers"))),
            announced=int(str(item["announced"])),
            received=int(str(item["received"])),
            is_final=bool(item["is_final"]),
            checks=int(str(item["checks"])),
            overdue=bool(item["overdue"]),
            **texts,
        )


_PROCEDURE_TEXTS: Final = (
    "state", "since", "calling_ae_title", "station_ae_title", "modality", "started", "ended",
    "next_check",
)  # fmt: skip


def quarantine_item(object_key: str, reason: str, received: str, calling_ae_title: str) -> Item:
    """Write the item that lists an object the index cannot place."""
    return {
        "pk": QUARANTINE_PARTITION,
        "sk": object_key,
        "reason": reason,
        "received": received,
        "calling_ae_title": calling_ae_title,
    }


def registers_of(item: Item) -> Registers:
    """Read the registers of a study or series item."""
    return Registers(json.loads(str(item["attributes"])), json.loads(str(item["stamps"])))


def elements_of(item: Item) -> Elements:
    """Read the attributes of any item."""
    elements: Elements = json.loads(str(item["attributes"]))
    return elements


def to_dynamodb(item: Item) -> dict[str, Any]:
    """Add DynamoDB's type tags; an empty set or text has no place there and is left out."""
    tagged: dict[str, Any] = {}
    for name, value in item.items():
        if isinstance(value, int):
            tagged[name] = {"N": str(value)}
        elif isinstance(value, str):
            tagged[name] = {"S": value}
        elif value:
            tagged[name] = {"SS": sorted(value)}
    return tagged


def from_dynamodb(tagged: Mapping[str, Any]) -> Item:
    """Take DynamoDB's type tags away."""
    return {
        name: value if kind == "S" else int(value) if kind == "N" else frozenset(value)
        for name, attribute in tagged.items()
        for kind, value in attribute.items()
    }


def _with_registers(registers: Registers) -> Item:
    return {"attributes": _json(registers.elements), "stamps": _json(registers.stamps)}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _texts(item: Item, name: str) -> Iterable[str]:
    value = item.get(name, frozenset())
    return value if isinstance(value, frozenset) else ()
