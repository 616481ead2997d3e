"""Forms in a bucket and an index: what counts, what never does, and what a crash leaves behind."""

import hashlib
import io
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import pytest
from click.testing import CliRunner

from lenticular.archive import (
    CALLING_AE_TITLE,
    INSTANCES,
    RECEIVED,
    TRANSCODED,
    Archive,
    FormKey,
    InstanceKey,
)
from lenticular.byte_ranges import InMemory
from lenticular.cli import main
from lenticular.errors import InstanceMissing, StoreUnavailable
from lenticular.forms import RETIRED_TAG, FormStore
from lenticular.index import Index
from lenticular.index_items import Converted, Item, converted, forms_of
from lenticular.indexing import index_objects, rebuild
from lenticular.originals import write_original
from lenticular.splice import Reason, restored_sha256
from lenticular.transcoding import Outcome, Transcoder, originals_without_form
from lenticular.transcoding_policy import TranscodingPolicy
from lenticular.transcoding_queue import object_key
from lenticular.transfer_syntaxes import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from tests import images
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import Store
from tests.images import Image

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
CT = images.smooth("ct", 128, 128)
ONE_BIT = Image("bits", 1, 1, bytes(633), uid=f"{images.STUDY}.1.2")


@pytest.fixture
def store(cloud: OfflineCloud) -> Store:
    return Store.in_cloud(cloud)


def put(store: Store, image: Image, **options: Any) -> str:
    key, file = image.key(**options), image.file(**options)
    store.put_bytes(key, file)
    assert index_objects(store.archive, store.index(), [key]) == []
    return key


def transcoder(store: Store, policy: str = "jpeg-lossless", *, retire: bool = False) -> Transcoder:
    s3: Any = store.cloud.clients.s3
    return Transcoder(
        store.archive,
        FormStore(s3, store.bucket),
        store.index(),
        TranscodingPolicy.parse(policy),
        retire_originals=retire,
    )


def item_of(store: Store, image: Image) -> Item:
    item = store.index().instance(images.STUDY, f"{images.STUDY}.1", image.uid)
    assert item is not None
    return item


def getter(store: Store) -> Callable[[str], memoryview]:
    def get(key: str) -> memoryview:
        size = store.archive.head(key, 1).size
        return memoryview(store.archive.range(key, 0, size))

    return get


def read_original(store: Store, item: Item) -> bytes:
    out = io.BytesIO()
    write_original(store.archive, item, out)
    return out.getvalue()


def forms_in(store: Store) -> list[str]:
    return list(store.archive.keys(TRANSCODED))


def everything(store: Store) -> list[Item]:
    return sorted(store.index().partition(images.STUDY), key=lambda item: str(item["sk"]))


def test_an_instance_gets_a_form_that_its_item_names(store: Store) -> None:
    key = put(store, CT)
    outcome = transcoder(store).transcode(key)
    (form_key,) = forms_in(store)
    form = getter(store)(form_key)
    assert FormKey.parse(form_key) == FormKey(InstanceKey.parse(key), JPEG_LOSSLESS)  # type: ignore[arg-type]
    assert outcome == Outcome(JPEG_LOSSLESS, None, len(CT.file()), len(form))
    (named,) = converted(item_of(store, CT)).forms
    assert (named.object_key, named.size, named.transfer_syntax_uid) == (
        form_key,
        len(form),
        JPEG_LOSSLESS,
    )
    assert named.sha256 == hashlib.sha256(form).hexdigest()
    assert restored_sha256(InMemory(form)) == hashlib.sha256(CT.file()).hexdigest()


@pytest.mark.parametrize("syntax", [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN])
def test_what_came_in_another_encoding_is_restored_in_it(store: Store, syntax: Any) -> None:
    key = put(store, CT, syntax=syntax)
    assert transcoder(store, "htj2k", retire=True).transcode(key)
    assert list(store.archive.keys(INSTANCES)) == []
    assert read_original(store, item_of(store, CT)) == CT.file(syntax)


@pytest.mark.parametrize(
    ("size", "storage_class"),
    [((128 << 10) - 1, None), (128 << 10, "GLACIER_IR"), (17 << 20, "GLACIER_IR")],
    ids=["too short to gain", "in one request", "in parts"],
)
def test_a_form_goes_into_the_class_that_is_named_where_that_costs_less(
    store: Store, size: int, storage_class: str | None
) -> None:
    s3: Any = store.cloud.clients.s3
    key, form = "transcoded/form", io.BytesIO(bytes(size))
    assert FormStore(s3, store.bucket, "GLACIER_IR").keep(key, form, {})
    answer = s3.get_object(Bucket=store.bucket, Key=key)
    assert answer.get("StorageClass") == storage_class
    assert len(answer["Body"].read()) == size
    # Where no class is named, S3 is asked for none: others who speak its protocol have none.
    form.seek(0)
    assert FormStore(s3, store.bucket).keep(key, form, {}, replace=True)
    assert "StorageClass" not in s3.head_object(Bucket=store.bucket, Key=key)


def test_a_message_that_comes_again_changes_nothing(store: Store) -> None:
    key = put(store, CT)
    first = transcoder(store).transcode(key)
    before = everything(store)
    assert transcoder(store).transcode(key) == first
    assert everything(store) == before
    assert len(forms_in(store)) == 1


def test_a_form_that_waited_in_the_bucket_for_its_index_is_taken_up(store: Store) -> None:
    # A crash behind the put: the form is there, and no item names it.
    key = put(store, CT)
    index = Broken(store.index())
    with pytest.raises(StoreUnavailable):
        Transcoder(
            store.archive,
            FormStore(store.cloud.clients.s3, store.bucket),
            index,
            TranscodingPolicy.parse("jpeg-lossless"),
        ).transcode(key)
    (form_key,) = forms_in(store)
    modified = store.archive.head(form_key, 1).received
    assert transcoder(store).transcode(key)
    assert store.archive.head(form_key, 1).received == modified
    assert converted(item_of(store, CT)).forms


class Broken(Index):
    """A table that is gone when a form is to be recorded."""

    def __init__(self, index: Index) -> None:
        super().__init__(index._client, index.table)

    def record_converted(self, *arguments: Any, **options: Any) -> bool:
        gone = Index(self._client, f"{self.table}-that-is-gone")
        return gone.record_converted(*arguments, **options)


def test_a_form_that_is_corrupt_in_the_bucket_is_never_named(store: Store) -> None:
    key = put(store, CT)
    original = InstanceKey.parse(key)
    assert original is not None
    assert transcoder(store).transcode(key)
    (form_key,) = forms_in(store)
    good = bytes(getter(store)(form_key))
    corrupt = bytearray(good)
    corrupt[len(corrupt) // 2] ^= 0x10
    # The index forgets, and what is in the bucket is no longer what was put there.
    fresh = Store.in_cloud(store.cloud)
    put(fresh, CT)
    fresh.put_bytes(form_key, bytes(corrupt))
    assert transcoder(fresh).transcode(key)
    assert bytes(getter(fresh)(form_key)) == good
    (named,) = converted(item_of(fresh, CT)).forms
    assert named.sha256 == hashlib.sha256(good).hexdigest()


def test_what_a_codec_corrupts_never_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = imagecodecs.htj2k_encode

    def lying(*arguments: Any, **options: Any) -> bytes:
        stream = bytearray(encode(*arguments, **options))
        stream[len(stream) // 2] ^= 0x10
        return bytes(stream)

    monkeypatch.setattr(imagecodecs, "htj2k_encode", lying)
    key = put(store, CT)
    outcome = transcoder(store, "htj2k", retire=True).transcode(key)
    assert outcome is not None
    assert outcome.reason is Reason.NOT_REVERSIBLE
    assert [each for each in forms_in(store) if FormKey.parse(each)] == []
    assert list(store.archive.keys(INSTANCES)) == [key]


def test_an_original_that_is_not_what_its_key_says_is_told(store: Store) -> None:
    key = put(store, CT)
    damaged = bytearray(CT.file())
    damaged[-9] ^= 1
    store.put_bytes(key, bytes(damaged))
    outcome = transcoder(store, retire=True).transcode(key)
    assert outcome is not None
    assert outcome.reason is Reason.NOT_ITS_CONTENT
    assert list(store.archive.keys(INSTANCES)) == [key]


def test_why_an_original_is_left_alone_is_in_bucket_and_index(store: Store) -> None:
    key = put(store, ONE_BIT)
    outcome = transcoder(store, retire=True).transcode(key)
    assert outcome is not None
    assert outcome.reason is Reason.ONE_BIT
    assert converted(item_of(store, ONE_BIT)).left_alone == "one-bit-pixels"
    (marker,) = forms_in(store)
    assert marker.endswith("/one-bit-pixels.left-alone")
    assert list(store.archive.keys(INSTANCES)) == [key]


def test_the_policy_decides_by_what_the_instance_is(store: Store) -> None:
    policy = "modality=CT bits=16 -> jpeg-ls; modality=OT -> none; rle"
    ct, other = put(store, CT), put(store, replace(images.GREY[0], uid=f"{images.STUDY}.1.3"))
    first, second = (transcoder(store, policy).transcode(key) for key in (ct, other))
    assert first is not None
    assert second is not None
    assert first.transfer_syntax_uid == "1.2.840.10008.1.2.4.80"
    assert second.reason is Reason.POLICY


def test_a_retired_original_is_marked_as_deleted_and_its_bytes_are_still_to_be_had(
    store: Store,
) -> None:
    key = put(store, CT)
    outcome = transcoder(store, retire=True).transcode(key)
    assert outcome is not None
    assert outcome.retired
    with pytest.raises(InstanceMissing):
        store.archive.head(key, 1)
    item = item_of(store, CT)
    assert converted(item).retired
    assert read_original(store, item) == CT.file()
    # No version was destroyed: there is time for second thoughts.
    versions = store.cloud.clients.s3.list_object_versions(Bucket=store.bucket, Prefix=key)
    assert len(versions["Versions"]) == 1
    assert len(versions["DeleteMarkers"]) == 1
    # And when that has passed, it is by its tag that the version may end.
    [version] = versions["Versions"]
    tags = store.cloud.clients.s3.get_object_tagging(
        Bucket=store.bucket, Key=key, VersionId=version["VersionId"]
    )["TagSet"]
    assert [(tag["Key"], tag["Value"]) for tag in tags] == [RETIRED_TAG]
    # What is gone is retired: nothing more is done, not even another marker.
    FormStore(store.cloud.clients.s3, store.bucket).retire(key)
    again = store.cloud.clients.s3.list_object_versions(Bucket=store.bucket, Prefix=key)
    assert len(again["DeleteMarkers"]) == 1
    assert transcoder(store, retire=True).transcode(key) is None


def test_a_reader_with_an_item_from_before_the_retirement_gets_the_original_too(
    store: Store,
) -> None:
    key = put(store, CT)
    transcoder(store).transcode(key)
    before = item_of(store, CT)
    transcoder(store, retire=True).transcode(key)
    assert read_original(store, before) == CT.file()


def test_a_form_that_spoiled_never_stands_for_a_retired_original(store: Store) -> None:
    key = put(store, CT)
    transcoder(store, retire=True).transcode(key)
    (form_key,) = forms_in(store)
    spoiled = bytearray(getter(store)(form_key))
    spoiled[-200] ^= 1
    store.put_bytes(form_key, bytes(spoiled))
    with pytest.raises(InstanceMissing):
        read_original(store, item_of(store, CT))


def test_an_original_of_any_length_is_read_in_little_memory(store: Store, tmp_path: Path) -> None:
    few = images.smooth("long", 512, 512, frames=4)
    long = Image("long", 16, 12, few.pixels * 8, rows=512, columns=512, frames=32)
    put(store, long)
    item, path = item_of(store, long), tmp_path / "original"
    with path.open("wb") as out:
        tracemalloc.start()
        try:
            write_original(store.archive, item, out)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert path.read_bytes() == long.file()
    # Of a file of 16 MiB.
    assert peak < 6 << 20


def test_an_original_is_not_retired_for_a_form_that_spoiled(store: Store) -> None:
    key = put(store, CT)
    transcoder(store).transcode(key)
    (form_key,) = forms_in(store)
    store.put_bytes(form_key, b"not a form any more")
    outcome = transcoder(store, retire=True).transcode(key)
    # It was written anew first, and proven from the bucket.
    assert outcome is not None
    assert outcome.retired
    assert read_original(store, item_of(store, CT)) == CT.file()


def test_an_instance_that_is_sent_again_after_its_retirement_is_retired_again(
    store: Store,
) -> None:
    key = put(store, CT)
    transcoder(store, retire=True).transcode(key)
    before = everything(store)
    assert put(store, CT) == key
    transcoder(store, retire=True).transcode(key)
    assert list(store.archive.keys(INSTANCES)) == []
    assert read_original(store, item_of(store, CT)) == CT.file()
    assert [item["sk"] for item in everything(store)] == [item["sk"] for item in before]


def test_a_retired_content_that_is_sent_again_is_as_old_as_it_was(store: Store) -> None:
    wrong, right = replace(CT, modality="MR"), CT
    transcoder(store, retire=True).transcode(put(store, wrong))
    put(store, right)
    before = everything(store)
    put(store, wrong)
    assert everything(store) == before
    assert item_of(store, CT)["object_key"] == right.key()
    rebuild(store.archive, store.index())
    assert everything(store) == before


def test_the_one_content_of_an_instance_is_as_old_as_it_was_when_it_is_sent_again(
    store: Store,
) -> None:
    key = put(store, CT)
    transcoder(store, retire=True).transcode(key)
    before = everything(store)
    put(store, CT)
    assert everything(store) == before
    transcoder(store, retire=True).transcode(key)
    assert everything(store) == before
    for item in before:
        assert store.index().remove(item)
    rebuild(store.archive, store.index())
    assert everything(store) == before


def test_a_form_that_is_written_anew_keeps_the_date_of_the_one_before(store: Store) -> None:
    key = put(store, CT)
    transcoder(store, retire=True).transcode(key)
    (form_key,) = forms_in(store)
    first = store.archive.head(form_key, 1)
    s3: Any = store.cloud.clients.s3
    s3.put_object(Bucket=store.bucket, Key=form_key, Body=b"spoiled", Metadata=first.metadata)
    put(store, CT)
    transcoder(store, retire=True).transcode(key)
    assert store.archive.head(form_key, 1).received == first.received


def test_a_rebuild_finds_forms_reasons_and_retired_originals_in_the_bucket_alone(
    store: Store,
) -> None:
    kept = replace(CT, uid=f"{images.STUDY}.1.4")
    retired = transcoder(store, retire=True)
    for image, how in ((CT, retired), (ONE_BIT, retired), (kept, transcoder(store))):
        assert how.transcode(put(store, image))
    before = everything(store)
    for item in before:
        assert store.index().remove(item)
    rebuild(store.archive, store.index())
    assert everything(store) == before
    # And on a table in use it writes nothing anew.
    rebuild(store.archive, store.index())
    assert everything(store) == before


def test_a_rebuild_that_a_form_overtakes_does_not_lose_it(store: Store) -> None:
    key = put(store, CT)
    present = item_of(store, CT)
    transcoder(store).transcode(key)
    changed = {**present, "defect": "as a rebuild would write it"}
    assert not store.index().replace(changed, present)
    assert not store.index().remove(present)
    assert converted(item_of(store, CT)).forms


class Overtaken(Archive):
    """A bucket in which something happens when the originals have been listed, once."""

    def __init__(self, archive: Archive, happens: Callable[[], object]) -> None:
        super().__init__(archive._client, archive.bucket)
        self._happens: list[Callable[[], object]] = [happens]

    def keys(self, prefix: str) -> Iterator[str]:
        yield from list(super().keys(prefix))
        if prefix.startswith(f"{INSTANCES}{images.STUDY}/") and self._happens:
            self._happens.pop()()


def test_a_rebuild_that_a_retirement_overtakes_does_not_lose_the_instance(store: Store) -> None:
    key = put(store, CT)
    original = InstanceKey.parse(key)
    assert original is not None
    transcoder(store).transcode(key)
    # The item says that it is retired, as it does just before it is.
    became = converted(item_of(store, CT))
    store.index().record_converted(original, replace(became, retired=True))
    before = everything(store)
    retire = FormStore(store.cloud.clients.s3, store.bucket).retire
    archive = Overtaken(store.archive, lambda: retire(key))
    rebuild(archive, store.index())
    assert list(store.archive.keys(INSTANCES)) == []
    assert everything(store) == before


def test_a_form_of_content_that_is_no_longer_shown_is_not_one_of_what_is(store: Store) -> None:
    first = put(store, CT)
    second = replace(CT, modality="MR")
    put(store, second)
    outcome = transcoder(store, retire=True).transcode(first)
    assert outcome is not None
    assert not outcome.retired
    assert converted(item_of(store, CT)).forms == ()
    assert [form.object_key for form in forms_of(item_of(store, CT))] == forms_in(store)
    before = everything(store)
    rebuild(store.archive, store.index())
    assert everything(store) == before


def test_a_retired_content_is_still_named_when_another_is_shown(store: Store) -> None:
    first = put(store, CT)
    assert transcoder(store, retire=True).transcode(first)
    second = replace(CT, modality="MR")
    put(store, second)
    item = item_of(store, CT)
    assert item["object_key"] == second.key()
    assert [form.object_key for form in forms_of(item)] == forms_in(store)
    before = everything(store)
    rebuild(store.archive, store.index())
    assert everything(store) == before


def test_a_form_that_was_written_anew_is_named_once(store: Store) -> None:
    key = put(store, CT)
    original = InstanceKey.parse(key)
    assert original is not None
    transcoder(store).transcode(key)
    (right,) = converted(item_of(store, CT)).forms
    index = store.index()
    index.record_converted(original, Converted((replace(right, size=1, sha256="0" * 64),)))
    transcoder(store).transcode(key)
    assert forms_of(item_of(store, CT)) == [right]
    # One in another syntax is another form, and a reason takes none away.
    other = replace(right, object_key=str(FormKey(original, "1.2.840.10008.1.2.5")))
    assert index.record_converted(original, Converted((other,)))
    assert index.record_converted(original, Converted(left_alone="policy"))
    assert set(forms_of(item_of(store, CT))) == {right, other}


def test_what_has_neither_form_nor_reason_is_found_in_the_bucket(store: Store) -> None:
    # Names that sort differently with and without what follows them.
    many = [replace(CT, uid=f"{images.STUDY}.1.{end}") for end in ("1", "1.1", "10", "2", "3")]
    keys = [put(store, image) for image in (*many, ONE_BIT)]
    for key in (keys[1], keys[3], keys[-1]):
        transcoder(store).transcode(key)
    missing = {keys[0], keys[2], keys[4]} - {ONE_BIT.key()}
    assert set(originals_without_form(store.archive)) == missing


def test_the_command_asks_for_what_has_neither_form_nor_reason(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqs = store.cloud.clients.sqs
    queue = sqs.create_queue(QueueName=store.bucket)["QueueUrl"]
    for name, value in {
        **store.cloud.environment,
        "LENTICULAR_BUCKET": store.bucket,
        "LENTICULAR_TABLE": store.table,
        "LENTICULAR_TRANSCODE_QUEUE": queue,
    }.items():
        monkeypatch.setenv(name, value)
    keys = [put(store, replace(CT, uid=f"{images.STUDY}.1.{number}")) for number in range(13)]
    transcoder(store).transcode(keys[5])
    transcoder(store).transcode(put(store, ONE_BIT))
    told = CliRunner().invoke(main, ["transcode"])
    assert (told.exit_code, told.output) == (0, "12 originals are to be transcoded\n")
    asked = []
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        asked += [object_key(message["Body"]) for message in messages]
    assert sorted(asked) == sorted({*keys} - {keys[5]})
    # What SQS does not take is told, and asked for when the command is run again.
    monkeypatch.setenv("LENTICULAR_TRANSCODE_QUEUE", f"{queue}-that-is-gone")
    told = CliRunner().invoke(main, ["transcode"])
    assert told.exit_code == 1
    assert "12 of 12 originals were not asked for: run it again" in told.output


@pytest.mark.slow
def test_a_large_original_and_its_form_go_in_parts(store: Store) -> None:
    noisy = images.smooth("large", 512, 512, frames=110, uid=f"{images.STUDY}.1.5")
    key = put(store, noisy)
    outcome = transcoder(store, retire=True).transcode(key)
    assert outcome is not None
    assert outcome.retired
    assert outcome.form_bytes > 16 << 20
    assert read_original(store, item_of(store, noisy)) == noisy.file()


def test_provenance_stays_with_the_form(store: Store) -> None:
    key = CT.key()
    store.cloud.clients.s3.put_object(
        Bucket=store.bucket,
        Key=key,
        Body=io.BytesIO(CT.file()),
        Metadata={RECEIVED: "2026-01-02T03:04:05.000006Z", CALLING_AE_TITLE: "SCANNER%20A"},
    )
    index_objects(store.archive, store.index(), [key])
    transcoder(store, retire=True).transcode(key)
    (form_key,) = forms_in(store)
    form = store.archive.head(form_key, 1)
    assert (form.received, form.calling_ae_title) == ("2026-01-02T03:04:05.000006Z", "SCANNER A")
