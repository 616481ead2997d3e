"""Deleting a study and bringing it back: nothing is lost, and a rebuild agrees at every step."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lenticular.cli import main
from lenticular.deletion import DELETED_TAG, Deletions, State
from lenticular.errors import OperatorError, StoreUnavailable
from lenticular.indexing import index_objects, rebuild
from tests.audit_schema import read
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import Store, study

NOW = datetime.now(UTC)
KEPT = timedelta(days=30)


@pytest.fixture(scope="module")
def store(cloud: OfflineCloud) -> Store:
    """One bucket and table for all tests, each of which has a study of its own."""
    return Store.in_cloud(cloud)


def deletions(store: Store, client: Any = None) -> Deletions:
    return Deletions(client or store.cloud.clients.s3, store.archive, store.index())


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
    keys = [store.put(**instance(uid, number)) for number in range(1, count + 1)]
    assert index_objects(store.archive, store.index(), keys) == []
    return keys


def items(store: Store, uid: str) -> dict[str, Any]:
    return {str(item["sk"]): item for item in store.index().partition(uid)}


def delete(store: Store, uid: str, client: Any = None) -> Any:
    deleting = deletions(store, client)
    plan = deleting.plan(uid, timedelta(0), NOW)
    return deleting.delete(plan, by="somebody", reason="a test", kept=KEPT, now=NOW)


def tags(store: Store, key: str) -> list[Any]:
    return store.cloud.clients.s3.get_object_tagging(Bucket=store.bucket, Key=key)["TagSet"]


class BreaksOff:
    """S3, until so many requests have been made of it that the way there is gone."""

    def __init__(self, store: Store, requests: int) -> None:
        self._s3: Any = store.cloud.clients.s3
        self._left = requests

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._s3, name)

        def limited(*arguments: Any, **request: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise StoreUnavailable("the way to S3 is gone")
            return operation(*arguments, **request)

        return limited


def test_a_study_is_held_for_its_retention(store: Store) -> None:
    stored(store, "1.2.61")
    received = datetime.fromisoformat(deletions(store).plan("1.2.61", KEPT, NOW).last_received)
    held = deletions(store).plan("1.2.61", KEPT, received + timedelta(days=29))
    assert held.held_until == received + KEPT
    free = deletions(store).plan("1.2.61", KEPT, received + timedelta(days=31))
    assert free.held_until is None
    assert (free.instances, len(free.keys)) == (3, 3)
    with pytest.raises(OperatorError):
        deletions(store).plan("1.2.404", KEPT, NOW)


def test_a_deleted_study_is_gone_and_comes_back_as_it_was(store: Store) -> None:
    keys = stored(store, "1.2.62")
    before, bytes_before = items(store, "1.2.62"), [store.archive.read(key) for key in keys]
    record = delete(store, "1.2.62")
    assert not list(store.archive.keys("instances/1.2.62/"))
    assert items(store, "1.2.62") == {}
    rebuild(store.archive, store.index())
    assert items(store, "1.2.62") == {}
    [(listed, state)] = [each for each in deletions(store).all() if each[0] == record]
    assert (listed.by, listed.reason, state) == ("somebody", "a test", State.DELETED)
    assert deletions(store).restore(deletions(store).newest("1.2.62")) == 3
    assert [store.archive.read(key) for key in keys] == bytes_before
    assert items(store, "1.2.62") == before
    # Nothing is left that the lifecycle would end.
    assert [tags(store, key) for key in keys] == [[], [], []]
    with pytest.raises(OperatorError):
        deletions(store).newest("1.2.62")


def test_what_is_deleted_carries_the_tag_by_which_it_ends(store: Store) -> None:
    [key] = stored(store, "1.2.63", 1)
    delete(store, "1.2.63")
    s3 = store.cloud.clients.s3
    [version] = s3.list_object_versions(Bucket=store.bucket, Prefix=key)["Versions"]
    found = s3.get_object_tagging(Bucket=store.bucket, Key=key, VersionId=version["VersionId"])
    name, value = DELETED_TAG
    assert found["TagSet"] == [{"Key": name, "Value": value}]


@pytest.mark.parametrize("requests", [1, 2, 3, 4, 6])
def test_a_deletion_that_breaks_off_is_finished_or_undone(store: Store, requests: int) -> None:
    uid = f"1.2.64.{requests}"
    stored(store, uid)
    before = items(store, uid)
    with pytest.raises(StoreUnavailable):
        delete(store, uid, BreaksOff(store, requests))
    [(record, state)] = [
        each for each in deletions(store).all() if each[0].study_instance_uid == uid
    ]
    assert state is State.BEGUN
    if requests % 2:
        deletions(store).finish(record)
        assert items(store, uid) == {}
        assert not list(store.archive.keys(f"instances/{uid}/"))
    with pytest.raises(StoreUnavailable):
        deletions(store, BreaksOff(store, min(requests, 2))).restore(record)
    assert deletions(store).restore(deletions(store).newest(uid)) == 3
    assert items(store, uid) == before


def test_what_came_meanwhile_is_neither_deleted_nor_touched_by_restoring(store: Store) -> None:
    stored(store, "1.2.65", 2)
    plan = deletions(store).plan("1.2.65", timedelta(0), NOW)
    new = store.put(**instance("1.2.65", 9))
    index_objects(store.archive, store.index(), [new])
    deletions(store).delete(plan, by="somebody", reason="a test", kept=KEPT, now=NOW)
    assert [str(each["uid"]) for each in store.index().instances("1.2.65")] == ["1.2.65.1.9"]
    study_item = store.index().study("1.2.65")
    assert study_item is not None
    assert study_item["instances"] == 1
    assert deletions(store).restore(deletions(store).newest("1.2.65")) == 2
    assert len(list(store.index().instances("1.2.65"))) == 3


def test_nothing_is_deleted_from_a_bucket_without_versions(cloud: OfflineCloud) -> None:
    store = Store.in_cloud(cloud)
    keys = stored(store, "1.2.66", 1)
    store.cloud.clients.s3.put_bucket_versioning(
        Bucket=store.bucket, VersioningConfiguration={"Status": "Suspended"}
    )
    with pytest.raises(OperatorError, match="keeps no versions"):
        delete(store, "1.2.66")
    assert list(store.archive.keys("instances/1.2.66/")) == keys


def test_what_an_operator_deletes_is_in_the_audit_trail(store: Store, tmp_path: Path) -> None:
    uid = "1.2.826.0.1.55.9"
    stored(store, uid)
    trail = tmp_path / "audit.jsonl"
    environment = {
        **store.cloud.environment,
        "LENTICULAR_BUCKET": store.bucket,
        "LENTICULAR_TABLE": store.table,
        "LENTICULAR_AUDIT_FILE": str(trail),
    }
    command = ["delete", uid, "--reason", "a test"]
    looked = CliRunner().invoke(main, command, env=environment)
    assert looked.exit_code == 0, looked.output
    assert not trail.exists()
    deleted = CliRunner().invoke(main, [*command, "--yes", "--despite-retention"], env=environment)
    assert deleted.exit_code == 0, deleted.output
    [line] = map(json.loads, trail.read_text("ascii").splitlines())
    assert (line["study"], line["instances"], line["reason"]) == (uid, 3, "a test")
    message = read(line["xml"])
    assert (message.event, message.action) == ("110105 DICOM Study Deleted", "D")
    assert message.requestor.user == line["requestor"]
    assert "@" in message.requestor.user
    assert message.requestor.alternative is None
    assert message.objects["2 Patient Number"] == line["patient"] != ""
