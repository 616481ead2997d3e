"""`verify`: what is wrong is found, what can be repaired safely is, the rest is reported."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lenticular.archive import FORM_SHA256, DeletionKey, FormKey, InstanceKey
from lenticular.forms import FormStore
from lenticular.index_items import forms_of
from lenticular.indexing import index_objects, rebuild_study
from lenticular.transcoding import Transcoder
from lenticular.transcoding_policy import TranscodingPolicy
from lenticular.verifying import IN_QUARANTINE, Finding, Kind, Verifier
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import Store, instance, stored

_DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.fixture(scope="module")
def store(cloud: OfflineCloud) -> Store:
    """One bucket and table for all tests, each of which has a study of its own."""
    return Store.in_cloud(cloud)


def verified(store: Store, uid: str, **options: Any) -> list[Finding]:
    """Verify everything, and return what was found of one study."""
    options = {"grace": timedelta(0), "parallel": 4, **options}
    reports = list(Verifier(store.archive, store.index(), **options).run())
    assert len({report.study_instance_uid for report in reports}) == len(reports)
    return [
        finding
        for report in reports
        if report.study_instance_uid == uid
        for finding in report.findings
    ]


def transcoded(store: Store, key: str) -> str:
    """Make the deflated form of a content and retire the original; return the form's key."""
    transcoder = Transcoder(
        store.archive,
        FormStore(store.cloud.clients.s3, store.bucket),
        store.index(),
        TranscodingPolicy.parse("deflate"),
        retire_originals=True,
    )
    outcome = transcoder.transcode(key)
    assert outcome is not None
    original = InstanceKey.parse(key)
    assert original is not None
    return str(FormKey(original, _DEFLATED))


def items(store: Store, uid: str) -> Mapping[str, Any]:
    return {str(item["sk"]): item for item in store.index().partition(uid)}


def test_what_is_as_it_should_be_has_no_findings(store: Store) -> None:
    stored(store, "1.2.51")
    assert verified(store, "1.2.51") == []


def test_an_object_that_is_not_indexed_is_indexed(store: Store) -> None:
    keys = stored(store, "1.2.52")
    before = items(store, "1.2.52")
    assert store.index().remove(before["INSTANCE#1.2.52.1#1.2.52.1.2"])
    assert verified(store, "1.2.52", repairs=False)[0] == Finding(Kind.NOT_INDEXED, keys[1])
    assert verified(store, "1.2.52") == [Finding(Kind.NOT_INDEXED, keys[1], repaired=True)]
    assert verified(store, "1.2.52") == []
    assert items(store, "1.2.52") == before


def test_an_object_that_has_just_come_is_not_missed(store: Store) -> None:
    key = store.put(**instance("1.2.53", 1))
    [report] = [
        each
        for each in Verifier(store.archive, store.index(), repairs=False).run()
        if each.study_instance_uid == "1.2.53"
    ]
    assert (report.findings, report.recent) == ([], 1)
    index_objects(store.archive, store.index(), [key])


def test_an_object_that_is_gone_is_reported_and_stays_in_the_index(store: Store) -> None:
    keys = stored(store, "1.2.54")
    before = items(store, "1.2.54")
    store.cloud.clients.s3.delete_object(Bucket=store.bucket, Key=keys[0])
    assert verified(store, "1.2.54") == [Finding(Kind.MISSING, keys[0])]
    for key in keys[1:]:
        store.cloud.clients.s3.delete_object(Bucket=store.bucket, Key=key)
    # Now the bucket does not even know the study.
    found = verified(store, "1.2.54")
    assert sorted(found, key=str) == sorted((Finding(Kind.MISSING, key) for key in keys), key=str)
    assert items(store, "1.2.54") == before


def test_other_bytes_under_a_key_are_reported(store: Store) -> None:
    keys = stored(store, "1.2.55")
    whole = store.archive.read(keys[0])
    store.put_bytes(keys[0], whole[:-1] + bytes([whole[-1] ^ 1]))
    found = verified(store, "1.2.55")
    assert set(found) == {Finding(Kind.CHANGED, keys[0]), Finding(Kind.DAMAGED, keys[0])}
    # Without reading, by what S3 lists alone.
    assert verified(store, "1.2.55", reads=False) == [Finding(Kind.CHANGED, keys[0])]


def test_a_sample_reads_some_studies_and_holds_all_others_against_the_index(store: Store) -> None:
    key = {}
    for number in range(12):
        uid = f"1.2.550.{number}"
        key[uid] = stored(store, uid)[0]
        whole = store.archive.read(key[uid])
        store.put_bytes(key[uid], whole[:-1] + bytes([whole[-1] ^ 1]))
    sampled = Verifier(store.archive, store.index(), sample=0.5, seed="2026-11", grace=timedelta(0))
    reads = {uid for uid in key if sampled.reads_of(uid)}
    assert 0 < len(reads) < len(key)
    found = [finding for report in sampled.run() for finding in report.findings]
    kinds = {uid: {each.kind for each in found if each.object_key == key[uid]} for uid in key}
    assert kinds == {
        uid: {Kind.CHANGED, Kind.DAMAGED} if uid in reads else {Kind.CHANGED} for uid in key
    }


def test_a_sample_is_the_share_that_was_asked_for_and_another_one_for_another_seed(
    store: Store,
) -> None:
    uids = [f"1.2.840.{number}" for number in range(5000)]

    def sample(share: float, seed: str) -> set[str]:
        verifier = Verifier(store.archive, store.index(), sample=share, seed=seed)
        return set(filter(verifier.reads_of, uids))

    march, april = sample(0.05, "march"), sample(0.05, "april")
    assert march == sample(0.05, "march")
    assert 200 < len(march) < 300
    # Of two samples that know nothing of each other a twentieth is in both.
    assert len(march & april) < 40
    assert march < sample(0.1, "march")
    assert (sample(1.0, "march"), len(uids)) == (set(uids), 5000)


def test_wrong_counts_are_reported(store: Store) -> None:
    stored(store, "1.2.56")
    series = items(store, "1.2.56")["SERIES#1.2.56.1"]
    assert store.index().replace({**series, "instances": 7}, series)
    [finding] = verified(store, "1.2.56")
    assert finding.kind is Kind.MISCOUNTED


def test_forms_are_held_against_the_index_and_their_checksums(store: Store) -> None:
    # Long enough for a deflated form to be worth its while.
    key = store.put(**instance("1.2.57", 1, StudyDescription="Thorax " * 300))
    assert index_objects(store.archive, store.index(), [key]) == []
    index, s3 = store.index(), store.cloud.clients.s3
    form = transcoded(store, key)
    assert verified(store, "1.2.57") == []
    # The item of the retired instance is lost: its form brings it back.
    before = items(store, "1.2.57")
    for item in before.values():
        assert index.remove(item)
    assert verified(store, "1.2.57") == [Finding(Kind.FORM_NOT_INDEXED, form, repaired=True)]
    assert items(store, "1.2.57") == before
    assert verified(store, "1.2.57") == []
    s3.delete_object(Bucket=store.bucket, Key=form)
    assert {each.kind for each in verified(store, "1.2.57")} == {Kind.MISSING, Kind.FORM_MISSING}


def test_a_form_that_does_not_restore_to_its_retired_original_is_reported(store: Store) -> None:
    key = store.put(**instance("1.2.61", 1, StudyDescription="Thorax " * 300))
    assert index_objects(store.archive, store.index(), [key]) == []
    form = transcoded(store, key)
    assert verified(store, "1.2.61") == []
    # Intact by its checksum, but by a program that we do not know.
    s3 = store.cloud.clients.s3
    found = s3.get_object(Bucket=store.bucket, Key=form)
    other = found["Body"].read().replace(b'"recipe":1', b'"recipe":9')
    metadata = {**found["Metadata"], FORM_SHA256: hashlib.sha256(other).hexdigest()}
    s3.put_object(Bucket=store.bucket, Key=form, Body=other, Metadata=metadata)
    [item] = [each for each in store.index().partition("1.2.61") if "object_key" in each]
    renewed = replace(forms_of(item)[0], sha256=metadata[FORM_SHA256])
    assert store.index().replace(item | {"forms": frozenset({str(renewed)})}, item)
    assert verified(store, "1.2.61", reads=False) == []
    assert verified(store, "1.2.61") == [Finding(Kind.NOT_RESTORED, form)]


def test_a_form_of_a_content_that_is_not_shown_is_indexed_once(store: Store) -> None:
    first, last = (
        store.put(**instance("1.2.62", 1, StudyDescription=f"{text} " * 300))
        for text in ("one", "two")
    )
    assert index_objects(store.archive, store.index(), [first, last]) == []
    form = transcoded(store, first)
    assert verified(store, "1.2.62") == []
    found = items(store, "1.2.62")
    item = found["INSTANCE#1.2.62.1#1.2.62.1.1"]
    assert item["object_key"] == last
    without = {name: value for name, value in item.items() if name != "forms"}
    assert store.index().replace(without, item)
    assert verified(store, "1.2.62") == [Finding(Kind.FORM_NOT_INDEXED, form, repaired=True)]
    assert verified(store, "1.2.62") == []
    assert items(store, "1.2.62") == found
    rebuild_study(store.archive, store.index(), "1.2.62")
    assert items(store, "1.2.62") == found


def test_an_object_that_cannot_be_indexed_is_reported_as_quarantined(store: Store) -> None:
    key = store.put(**instance("1.2.63", 1))
    misplaced = key.replace("1.2.63.1.1", "1.2.63.1.2")
    store.put_bytes(misplaced, store.archive.read(key))
    assert index_objects(store.archive, store.index(), [key]) == []
    assert verified(store, "1.2.63") == [Finding(Kind.QUARANTINED, misplaced)]
    assert verified(store, "1.2.63") == []
    store.index().release_from_quarantine(misplaced)


def test_what_goes_while_it_is_looked_at_is_no_finding(store: Store) -> None:
    key = store.put(**instance("1.2.64", 1, StudyDescription="Thorax " * 300))
    assert index_objects(store.archive, store.index(), [key]) == []
    form = transcoded(store, key)
    for item in items(store, "1.2.64").values():
        assert store.index().remove(item)
    unindexed = store.put(**instance("1.2.64", 2))
    s3 = store.cloud.clients.s3
    gone: list[str] = []

    def delete_what_is_listed(parsed: Mapping[str, Any], **_: object) -> None:
        for each in parsed.get("Contents", []):
            if each["Key"] in (form, unindexed):
                s3.delete_object(Bucket=store.bucket, Key=each["Key"])
                gone.append(each["Key"])

    s3.meta.events.register("after-call.s3.ListObjectsV2", delete_what_is_listed)
    try:
        assert verified(store, "1.2.64") == []
    finally:
        s3.meta.events.unregister("after-call.s3.ListObjectsV2", delete_what_is_listed)
    assert sorted(gone) == sorted([form, unindexed])


def test_what_is_just_being_deleted_is_no_finding(store: Store) -> None:
    s3, index = store.cloud.clients.s3, store.index()
    retired = store.put(**instance("1.2.65", 1, StudyDescription="Thorax " * 300))
    kept, removed = (store.put(**instance("1.2.65", number)) for number in (2, 3))
    misplaced = kept.replace("1.2.65.1.2", "1.2.65.1.4")
    store.put_bytes(misplaced, store.archive.read(kept))
    assert index_objects(store.archive, index, [retired, kept, removed]) == []
    form = transcoded(store, retired)
    assert verified(store, "1.2.65") == [Finding(Kind.QUARANTINED, misplaced)]
    deletion = DeletionKey("1.2.65", "20261122T120000.000000Z")
    store.archive.create_document(str(deletion), b"{}")
    for key in (form, kept, removed, misplaced):
        s3.delete_object(Bucket=store.bucket, Key=key)
    # Half of it is done in the index, too.
    assert index.remove(items(store, "1.2.65")["INSTANCE#1.2.65.1#1.2.65.1.3"])
    assert verified(store, "1.2.65") == verified(store, IN_QUARANTINE) == []
    store.archive.create_document(deletion.completed, b"{}")
    assert {finding.kind for finding in verified(store, "1.2.65")} == {
        Kind.MISSING,
        Kind.FORM_MISSING,
        Kind.MISCOUNTED,
    }
    assert verified(store, IN_QUARANTINE) == [Finding(Kind.MISSING, misplaced)]
    index.release_from_quarantine(misplaced)


def test_the_quarantine_is_held_against_its_list(store: Store) -> None:
    key = store.put(SOPInstanceUID="1.2.58.1", PatientID="P")
    assert key.startswith("quarantine/")
    assert verified(store, IN_QUARANTINE) == [Finding(Kind.NOT_LISTED, key, repaired=True)]
    assert verified(store, IN_QUARANTINE) == []
    store.cloud.clients.s3.delete_object(Bucket=store.bucket, Key=key)
    assert verified(store, IN_QUARANTINE) == [Finding(Kind.MISSING, key)]
    store.index().release_from_quarantine(key)


def test_a_study_that_is_done_is_not_looked_at_again(store: Store) -> None:
    stored(store, "1.2.59", 1)
    verifier = Verifier(store.archive, store.index(), parallel=2)
    everything = {report.study_instance_uid for report in verifier.run()}
    assert "1.2.59" in everything
    again = {report.study_instance_uid for report in verifier.run(everything - {"1.2.59"})}
    assert again == {"1.2.59"}


def test_several_contents_of_one_instance_are_no_finding(store: Store) -> None:
    contents = [instance("1.2.60", 1, StudyDescription=text) for text in ("one", "two")]
    keys = [store.put(**content) for content in contents]
    assert index_objects(store.archive, store.index(), keys) == []
    assert verified(store, "1.2.60") == []
    store.cloud.clients.s3.delete_object(Bucket=store.bucket, Key=keys[0])
    assert verified(store, "1.2.60") == [Finding(Kind.MISSING, keys[0])]
