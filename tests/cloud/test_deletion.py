"""Deleting a study and bringing it back: nothing is lost, and a rebuild agrees at every step."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from lenticular.archive import OF_STUDIES, FormKey, InstanceKey, key_prefix
from lenticular.audit_outlets import Outlet
from lenticular.cli import main
from lenticular.cli.exit_codes import ExitCode
from lenticular.deletion import DELETED_TAG, BrokenOff, Deletions, State
from lenticular.errors import OperatorError, StoreUnavailable
from lenticular.forms import RETIRED_TAG, FormStore
from lenticular.indexing import index_objects, rebuild
from lenticular.transcoding_queue import object_key
from tests.audit_schema import read
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import Store, instance, stored
from tests.peers.pki import Authority
from tests.peers.repository import repository

NOW = datetime.now(UTC)
KEPT = timedelta(days=30)


@pytest.fixture(scope="module")
def store(cloud: OfflineCloud) -> Store:
    """One bucket and table for all tests, each of which has a study of its own."""
    return Store.in_cloud(cloud)


def deletions(store: Store, client: Any = None, trail: Sequence[Outlet] = ()) -> Deletions:
    return Deletions(client or store.cloud.clients.s3, store.archive, store.index(), trail)


def environment(store: Store, trail: Path | None = None) -> dict[str, str]:
    """Return the settings of a command, whose audit trail is this file."""
    return {
        **store.cloud.environment,
        "LENTICULAR_BUCKET": store.bucket,
        "LENTICULAR_TABLE": store.table,
        **({} if trail is None else {"LENTICULAR_AUDIT_FILE": str(trail)}),
    }


def items(store: Store, uid: str) -> dict[str, Any]:
    return {str(item["sk"]): item for item in store.index().partition(uid)}


def delete(store: Store, uid: str, client: Any = None) -> Any:
    plan = deletions(store).plan(uid, timedelta(0), NOW)
    return deletions(store, client).delete(plan, by="somebody", reason="a test", kept=KEPT, now=NOW)


def ends_by(store: Store, key: str, version: str | None = None) -> tuple[str, str]:
    """Return the one tag of a version, by default of the only one there is."""
    s3 = store.cloud.clients.s3
    if version is None:
        [only] = s3.list_object_versions(Bucket=store.bucket, Prefix=key)["Versions"]
        version = only["VersionId"]
    [tag] = s3.get_object_tagging(Bucket=store.bucket, Key=key, VersionId=version)["TagSet"]
    return tag["Key"], tag["Value"]


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
    assert deletions(store).restore(deletions(store).newest("1.2.62"), by="somebody") == 3
    assert [store.archive.read(key) for key in keys] == bytes_before
    assert items(store, "1.2.62") == before
    # Nothing is left that the lifecycle would end.
    assert [tags(store, key) for key in keys] == [[], [], []]
    with pytest.raises(OperatorError):
        deletions(store).newest("1.2.62")


def test_what_is_deleted_carries_the_tag_by_which_it_ends(store: Store) -> None:
    [key] = stored(store, "1.2.63", 1)
    delete(store, "1.2.63")
    assert ends_by(store, key) == DELETED_TAG


def versions(store: Store, uid: str) -> list[tuple[str, str]]:
    """Return key and version of all that the bucket has of a study, seen or not."""
    s3 = store.cloud.clients.s3
    return [
        (each["Key"], each["VersionId"])
        for prefix in OF_STUDIES
        for each in s3.list_object_versions(
            Bucket=store.bucket, Prefix=key_prefix(prefix, uid)
        ).get("Versions", [])
    ]


def test_every_version_of_what_is_deleted_ends(store: Store) -> None:
    uid = "1.2.83"
    sent_again, retired, formed_late = stored(store, uid, 3)
    file = store.archive.read(sent_again)
    late_file = store.archive.read(formed_late)
    for key in (sent_again, retired):
        store.put_bytes(key, store.archive.read(key))
    form = put_form(store, retired, store.archive.read(retired))
    put_form(store, retired, store.archive.read(retired))
    FormStore(store.cloud.clients.s3, store.bucket).retire(retired)
    plan = deletions(store).plan(uid, timedelta(0), NOW)
    for _ in range(2):
        put_form(store, formed_late, late_file)
    record = deletions(store).delete(plan, by="somebody", reason="a test", kept=KEPT, now=NOW)
    assert len(versions(store, uid)) == 9
    assert {ends_by(store, *each) for each in versions(store, uid)} == {DELETED_TAG}
    [(read_back, _)] = deletions(store).all(uid)
    assert read_back == replace(record, patient_id="")
    # The newest of each is what comes back, and what is behind it ends nevertheless.
    assert deletions(store).restore(record, by="somebody") == 3
    assert store.archive.read(sent_again) == file
    assert tags(store, sent_again) == tags(store, form) == []
    assert not store.archive.holds(retired)


def test_a_deletion_that_was_begun_before_records_named_older_versions_is_finished(
    store: Store,
) -> None:
    uid = "1.2.84"
    [key] = stored(store, uid, 1)
    store.put_bytes(key, store.archive.read(key))
    record = broken_off(store, uid)
    document = json.loads(store.archive.read(str(record.key)))
    del document["older"]
    store.put_bytes(str(record.key), json.dumps(document).encode())
    deletions(store).finish(deletions(store).newest(uid))
    assert len(versions(store, uid)) == 2
    assert {ends_by(store, *each) for each in versions(store, uid)} == {DELETED_TAG}


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
        deletions(store, BreaksOff(store, min(requests, 2))).restore(record, by="somebody")
    assert deletions(store).restore(deletions(store).newest(uid), by="somebody") == 3
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
    assert deletions(store).restore(deletions(store).newest("1.2.65"), by="somebody") == 2
    assert len(list(store.index().instances("1.2.65"))) == 3


def broken_off(store: Store, uid: str) -> Any:
    """Begin to delete a study of one instance, and lose the way to S3 when it is marked."""
    with pytest.raises(StoreUnavailable):
        delete(store, uid, BreaksOff(store, 4))
    assert not list(store.archive.keys(f"instances/{uid}/"))
    return deletions(store).newest(uid)


def test_what_nobody_carries_on_for_an_hour_is_counted(cloud: OfflineCloud) -> None:
    store = Store.in_cloud(cloud)
    now = 0.0
    count = BrokenOff(store.archive, clock=lambda: now)
    stored(store, "1.2.84", 1)
    record = broken_off(store, "1.2.84")
    stored(store, "1.2.85", 1)
    delete(store, "1.2.85")
    # It may be under way.
    assert count() == 0
    now += 3599
    assert count() == 0
    now += 1
    assert count() == 1
    with pytest.raises(StoreUnavailable):
        deletions(store, BreaksOff(store, 2)).restore(record, by="somebody")
    # Of that the same is to be said.
    now += 3600
    assert count() == 0
    now += 3600
    assert count() == 1
    deletions(store).restore(record, by="somebody")
    assert count() == 1
    now += 3600
    assert count() == 0


def put_form(store: Store, original: str, file: bytes) -> str:
    """Store a form of an original, as far as a deletion and a rebuild look into one."""
    key = InstanceKey.parse(original)
    assert key is not None
    form = str(FormKey(key, "1.2.840.10008.1.2.4.70"))
    store.put_bytes(form, file)
    return form


def test_what_several_markers_hide_comes_back(store: Store) -> None:
    keys = stored(store, "1.2.67")
    delete(store, "1.2.67")
    s3 = store.cloud.clients.s3
    for key in (*keys, *keys[:1]):
        # A request that was made again because its answer was lost puts another one.
        s3.delete_object(Bucket=store.bucket, Key=key)
    assert deletions(store).restore(deletions(store).newest("1.2.67"), by="somebody") == 3
    assert list(store.archive.keys("instances/1.2.67/")) == keys
    assert [tags(store, key) for key in keys] == [[], [], []]
    assert len(list(store.index().instances("1.2.67"))) == 3


class HidesAgain:
    """S3, where another hides an object once, just before its tag is taken away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._s3: Any = store.cloud.clients.s3
        self._done = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def delete_object_tagging(self, **request: Any) -> Any:
        if self._done:
            return self._s3.delete_object_tagging(**request)
        self._done = True
        self._s3.delete_object(**request)
        # As S3 answers where a marker is on top; moto knows no answer.
        refusal: Any = {"Error": {"Code": "MethodNotAllowed"}}
        raise ClientError(refusal, "DeleteObjectTagging")


def test_a_restoration_ends_when_all_can_be_seen_and_not_before(store: Store) -> None:
    [key] = stored(store, "1.2.68", 1)
    record = delete(store, "1.2.68")
    with pytest.raises(StoreUnavailable):
        deletions(store, HidesAgain(store)).restore(record, by="somebody")
    assert deletions(store).newest("1.2.68") == record
    assert deletions(store).restore(record, by="somebody") == 1
    assert tags(store, key) == []


def test_what_is_sent_again_is_not_deleted_by_finishing(store: Store) -> None:
    [key] = stored(store, "1.2.69", 1)
    file = store.archive.read(key)
    record = broken_off(store, "1.2.69")
    store.put_bytes(key, file)
    index_objects(store.archive, store.index(), [key])
    deletions(store).finish(record)
    assert store.archive.read(key) == file
    assert tags(store, key) == []
    assert len(list(store.index().instances("1.2.69"))) == 1


def test_a_form_of_what_is_sent_again_outlives_the_deletion(store: Store) -> None:
    [key] = stored(store, "1.2.70", 1)
    file = store.archive.read(key)
    record = broken_off(store, "1.2.70")
    store.put_bytes(key, file)
    form = put_form(store, key, file)
    # Now the form alone has the instance.
    FormStore(store.cloud.clients.s3, store.bucket).retire(key)
    deletions(store).finish(record)
    assert store.archive.holds(form)
    assert tags(store, form) == []
    assert len(list(store.index().instances("1.2.70"))) == 1


def test_what_is_being_restored_is_deleted_no_further(store: Store) -> None:
    [key] = stored(store, "1.2.73", 1)
    record = broken_off(store, "1.2.73")
    with pytest.raises(StoreUnavailable):
        deletions(store, BreaksOff(store, 2)).restore(record, by="somebody")
    assert [state for each, state in deletions(store).all() if each == record] == [State.RESTORING]
    with pytest.raises(OperatorError, match="being restored"):
        deletions(store).finish(record)
    finished = CliRunner().invoke(main, ["deletions", "--finish"], env=environment(store))
    assert finished.exit_code == 0, finished.output
    assert deletions(store).restore(deletions(store).newest("1.2.73"), by="somebody") == 1
    assert store.archive.holds(key)


class RestoresMeanwhile:
    """S3, where another restores a study before its first object is tagged."""

    def __init__(self, store: Store, uid: str) -> None:
        self._store, self._uid = store, uid
        self._s3: Any = store.cloud.clients.s3

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def put_object_tagging(self, **request: Any) -> Any:
        others = deletions(self._store)
        others.restore(others.newest(self._uid), by="somebody else")
        return self._s3.put_object_tagging(**request)


def test_what_is_restored_while_it_is_deleted_is_there(store: Store) -> None:
    [key] = stored(store, "1.2.78", 1)
    with pytest.raises(OperatorError, match="being restored"):
        delete(store, "1.2.78", RestoresMeanwhile(store, "1.2.78"))
    assert tags(store, key) == []
    assert len(list(store.index().instances("1.2.78"))) == 1


def test_a_form_made_after_the_plan_goes_and_comes_back_with_its_original(store: Store) -> None:
    [key] = stored(store, "1.2.74", 1)
    file = store.archive.read(key)
    plan = deletions(store).plan("1.2.74", timedelta(0), NOW)
    form = put_form(store, key, file)
    deletions(store).delete(plan, by="somebody", reason="a test", kept=KEPT, now=NOW)
    assert not store.archive.holds(form)
    rebuild(store.archive, store.index())
    assert items(store, "1.2.74") == {}
    assert ends_by(store, form) == DELETED_TAG
    assert deletions(store).restore(deletions(store).newest("1.2.74"), by="somebody") == 1
    assert store.archive.holds(form)
    assert tags(store, form) == []


def test_the_original_of_a_deleted_form_ends_with_it_though_it_had_gone_before(
    store: Store,
) -> None:
    [key] = stored(store, "1.2.75", 1)
    form = put_form(store, key, store.archive.read(key))
    FormStore(store.cloud.clients.s3, store.bucket).retire(key)
    record = delete(store, "1.2.75")
    assert ends_by(store, key) == ends_by(store, form) == DELETED_TAG
    assert deletions(store).restore(record, by="somebody") == 1
    # It is as it was: the form can be seen, and its original ends by what it was retired for.
    assert store.archive.holds(form)
    assert not store.archive.holds(key)
    assert ends_by(store, key) == RETIRED_TAG
    assert tags(store, form) == []


def test_a_study_that_is_being_deleted_is_not_deleted_by_another(store: Store) -> None:
    stored(store, "1.2.79", 1)
    record = broken_off(store, "1.2.79")
    again = store.put(**instance("1.2.79", 2))
    with pytest.raises(OperatorError, match="deletions --finish"):
        deletions(store).plan("1.2.79", timedelta(0), NOW)
    deletions(store).finish(record)
    assert deletions(store).plan("1.2.79", timedelta(0), NOW).keys == (again,)


def test_of_two_deletions_that_are_begun_at_once_one_withdraws(store: Store) -> None:
    uid = "1.2.85"
    [key] = stored(store, uid, 1)
    plan = deletions(store).plan(uid, timedelta(0), NOW)
    with pytest.raises(StoreUnavailable):
        delete(store, uid, BreaksOff(store, 1))
    with pytest.raises(OperatorError, match="being deleted"):
        deletions(store).delete(
            plan, by="another", reason="a test", kept=KEPT, now=NOW + timedelta(seconds=1)
        )
    assert store.archive.holds(key)
    [(record, state)] = deletions(store).all(uid)
    assert (record.by, state) == ("somebody", State.BEGUN)
    deletions(store).finish(record)
    assert not store.archive.holds(key)


def test_a_record_knows_the_patient_until_the_audit_trail_does(store: Store) -> None:
    uid = "1.2.80"
    stored(store, uid, 1)
    begun = broken_off(store, uid)
    assert begun.patient_id == "P1"
    deletions(store).finish(begun)
    [(record, _)] = deletions(store).all(uid)
    assert record == replace(begun, patient_id="")
    # The version that has it ends when what the study had does.
    s3 = store.cloud.clients.s3
    found = s3.list_object_versions(Bucket=store.bucket, Prefix=str(record.key))["Versions"]
    [version] = [each for each in found if not each["IsLatest"]]
    assert ends_by(store, version["Key"], version["VersionId"]) == DELETED_TAG


def test_forms_that_could_not_be_made_are_asked_for_when_a_study_comes_back(store: Store) -> None:
    sqs: Any = store.cloud.clients.sqs
    queue = sqs.create_queue(QueueName=f"forms-{store.bucket}")["QueueUrl"]
    for uid, names_queue in (("1.2.81", True), ("1.2.82", False)):
        with_form, without = stored(store, uid, 2)
        put_form(store, with_form, store.archive.read(with_form))
        delete(store, uid)
        asking = {"LENTICULAR_TRANSCODE_QUEUE": queue} if names_queue else {}
        restored = CliRunner().invoke(main, ["restore", uid], env=environment(store) | asking)
        assert restored.exit_code == 0, restored.output
        found = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        assert [object_key(each["Body"]) for each in found] == [without] * names_queue
        # Who names no queue may want no forms.
        assert "no form" not in restored.output


def test_retention_counts_from_what_came_last_shown_or_not(store: Store) -> None:
    first = store.put(**instance("1.2.76", 1))
    other = store.put(**instance("1.2.76", 1, AccessionNumber="B"))
    index_objects(store.archive, store.index(newest_shown=False), [first, other])
    came = store.archive.head(other, 1).received
    assert deletions(store).plan("1.2.76", KEPT, NOW).last_received == came
    # A copy that waits in the queue, or that the table refuses, is in no item.
    store.put(**instance("1.2.76", 2))
    plan = deletions(store).plan("1.2.76", KEPT, NOW)
    assert plan.last_received >= (NOW - timedelta(hours=1)).isoformat()
    assert plan.held_until is not None


def test_what_could_not_be_placed_is_listed_while_it_is_there(store: Store) -> None:
    uid = "1.2.77"
    stored(store, uid, 1)
    key = str(InstanceKey(uid, f"{uid}.1", f"{uid}.1.9", "0" * 64))
    store.put_bytes(key, b"no DICOM")
    index_objects(store.archive, store.index(), [key])

    def listed() -> list[str]:
        return [str(item["sk"]) for item in store.index().quarantined(f"instances/{uid}/")]

    assert listed() == [key]
    record = delete(store, uid)
    assert listed() == []
    deletions(store).restore(record, by="somebody")
    assert listed() == [key]


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
    settings = environment(store, trail)
    command = ["delete", uid, "--reason", "a test"]
    looked = CliRunner().invoke(main, command, env=settings)
    assert looked.exit_code == 0, looked.output
    assert not trail.exists()
    deleted = CliRunner().invoke(main, [*command, "--yes", "--despite-retention"], env=settings)
    assert deleted.exit_code == 0, deleted.output
    [line] = map(json.loads, trail.read_text("ascii").splitlines())
    assert (line["study"], line["instances"], line["reason"]) == (uid, 3, "a test")
    message = read(line["xml"])
    assert (message.event, message.action) == ("110105 DICOM Study Deleted", "D")
    assert message.requestor.user == line["requestor"]
    assert "@" in message.requestor.user
    assert message.requestor.alternative is None
    assert message.objects["2 Patient Number"] == line["patient"] != ""
    brought = CliRunner().invoke(main, ["restore", uid], env=settings)
    assert brought.exit_code == 0, brought.output
    _, back = map(json.loads, trail.read_text("ascii").splitlines())
    assert (back["study"], back["restored"]) == (uid, 3)
    message = read(back["xml"])
    assert (message.event, message.action) == ("110103 DICOM Instances Accessed", "C")
    assert message.requestor.user == line["requestor"]
    assert message.objects["2 Patient Number"] == line["patient"]


def test_what_no_audit_trail_is_told_of_is_said_unless_that_is_known(store: Store) -> None:
    uid = "1.2.826.0.1.55.13"
    stored(store, uid, 1)
    settings = environment(store)
    command = ["delete", uid, "--reason", "a test", "--despite-retention"]
    for arguments, is_said in (
        (command, False),  # which deletes nothing
        ([*command, "--yes"], True),
        (["restore", uid], True),
        ([*command, "--yes", "--no-audit"], False),
        (["restore", uid, "--no-audit"], False),
        (["deletions", "--finish"], False),  # and there is nothing to finish
    ):
        done = CliRunner().invoke(main, arguments, env=settings)
        assert done.exit_code == 0, done.output
        assert ("no audit trail is told" in done.stderr) == is_said, arguments


def test_a_repository_of_the_clinics_hears_of_deletions_and_of_what_came_back(
    store: Store, tmp_path: Path
) -> None:
    uid = "1.2.826.0.1.55.12"
    stored(store, uid, 1)
    authority = Authority.create(tmp_path)
    trail = tmp_path / "audit.jsonl"
    command = ["delete", uid, "--reason", "a test", "--yes", "--despite-retention"]
    with repository(authority) as records:
        settings = {
            **environment(store, trail),
            "LENTICULAR_AUDIT_SYSLOG": f"127.0.0.1:{records.port}",
            "LENTICULAR_AUDIT_SYSLOG_CA": str(authority.certificate),
        }
        for arguments in (command, ["restore", uid]):
            done = CliRunner().invoke(main, arguments, env=settings)
            assert done.exit_code == 0, done.output
        eventually(lambda: len(records.messages) == 2)
    written = [json.loads(line)["xml"] for line in trail.read_text("ascii").splitlines()]
    assert [text.partition("\ufeff")[2] for text in records.messages] == written
    # Nobody is there any more: the command says so. The file is the record, and has it.
    for number, arguments in ((3, command), (4, ["restore", uid])):
        uncopied = CliRunner().invoke(main, arguments, env=settings)
        assert uncopied.exit_code == 0, uncopied.output
        assert "no copy went out: syslog: ConnectionRefusedError" in uncopied.stderr
        assert len(trail.read_text("ascii").splitlines()) == number
    assert {state for _, state in deletions(store).all(uid)} == {State.RESTORED}
    # Where there is no other, it waits to be told later.
    del settings["LENTICULAR_AUDIT_FILE"]
    untold = CliRunner().invoke(main, command, env=settings)
    assert untold.exit_code == ExitCode.FINDINGS, untold.output
    assert deletions(store).newest(uid).patient_id != ""
    assert State.BEGUN in {state for _, state in deletions(store).all(uid)}
    finished = CliRunner().invoke(main, ["deletions", "--finish"], env=environment(store, trail))
    assert finished.exit_code == 0, finished.output


def test_a_deletion_that_the_audit_trail_did_not_take_is_told_later(
    store: Store, tmp_path: Path
) -> None:
    uids = ["1.2.826.0.1.55.10", "1.2.826.0.1.55.11"]
    for uid in uids:
        stored(store, uid, 1)
    full = environment(store, Path("/dev/full"))
    command = ["delete", *uids, "--reason", "a test", "--yes", "--despite-retention"]
    deleted = CliRunner().invoke(main, command, env=full)
    assert deleted.exit_code == ExitCode.FINDINGS, deleted.output
    for uid in uids:
        # Neither the study nor the one behind it waits for the trail.
        assert items(store, uid) == {}
        assert [
            state for record, state in deletions(store).all() if record.study_instance_uid == uid
        ] == [State.BEGUN]
    trail = tmp_path / "audit.jsonl"
    finished = CliRunner().invoke(main, ["deletions", "--finish"], env=environment(store, trail))
    assert finished.exit_code == 0, finished.output
    lines = map(json.loads, trail.read_text("ascii").splitlines())
    told = {line["study"]: line for line in lines}
    for uid in uids:
        assert told[uid]["patient"] != ""
        assert (told[uid]["instances"], told[uid]["reason"]) == (1, "a test")
