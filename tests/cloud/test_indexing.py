"""The index follows the bucket, whatever the events do."""

import hashlib
import importlib.util
import json
import random
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import boto3
import pytest
from botocore.config import Config

from lenticular.attributes import Level
from lenticular.elements import encode_element
from lenticular.errors import StoreUnavailable
from lenticular.header import read_copy
from lenticular.index import Index
from lenticular.index_items import Copy, from_dynamodb, month_item, study_items
from lenticular.indexing import index_objects, rebuild
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import ROOT, Store, study
from tests.peers.faulty_s3 import Fault, faulty_s3


@pytest.fixture
def store(cloud: OfflineCloud) -> Store:
    """Return an empty bucket and an empty table."""
    return Store.in_cloud(cloud)


def _expected(store: Store, keys: list[str], *, newest: bool = True) -> dict[Any, Any]:
    """Fold what is in the bucket into items, study by study, without the index."""
    copies: dict[str, list[Copy]] = {}
    for key in set(keys):
        copy = read_copy(store.archive, key)
        assert isinstance(copy, Copy)
        copies.setdefault(copy.key.study_instance_uid, []).append(copy)
    items = [item for each in copies.values() for item in study_items(each, newest=newest)]
    months = {str(item["study_month"]) for item in items if "study_month" in item} - {"unknown"}
    return {
        (item["pk"], item["sk"]): {
            name: value for name, value in item.items() if value != frozenset()
        }
        for item in [*items, *map(month_item, months)]
    }


def _without_fingerprints(items: dict[Any, Any]) -> dict[Any, Any]:
    return {
        key: {name: value for name, value in from_dynamodb(item).items() if name != "fingerprint"}
        for key, item in items.items()
    }


@pytest.mark.parametrize("newest", [True, False])
def test_duplicate_and_reordered_events_give_the_index_of_the_bucket(
    store: Store, newest: bool
) -> None:
    keys = [store.put(**attributes) for number in (1, 2) for attributes in study(number)]
    # The same instance with other content: one is shown, both are listed.
    changed = {**study(1)[0], "PatientName": "Mueller^Juergen", "StudyDescription": ""}
    keys.append(store.put(**changed))
    events = keys * 2
    random.Random(7).shuffle(events)  # noqa: S311 - an order, not a secret
    index = store.index(newest_shown=newest)
    for start in range(0, len(events), 5):
        assert index_objects(store.archive, index, events[start : start + 5]) == []
    assert _without_fingerprints(store.items()) == _expected(store, keys, newest=newest)


def test_batches_that_race_on_one_study_count_exactly(store: Store) -> None:
    keys = [store.put(**attributes) for attributes in study(1, series=2, instances=20)]
    batches = [keys[start::8] for start in range(8)]
    with ThreadPoolExecutor(len(batches)) as pool:
        failed = list(
            pool.map(lambda batch: index_objects(store.archive, store.index(), batch), batches)
        )
    assert failed == [[]] * len(batches)
    found = store.index().study("1.2.1")
    assert found is not None
    assert (found["series"], found["instances"]) == (2, 40)
    assert found["modalities"] == frozenset({"CT", "MR"})
    assert _without_fingerprints(store.items()) == _expected(store, keys)


@pytest.mark.parametrize("newest", [True, False])
def test_contents_of_one_instance_are_listed_each_on_its_own(store: Store, newest: bool) -> None:
    first = study(1)[0]
    contents = [store.put(**{**first, "StudyDescription": f"v{number}"}) for number in range(5)]
    index = store.index(newest_shown=newest)
    assert index_objects(store.archive, index, contents[:1]) == []
    uids = first["StudyInstanceUID"], first["SeriesInstanceUID"], first["SOPInstanceUID"]
    assert list(index.copies(*uids)) == []
    # Whatever the order, the arrival decides; here the second to arrive is told of last.
    assert index_objects(store.archive, index, [contents[4], contents[2], contents[3]]) == []
    assert index_objects(store.archive, index, [contents[1], contents[4]]) == []
    assert {item["object_key"] for item in index.copies(*uids)} == set(contents)
    shown = index.instance(*uids)
    assert shown is not None
    assert shown["object_key"] == contents[4 if newest else 0]
    assert _without_fingerprints(store.items()) == _expected(store, contents, newest=newest)


@pytest.mark.parametrize("newest", [True, False])
def test_an_object_that_went_and_came_again_is_no_news(store: Store, newest: bool) -> None:
    first, second = study(1)[0], {**study(1)[0], "PatientName": "Right^Name", "Modality": "MR"}
    index = store.index(newest_shown=newest)
    keys = []
    for attributes in (first, second):
        keys.append(store.put(**attributes))
        assert index_objects(store.archive, index, keys[-1:]) == []
    before = store.items()
    s3: Any = store.cloud.clients.s3
    for key, attributes in zip(keys, (first, second), strict=True):
        s3.delete_object(Bucket=store.bucket, Key=key)
        assert store.put(**attributes) == key
        assert index_objects(store.archive, index, [key]) == []
        assert store.items() == before


def test_an_instance_that_the_table_never_takes_is_quarantined_and_its_study_is_not(
    store: Store,
) -> None:
    good = [store.put(**attributes) for attributes in study(1)]
    assert index_objects(store.archive, store.index(), good[:3]) == []
    # The item of the first series has no room left for the news of another instance.
    dynamodb: Any = store.cloud.clients.dynamodb
    full = {**store.items()["STUDY#1.2.1", "SERIES#1.2.1.0"]}
    full["sop_class_uids"] = {"SS": [f"1.2.{number:060}" for number in range(6_250)]}
    dynamodb.put_item(TableName=store.table, Item=full)
    changed = store.put(**{**study(1)[0], "Modality": "C" * 10_900, "SOPInstanceUID": "1.2.1.0.99"})
    assert index_objects(store.archive, store.index(), [changed, *good[3:]]) == []
    (listed,) = store.index().quarantined()
    assert listed["sk"] == changed
    assert "ValidationException" in str(listed["reason"])
    assert listed["calling_ae_title"] == "CT1"
    found = store.index().study("1.2.1")
    assert found is not None
    assert (found["series"], found["instances"]) == (2, 6)
    # Once there is room again, a rebuild takes it off the list.
    dynamodb.delete_item(
        TableName=store.table, Key={"pk": {"S": "STUDY#1.2.1"}, "sk": {"S": "SERIES#1.2.1.0"}}
    )
    rebuild(store.archive, store.index())
    assert _without_fingerprints(store.items()) == _expected(store, [*good, changed])


@pytest.mark.parametrize(
    ("refused", "left_out"),
    [
        # The item of one instance, that of its series because of what one says of it.
        ("INSTANCE#1.2.1.0#1.2.1.0.1", 1),
        ("C" * 5_000, 2),
    ],
)
def test_a_rebuild_leaves_out_the_instance_alone_that_the_table_never_takes(
    store: Store, refused: str, left_out: int
) -> None:
    attributes = [*study(1), *study(2)]
    attributes[2]["Modality"] = "C" * 10_000
    keys = [store.put(**each) for each in attributes]
    dynamodb: Any = store.cloud.clients.dynamodb
    with faulty_s3(store.cloud.endpoint) as way:
        # As with an item that is too large, the same request is refused however often it comes.
        way.fail(Fault.ITEM_REFUSED, where=refused)
        make: Any = boto3.client
        limited = make("dynamodb", endpoint_url=way.endpoint, region_name="us-east-1",
                       aws_access_key_id="test", aws_secret_access_key="test")  # fmt: skip
        assert rebuild(store.archive, Index(limited, store.table)) == len(keys)
    (listed,) = Index(dynamodb, store.table).quarantined()
    assert listed["sk"] == keys[left_out]
    assert "ValidationException" in str(listed["reason"])
    taken = [key for key in keys if key != keys[left_out]]
    expected = _expected(store, taken)
    found = _without_fingerprints(store.items())
    assert {at: item for at, item in found.items() if at[0] != "QUARANTINE"} == expected
    # Once the table takes it, it has its place.
    rebuild(store.archive, store.index())
    assert _without_fingerprints(store.items()) == _expected(store, keys)


def test_who_takes_longer_than_a_deletion_waits_is_told(store: Store) -> None:
    index = store.index()

    def works() -> None:
        with index.leased(["1.2.1", "1.2.2"]):
            [name] = index.leases("1.2.1")
            index.end_lease("1.2.1", name)

    with pytest.raises(StoreUnavailable, match="without it"):
        works()
    assert store.items() == {}


@pytest.mark.parametrize("write", ["PutItem", "DeleteItem"])
def test_one_lease_that_the_table_does_not_take_leaves_no_other_behind(
    cloud: OfflineCloud, store: Store, write: str
) -> None:
    uids = [f"1.2.{number}" for number in range(100, 200)]
    with faulty_s3(cloud.endpoint) as dynamodb:
        client = boto3.client(
            "dynamodb",
            endpoint_url=dynamodb.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 1}),
        )
        index = Index(client, store.table)
        key = "Item" if write == "PutItem" else "Key"
        lease = f'"{key}": {{"pk": {{"S": "LEASE#{uids[3]}"'
        dynamodb.fail(Fault.INTERNAL_ERROR, where=lease, times=1)
        with pytest.raises(StoreUnavailable), index.leased(uids):
            pass
        assert dynamodb.failed
    left = {str(pk) for pk, _ in store.items()}
    assert left <= {f"LEASE#{uids[3]}"}
    assert not (left and write == "PutItem")


def test_months_that_have_studies_are_listed_and_a_rebuild_finds_them_again(store: Store) -> None:
    dates = ("20251231", "20260101", "20260131", "", "202503")
    keys = [
        store.put(**{**study(number)[0], "StudyDate": date}) for number, date in enumerate(dates)
    ]
    assert index_objects(store.archive, store.index(), keys) == []
    months = ["2025-03", "2025-12", "2026-01"]
    assert store.index().months("0000-01", "9999-12") == months
    assert store.index().months("2025-04", "2025-12") == ["2025-12"]
    dynamodb: Any = store.cloud.clients.dynamodb
    for month in months:
        key = {"pk": {"S": "MONTH"}, "sk": {"S": month}}
        dynamodb.delete_item(TableName=store.table, Key=key)
    rebuild(store.archive, store.index())
    assert store.index().months("0000-01", "9999-12") == months


def test_a_rebuild_mends_a_wrong_tally(store: Store) -> None:
    keys = [store.put(**attributes) for attributes in study(1)]
    index_objects(store.archive, store.index(), keys)
    right = store.items()
    dynamodb: Any = store.cloud.clients.dynamodb
    tallies = [item for (_, sk), item in right.items() if sk.startswith("TALLY#1.2.1.0#")]
    wrong = {**tallies[0], "members": {"SS": ["nobody", *tallies[0]["members"]["SS"]]}}
    dynamodb.put_item(TableName=store.table, Item=wrong)
    stray = {**wrong, "sk": {"S": "TALLY#1.2.1.9#0"}}
    dynamodb.put_item(TableName=store.table, Item=stray)
    rebuild(store.archive, store.index())
    assert store.items() == right


def test_a_rebuild_of_an_empty_table_equals_what_ingest_made(
    store: Store, cloud: OfflineCloud
) -> None:
    keys = [store.put(**attributes) for number in (1, 2, 3) for attributes in study(number)]
    keys.append(store.put(**{**study(2)[1], "PatientID": "P2b"}))
    keys.append(store.put(SOPInstanceUID="1.2.9", PatientID="P9"))
    store.put_bytes("instances/1.2.8/1.2.8.1/1.2.8.1.1/" + "0" * 64 + ".dcm", b"not DICOM")
    keys.append("instances/1.2.8/1.2.8.1/1.2.8.1.1/" + "0" * 64 + ".dcm")
    random.Random(3).shuffle(keys)  # noqa: S311 - an order, not a secret
    for key in keys:
        assert index_objects(store.archive, store.index(), [key]) == []
    ingested = store.items()
    fresh = Store(cloud, store.bucket, Store.in_cloud(cloud).table)
    assert rebuild(fresh.archive, fresh.index()) == len(keys)
    assert fresh.items() == ingested
    assert {sk for pk, sk in ingested if pk == "QUARANTINE"} == {
        key for key in keys if key.startswith("quarantine/") or "1.2.8.1.1" in key
    }


def test_a_rebuild_mends_a_table_in_use_and_leaves_the_nodes_alone(store: Store) -> None:
    keys = [store.put(**attributes) for number in (1, 2) for attributes in study(number)]
    index = store.index()
    index_objects(store.archive, index, keys)
    right = store.items()
    dynamodb: Any = store.cloud.clients.dynamodb
    node = {"pk": {"S": "NODE"}, "sk": {"S": "CT1"}, "node": {"S": "{}"}}
    dynamodb.put_item(TableName=store.table, Item=node)
    # A count that is wrong, an instance that is missing, a study whose objects are gone.
    wrong = {**right["STUDY#1.2.1", "STUDY"], "instances": {"N": "99"}}
    dynamodb.put_item(TableName=store.table, Item=wrong)
    gone = ("STUDY#1.2.2", "INSTANCE#1.2.2.0#1.2.2.0.1")
    dynamodb.delete_item(TableName=store.table, Key={"pk": {"S": gone[0]}, "sk": {"S": gone[1]}})
    stray = [store.put(**attributes) for attributes in study(3)]
    index_objects(store.archive, index, stray)
    s3: Any = store.cloud.clients.s3
    for key in stray:
        s3.delete_object(Bucket=store.bucket, Key=key)
    rebuild(store.archive, index)
    assert store.items() == {**right, ("NODE", "CT1"): node}


def test_a_rebuild_of_a_right_table_writes_nothing(store: Store) -> None:
    keys = [store.put(**attributes) for attributes in study(1)]
    index_objects(store.archive, store.index(), keys)
    before = store.items()
    assert rebuild(store.archive, store.index()) == len(keys)
    assert store.items() == before


def test_an_object_that_cannot_be_read_fails_alone(store: Store) -> None:
    good = [store.put(**attributes) for attributes in study(1)]
    # S3 refuses to give an object that lies in Glacier, until somebody restores it.
    cold = store.put(storage_class="GLACIER", **study(2)[0])
    assert index_objects(store.archive, store.index(), [*good, cold]) == [cold]
    assert _without_fingerprints(store.items()) == _expected(store, good)


def test_an_empty_object_is_quarantined(store: Store) -> None:
    key = f"instances/1.2/1.2.1/1.2.1.1/{'0' * 64}.dcm"
    store.put_bytes(key, b"")
    assert index_objects(store.archive, store.index(), [key]) == []
    assert [item["sk"] for item in store.index().quarantined()] == [key]


def test_an_object_that_is_gone_is_no_failure(store: Store) -> None:
    key = store.put(**study(1)[0])
    s3: Any = store.cloud.clients.s3
    s3.delete_object(Bucket=store.bucket, Key=key)
    assert index_objects(store.archive, store.index(), [key]) == []
    assert store.items() == {}


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, "Study Instance UID"),
        ({"StudyInstanceUID": "1.2.1"}, "Series Instance UID"),
        ({"StudyInstanceUID": "../etc"}, "Study Instance UID"),
        ({"SOPClassUID": "1.2.3"}, "SOP Class UID"),
    ],
)
def test_what_cannot_be_placed_is_listed_with_the_reason(
    store: Store, attributes: dict[str, str], reason: str
) -> None:
    key = store.put(SOPInstanceUID="1.2.3", PatientName="Secret^Name", **attributes)
    assert key.startswith("quarantine/")
    assert index_objects(store.archive, store.index(), [key]) == []
    (listed,) = store.index().quarantined()
    assert listed["sk"] == key
    assert reason in str(listed["reason"])
    assert listed["calling_ae_title"] == "CT1"
    assert "Secret" not in json.dumps(listed)


def test_a_header_longer_than_the_first_range_is_read_to_its_end(store: Store) -> None:
    key = store.put(**study(1)[0])
    s3: Any = store.cloud.clients.s3
    file: bytes = s3.get_object(Bucket=store.bucket, Key=key)["Body"].read()
    patient_name = file.index(b"\x10\x00\x10\x00PN")
    private = encode_element(0x00091010, "OB", bytes(300_000))
    long = file[:patient_name] + private + file[patient_name:]
    long_key = f"{key.rpartition('/')[0]}/{hashlib.sha256(long).hexdigest()}.dcm"
    store.put_bytes(long_key, long)
    copy = read_copy(store.archive, long_key)
    assert isinstance(copy, Copy)
    assert (copy.defect, copy.size) == (None, len(long))
    assert copy.attributes[Level.PATIENT]["00100020"]["Value"] == ["P1"]


def _handler(monkeypatch: pytest.MonkeyPatch, store: Store) -> ModuleType:
    """Load the function as Lambda does, in the environment the template gives it."""
    for name, value in {
        **store.cloud.environment,
        "LENTICULAR_BUCKET": store.bucket,
        "LENTICULAR_TABLE": store.table,
        "LENTICULAR_TRANSCODE": "none",
        "LENTICULAR_TRANSCODE_QUEUE": "asked for nothing",
        "POWERTOOLS_SERVICE_NAME": "lenticular-index",
        "POWERTOOLS_METRICS_NAMESPACE": "Lenticular",
    }.items():
        monkeypatch.setenv(name, value)
    path = ROOT / "functions/index/app.py"
    spec = importlib.util.spec_from_file_location("index_function", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Context:
    function_name = "index"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:index"
    aws_request_id = "request"


def test_only_the_messages_that_failed_are_reported(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(*keys: str) -> str:
        records = [
            {"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key}}} for key in keys
        ]
        return json.dumps({"Records": records})

    good = [store.put(**attributes) for attributes in study(1)]
    cold = store.put(storage_class="GLACIER", **study(2)[0])
    bodies = {
        "test-event": json.dumps({"Event": "s3:TestEvent"}),
        "good": body(*good[:3]),
        "cold": body(good[3], cold),
        "again": body(*good[2:]),
        "nonsense": "{",
    }
    event = {"Records": [{"messageId": name, "body": each} for name, each in bodies.items()]}
    answer = _handler(monkeypatch, store).handler(event, _Context())
    failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
    assert failed == {"cold", "nonsense"}
    assert _without_fingerprints(store.items()) == _expected(store, good)


def _rewritten(store: Store, key: str, before: bytes, after: bytes) -> str:
    """Store a copy of an object in which some bytes are others, under a key of its own."""
    s3: Any = store.cloud.clients.s3
    file: bytes = s3.get_object(Bucket=store.bucket, Key=key)["Body"].read()
    assert before in file
    changed = file.replace(before, after)
    changed_key = f"{key.rpartition('/')[0]}/{hashlib.sha256(changed).hexdigest()}.dcm"
    store.put_bytes(changed_key, changed)
    return changed_key


def test_an_attribute_of_another_vr_is_left_out_and_noted(store: Store) -> None:
    key = store.put(**{**study(1)[0], "PatientName": ""})
    empty_sequence = b"\x10\x00\x10\x00SQ\0\0\0\0\0\0"
    written = _rewritten(store, key, b"\x10\x00\x10\x00PN\0\0", empty_sequence)
    copy = read_copy(store.archive, written)
    assert isinstance(copy, Copy)
    assert copy.defect == "PatientName is not of VR PN"
    assert copy.attributes[Level.PATIENT]["00100010"] == {"vr": "PN"}


def test_a_key_attribute_keeps_its_first_value_and_the_rest_is_noted(store: Store) -> None:
    copy = read_copy(store.archive, store.put(**{**study(1)[0], "AccessionNumber": "A1\\A2"}))
    assert isinstance(copy, Copy)
    assert copy.attributes[Level.STUDY]["00080050"]["Value"] == ["A1"]
    assert copy.defect == "AccessionNumber has more than one value"


@pytest.mark.parametrize(
    "text", ["\x01" * 20_000, "x" * 11_001], ids=["escaped", "longer than any VR allows"]
)
def test_an_attribute_never_outgrows_its_share_of_an_item(store: Store, text: str) -> None:
    copy = read_copy(store.archive, store.put(**{**study(1)[0], "StudyDescription": text}))
    assert isinstance(copy, Copy)
    assert copy.defect == "StudyDescription is too long for the index"
    assert copy.attributes[Level.STUDY]["00080050"]["Value"] == ["A1"]
