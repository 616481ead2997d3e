"""What can be placed by now leaves the quarantine, and is as if it had never been there."""

import hashlib

import pytest
from click.testing import CliRunner

from lenticular.archive import DeletionKey, InstanceKey, quarantine_key
from lenticular.cli import main
from lenticular.cli.exit_codes import ExitCode
from lenticular.elements import encode_data_set, encode_element
from lenticular.indexing import index_objects, rebuild
from lenticular.part10 import file_head
from lenticular.quarantine import Retried, retry
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import CT, EXPLICIT, Store, study


@pytest.fixture
def store(cloud: OfflineCloud) -> Store:
    return Store.in_cloud(cloud)


def test_what_an_earlier_version_could_not_place_is_placed(store: Store) -> None:
    [attributes] = study(71, series=1, instances=1)
    placed = store.put(**attributes)
    file = store.archive.read(placed)
    # As a version left it that did not know, say, its transfer syntax.
    s3 = store.cloud.clients.s3
    s3.delete_object(Bucket=store.bucket, Key=placed)
    key = quarantine_key(attributes["SOPInstanceUID"], hashlib.sha256(file).hexdigest())
    store.put_bytes(key, file)
    store.index().quarantine(key, "not known", "2026-01-01T00:00:00.000000Z", "CT1")
    for _ in range(2):
        assert retry(s3, store.archive, store.index(), key if _ == 0 else placed).now == placed
        assert key not in {str(item["sk"]) for item in store.index().quarantined()}
        assert store.archive.read(placed) == file
        assert not store.archive.holds(key)
        [item] = store.index().instances("1.2.71")
        assert item["object_key"] == placed
        assert item["calling_ae_title"] == "CT1"
    before = store.items()
    rebuild(store.archive, store.index())
    assert store.items() == before


def test_what_can_be_placed_stays_while_its_study_is_being_deleted(store: Store) -> None:
    [attributes] = study(77, series=1, instances=1)
    placed = store.put(**attributes)
    file = store.archive.read(placed)
    key = quarantine_key(attributes["SOPInstanceUID"], hashlib.sha256(file).hexdigest())
    store.put_bytes(key, file)
    s3, archive, index = store.cloud.clients.s3, store.archive, store.index()
    deletion = DeletionKey("1.2.77", "20261122T120000.000000Z")
    archive.create_document(str(deletion), b"{}")
    assert retry(s3, archive, index, key) == Retried(key, None, "its study is being deleted")
    assert archive.holds(key)
    archive.create_document(deletion.completed, b"{}")
    assert retry(s3, archive, index, key).now == placed
    assert not archive.holds(key)


def test_what_still_cannot_be_placed_stays(store: Store) -> None:
    key = store.put(SOPInstanceUID="1.2.72.1", PatientID="P")
    index_objects(store.archive, store.index(), [key])
    reason = "the data set has no valid Study Instance UID"
    assert retry(store.cloud.clients.s3, store.archive, store.index(), key) == Retried(
        key, None, reason
    )
    assert [str(item["sk"]) for item in store.index().quarantined()] == [key]
    assert store.archive.holds(key)


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_what_breaks_off_stays_and_is_listed_as_that(store: Store, size: int) -> None:
    pixels = encode_element(0x7FE00010, "OW", bytes(size))
    uid = f"1.2.75.1.{size}"
    head = file_head(CT, uid, EXPLICIT) + encode_data_set(
        [(0x0020000D, "UI", b"1.2.75"), (0x0020000E, "UI", b"1.2.75.1")]
    )
    reason = "the data set cannot be followed to its end"
    s3, archive, index = store.cloud.clients.s3, store.archive, store.index()
    keys = {}
    for file in (head + pixels[:-1], head + pixels):
        keys[file] = quarantine_key(uid, hashlib.sha256(file).hexdigest())
        store.put_bytes(keys[file], file)
    index_objects(archive, index, keys.values())
    listed = {str(item["sk"]): item["reason"] for item in index.quarantined()}
    assert {listed[key] for key in keys.values()} == {reason}
    broken, whole = keys.values()
    assert retry(s3, archive, index, broken) == Retried(broken, None, reason)
    placed = retry(s3, archive, index, whole).now
    assert placed is not None
    assert placed.startswith(f"instances/1.2.75/1.2.75.1/{uid}/")
    left = {str(item["sk"]) for item in index.quarantined()}
    assert broken in left
    assert whole not in left


def test_what_was_acknowledged_though_it_breaks_off_stays_in_the_index(store: Store) -> None:
    # As versions did that looked at the head alone.
    [attributes] = study(76, series=1, instances=1)
    file = store.archive.read(store.put(**attributes)) + b"\xe0\x7f"
    key = str(InstanceKey("1.2.76", "1.2.76.0", "1.2.76.0.0", hashlib.sha256(file).hexdigest()))
    store.put_bytes(key, file)
    index = store.index()
    index_objects(store.archive, index, [key])
    rebuild(store.archive, index)
    [item] = index.instances("1.2.76")
    assert item["object_key"] == key
    assert key not in {str(item["sk"]) for item in index.quarantined()}


def test_what_is_gone_does_not_keep_the_others_from_being_tried(cloud: OfflineCloud) -> None:
    store = Store.in_cloud(cloud)
    [attributes] = study(73, series=1, instances=1)
    there = store.put(**attributes)
    # In order of key before the other one.
    gone = str(InstanceKey("1.2.40", "1.2.40.1", "1.2.40.1.1", "0" * 64))
    for key in (gone, there):
        store.index().quarantine(key, "not known", "2026-01-01T00:00:00.000000Z", "CT1")
    still = store.put(SOPInstanceUID="1.2.74.1", PatientID="P")
    index_objects(store.archive, store.index(), [still])
    environment = {
        **store.cloud.environment,
        "LENTICULAR_BUCKET": store.bucket,
        "LENTICULAR_TABLE": store.table,
    }
    tried = CliRunner().invoke(main, ["quarantine", "retry", "--all"], env=environment)
    assert tried.exit_code == ExitCode.FINDINGS, tried.output
    assert "the object is gone" in tried.output
    assert [str(item["sk"]) for item in store.index().quarantined()] == [still]
    assert len(list(store.index().instances("1.2.73"))) == 1
