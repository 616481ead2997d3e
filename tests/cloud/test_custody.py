"""Custody against moto: what it says of what the bucket holds."""

import io

import obstore
import pytest
from obstore.store import S3Store

from gateway.custody import Custody
from lenticular.archive import DeletionKey
from lenticular.errors import InstanceMissing, OperatorError, StoreUnavailable
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import Store

KEY = "instances/1.2/1.2.3/1.2.3.4/0000.dcm"


@pytest.fixture
def store(cloud: OfflineCloud) -> Store:
    """Create an empty bucket."""
    return Store.in_cloud(cloud)


@pytest.fixture
def custody(store: Store, monkeypatch: pytest.MonkeyPatch) -> Custody:
    """Find the bucket as the gateway does."""
    for name, value in store.cloud.environment.items():
        monkeypatch.setenv(name, value)
    return Custody(store.bucket, retry_seconds=0)


def test_what_was_kept_can_be_got(custody: Custody) -> None:
    assert custody.keep(KEY, b"the file", {"received": "now"})
    assert bytes(custody.get(KEY, 0, 8)) == b"the file"
    assert bytes(custody.get(KEY, 4, 3)) == b"fil"


def test_a_file_that_is_shorter_than_it_should_be_is_not_taken_for_whole(custody: Custody) -> None:
    custody.keep(KEY, b"the file", {})
    with pytest.raises(StoreUnavailable):
        custody.get(KEY, 4, 5)


def test_what_is_there_already_is_said_to_be(custody: Custody) -> None:
    custody.keep(KEY, b"the file", {})
    assert not custody.keep(KEY, b"the file", {})


def test_what_is_there_is_put_again_while_a_deletion_may_hide_it(
    store: Store, custody: Custody
) -> None:
    deletion = DeletionKey("1.2", "20261122T120000.000000Z")
    custody.keep(KEY, b"the file", {})
    store.archive.create_document(str(deletion), b"{}")
    assert custody.keep(KEY, b"the file", {})
    assert custody.keep_large(KEY, io.BytesIO(b"the file"), {})
    s3 = store.cloud.clients.s3
    found = s3.list_object_versions(Bucket=store.bucket, Prefix=KEY)["Versions"]
    assert len(found) == 3
    # Another study's is no reason, nor one that is over.
    assert custody.keep(KEY.replace("/1.2/", "/1.2.5/"), b"the file", {})
    assert not custody.keep(KEY.replace("/1.2/", "/1.2.5/"), b"the file", {})
    store.archive.create_document(deletion.completed, b"{}")
    assert not custody.keep(KEY, b"the file", {})
    assert not custody.keep_large(KEY, io.BytesIO(b"the file"), {})


@pytest.mark.parametrize("large", [False, True])
def test_what_a_deletion_hides_while_we_ask_whether_there_is_one_is_put_again(
    store: Store, custody: Custody, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    deletion = DeletionKey("1.2", "20261122T120000.000000Z")
    custody.keep(KEY, b"the file", {})
    store.archive.create_document(str(deletion), b"{}")
    listed = obstore.list

    def slowly(from_store: S3Store, prefix: str) -> object:
        if not store.archive.holds(deletion.completed):
            store.cloud.clients.s3.delete_object(Bucket=store.bucket, Key=KEY)
            store.archive.create_document(deletion.completed, b"{}")
        return listed(from_store, prefix)

    monkeypatch.setattr(obstore, "list", slowly)
    patient = Custody(store.bucket, retry_seconds=20)
    if large:
        assert patient.keep_large(KEY, io.BytesIO(b"the file"), {})
    else:
        assert patient.keep(KEY, b"the file", {})
    assert store.archive.read(KEY) == b"the file"


class ComesFromElsewhereMeanwhile(io.BytesIO):
    """A large file; when it is read, another association brings it, and its study is deleted."""

    def __init__(self, store: Store, custody: Custody) -> None:
        super().__init__(b"the file")
        self._store, self._custody = store, custody

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == 0:
            assert self._custody.keep(KEY, self.getbuffer(), {})
            deletion = DeletionKey("1.2", "20261122T120000.000000Z")
            self._store.archive.create_document(str(deletion), b"{}")
        return super().read(size)


def test_a_large_file_is_put_anew_over_one_that_came_meanwhile_and_may_be_hidden(
    store: Store, custody: Custody
) -> None:
    s3 = store.cloud.clients.s3
    with pytest.raises(StoreUnavailable):
        custody.keep_large(KEY, ComesFromElsewhereMeanwhile(store, custody), {})
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=store.bucket)
    # Its sender was told to try again.
    assert custody.keep_large(KEY, io.BytesIO(b"the file"), {})
    assert len(s3.list_object_versions(Bucket=store.bucket, Prefix=KEY)["Versions"]) == 2
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=store.bucket)


def test_an_object_that_is_not_there_is_missing(custody: Custody) -> None:
    with pytest.raises(InstanceMissing):
        custody.get(KEY, 0, 8)


def test_a_bucket_that_is_not_there_takes_nothing(store: Store, custody: Custody) -> None:
    store.cloud.clients.s3.delete_bucket(Bucket=store.bucket)
    with pytest.raises(StoreUnavailable):
        custody.keep(KEY, b"the file", {})


@pytest.mark.usefixtures("custody")
def test_missing_credentials_are_the_operators_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(OperatorError, match="credentials"):
        Custody("bucket", retry_seconds=0)
