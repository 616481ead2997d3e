"""Objects as the gateway writes them, made from a few attributes, in a stack of the template."""

import hashlib
import itertools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lenticular.archive import CALLING_AE_TITLE, RECEIVED, Archive
from lenticular.elements import encode_data_set
from lenticular.index import Index
from lenticular.indexing import index_objects
from lenticular.part10 import file_head
from lenticular.placement import place
from tests.cloud.standin import OfflineCloud

ROOT = Path(__file__).resolve().parents[2]
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

_KEYWORDS = {
    "SpecificCharacterSet": (0x00080005, "CS"),
    "SOPClassUID": (0x00080016, "UI"),
    "SOPInstanceUID": (0x00080018, "UI"),
    "StudyDate": (0x00080020, "DA"),
    "AccessionNumber": (0x00080050, "SH"),
    "Modality": (0x00080060, "CS"),
    "StudyDescription": (0x00081030, "LO"),
    "PatientName": (0x00100010, "PN"),
    "PatientID": (0x00100020, "LO"),
    "StudyInstanceUID": (0x0020000D, "UI"),
    "SeriesInstanceUID": (0x0020000E, "UI"),
    "InstanceNumber": (0x00200013, "IS"),
}


@dataclass
class Store:
    """The bucket and the table of one stack, empty at first."""

    cloud: OfflineCloud
    bucket: str
    table: str
    _arrivals: Any = field(default_factory=itertools.count)

    @classmethod
    def in_cloud(cls, cloud: OfflineCloud) -> "Store":
        """Create the resources of the real template under names of their own."""
        stack = cloud.stack(ROOT / "template.yaml", BucketPrefix=f"t{uuid.uuid4().hex[:20]}")
        return cls(cloud, stack.name("ArchiveBucket"), stack.name("Table"))

    @property
    def archive(self) -> Archive:
        """The bucket as the functions read it."""
        return Archive(self.cloud.clients.s3, self.bucket)

    def index(self, *, newest_shown: bool = True) -> Index:
        """Return the table as the functions write it."""
        dynamodb: Any = self.cloud.clients.dynamodb
        return Index(dynamodb, self.table, newest_shown=newest_shown)

    def put(self, *, storage_class: str = "STANDARD", **attributes: str) -> str:
        """Store an instance of these attributes as the gateway would, and return its key."""
        data_set = encode_data_set(
            (tag, vr, attributes[keyword].encode())
            for keyword, (tag, vr) in _KEYWORDS.items()
            if keyword in attributes
        )
        uid = attributes["SOPInstanceUID"]
        file = file_head(CT, uid, EXPLICIT) + data_set
        placement = place(
            data_set, sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT
        )
        key = placement.key(hashlib.sha256(file).hexdigest())
        self.put_bytes(key, file, storage_class=storage_class)
        return key

    def put_bytes(self, key: str, file: bytes, *, storage_class: str = "STANDARD") -> None:
        """Store any bytes, a microsecond after those before."""
        s3: Any = self.cloud.clients.s3
        s3.put_object(
            Bucket=self.bucket,
            Key=key,
            Body=file,
            StorageClass=storage_class,
            Metadata={
                RECEIVED: f"2026-01-01T00:00:00.{next(self._arrivals):06}Z",
                CALLING_AE_TITLE: "CT1",
            },
        )

    def items(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """Read the whole table; sets come sorted."""
        dynamodb: Any = self.cloud.clients.dynamodb
        pages = dynamodb.get_paginator("scan").paginate(TableName=self.table, ConsistentRead=True)
        items = [item for page in pages for item in page["Items"]]
        for value in (value for item in items for value in item.values() if "SS" in value):
            value["SS"].sort()
        return {(item["pk"]["S"], item["sk"]["S"]): item for item in items}


def study(number: int, *, series: int = 2, instances: int = 3) -> list[dict[str, str]]:
    """Return the attributes of the instances of a study; the second series is an MR."""
    return [
        {
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": CT,
            "SOPInstanceUID": f"1.2.{number}.{each_series}.{each}",
            "StudyDate": "20260101",
            "AccessionNumber": f"A{number}",
            "Modality": "MR" if each_series == 1 else "CT",
            "StudyDescription": "Thorax",
            "PatientName": "Müller^Jürgen",
            "PatientID": f"P{number}",
            "StudyInstanceUID": f"1.2.{number}",
            "SeriesInstanceUID": f"1.2.{number}.{each_series}",
            "InstanceNumber": str(each),
        }
        for each_series in range(series)
        for each in range(instances)
    ]


def instance(uid: str, number: int, **attributes: str) -> dict[str, str]:
    """Return the attributes of an instance of the study `uid`, of one series."""
    [template] = study(1, series=1, instances=1)
    uids = {
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": f"{uid}.1",
        "SOPInstanceUID": f"{uid}.1.{number}",
    }
    return {**template, **uids, **attributes}


def stored(store: Store, uid: str, count: int = 3) -> list[str]:
    """Store and index a study of so many instances; return their keys."""
    keys = [store.put(**instance(uid, number)) for number in range(1, count + 1)]
    assert index_objects(store.archive, store.index(), keys) == []
    return keys
