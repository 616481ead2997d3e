"""The spool and its disk: what fsync, locks and limits have to do with an acknowledgement."""

import errno
import gc
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pytest

from gateway import spool_room
from gateway.custody import Custody
from gateway.journal import Journal, journals
from gateway.journal_entry import EntryFile, EntryUnreadable
from gateway.spool import Spool
from gateway.spool_room import NoRoom, Room
from lenticular.errors import OperatorError, StoreUnavailable
from tests.cloud.deadline import eventually

FILE: Final = b"\1" * 5000
KEY: Final = f"instances/1.2/1.2.3/1.2.3.4/{hashlib.sha256(FILE).hexdigest()}.dcm"
METADATA: Final = {"received": "2026-01-05T10:15:00.000000Z"}

Keep = Callable[[Spool], bool]


def keep_short(spool: Spool) -> bool:
    return spool.keep(KEY, bytearray(FILE), METADATA)


def keep_long(spool: Spool) -> bool:
    with spool.scratch() as scratch:
        scratch.write(FILE[:2000])
        scratch.write(FILE[2000:])
        return spool.keep_large(KEY, scratch, METADATA)


both_sizes = pytest.mark.parametrize("keep", [keep_short, keep_long])


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """Return a spool that uploads nothing, with room for three files."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    return Spool(
        tmp_path, Custody("any", retry_seconds=0), max_bytes=16_500, uploads=1, memory_bytes=10_000
    )


def files(root: Path) -> list[str]:
    return sorted(path.suffix for path in root.glob("*/*"))


@both_sizes
def test_a_file_is_an_entry_once_it_is_kept(spool: Spool, tmp_path: Path, keep: Keep) -> None:
    assert keep(spool)
    [path] = tmp_path.glob("*/*.entry")
    assert path.read_bytes().startswith(FILE)
    assert spool.gauges()["SpoolDepth"] == 1
    assert spool.gauges()["SpoolBytes"] == path.stat().st_size


#: What is synced, in this order, before a sender hears Success.
SYNCED: Final = ["file", "directory"]


@both_sizes
@pytest.mark.parametrize("failing", [1, 2], ids=SYNCED)
def test_what_cannot_be_synced_is_not_kept_and_not_trusted_afterwards(  # noqa: PLR0913
    spool: Spool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    keep: Keep,
    failing: int,
) -> None:
    caplog.set_level(logging.INFO)
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        assert Path(f"/proc/self/fd/{descriptor}").is_dir() == (SYNCED[calls - 1] == "directory")
        if calls == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(StoreUnavailable, match="Input/output error"):
            keep(spool)
    assert calls == failing
    assert files(tmp_path) == []
    assert spool.gauges() == {"SpoolDepth": 0, "SpoolBytes": 0, "SpoolOldestAge": 0.0}
    assert spool.shortage() == "the disk failed: Input/output error"
    assert keep(spool)
    assert spool.shortage() is None
    assert files(tmp_path) == [".entry"]
    assert [record.message for record in caplog.records] == [
        "the spool takes no more",
        "the spool takes instances again",
    ]


def test_a_spool_that_stays_full_says_so_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(spool_room, "monotonic", lambda: now)
    room = Room(1000)
    room.take(900)
    for now in (1.0, 30.0, 60.0, 62.0, 90.0, 123.0):  # noqa: B007 - the clock reads it
        with pytest.raises(NoRoom):
            room.take(200)
    assert [record.message for record in caplog.records] == ["the spool takes no more"] * 3


def test_a_journals_own_name_is_durable_before_anything_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a synced directory names survives; of an entry in a directory that does not, nothing.
    durable: list[set[str]] = []

    def fsync(descriptor: int) -> None:
        synced = Path(f"/proc/self/fd/{descriptor}").resolve()
        assert synced == tmp_path
        durable.append({path.name for path in synced.iterdir()})

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal.create(tmp_path)
    assert durable == [{journal.name, f"{journal.name}.lock"}]


def test_a_journal_whose_name_cannot_be_made_durable_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OperatorError, match="Input/output error"):
        Spool(
            tmp_path,
            Custody.__new__(Custody),
            max_bytes=1,
            uploads=1,
            memory_bytes=1,
        )


@both_sizes
def test_beyond_the_limit_nothing_is_kept(spool: Spool, tmp_path: Path, keep: Keep) -> None:
    for _ in range(3):
        assert keep(spool)
    with pytest.raises((StoreUnavailable, NoRoom), match="the spool is full"):
        keep(spool)
    assert files(tmp_path) == [".entry"] * 3
    assert spool.shortage() == "the spool is full"


def test_what_was_only_begun_takes_no_room_when_it_is_given_up(
    spool: Spool, tmp_path: Path
) -> None:
    with spool.scratch() as scratch:
        scratch.write(bytes(10_000))
        assert spool.gauges()["SpoolBytes"] == 10_000
        assert files(tmp_path) == [".part"]
    assert spool.gauges()["SpoolBytes"] == 0
    assert files(tmp_path) == []


def test_who_asks_for_some_instances_opens_no_other_entries(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(uid: str) -> str:
        return KEY.replace("1.2.3.4", uid)

    wanted = {"1.2.3.4", "1.2.3.5", "1.2.3.6"}
    for uid in ("1.2.3.4", "1.2.3.7", "1.2.3.8"):
        assert spool.keep(key(uid), bytearray(b"file"), METADATA)
    with spool.scratch() as scratch:
        scratch.write(b"file")
        assert spool.keep_large(key("1.2.3.5"), scratch, METADATA)
    quarantined = f"quarantine/1.2.3.6/{hashlib.sha256(FILE).hexdigest()}.dcm"
    assert spool.keep(quarantined, bytearray(b"file"), METADATA)
    # Another process's, which is of a version that put no marks.
    theirs = tmp_path / "journal-0"
    theirs.mkdir()
    assert spool.keep(key("1.2.3.6"), bytearray(b"file"), METADATA)
    last = max(tmp_path.glob("*/*.entry"))
    last.rename(theirs / "000000000001.entry")
    opened: list[str] = []

    def counted(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".entry"):
            opened.append(Path(path).name)
        return system_open(path, *arguments, **options)

    system_open = os.open
    monkeypatch.setattr(os, "open", counted)
    assert set(spool.arriving(wanted)) == {key(uid) for uid in wanted}
    assert len(opened) == 3
    assert "000000000001.entry" in opened


def test_no_more_is_taken_than_there_is_room_for_however_many_take() -> None:
    room = Room(1000)
    taken: list[int] = []

    def take() -> None:
        for _ in range(100):
            try:
                room.take(7)
            except NoRoom:
                continue
            taken.append(7)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == room.held == 994
    room.give_back(994)
    assert room.shortage() is None


def test_an_entry_that_cannot_be_read_leaves_no_descriptor_and_closes_no_other(
    tmp_path: Path,
) -> None:
    file = tmp_path / "entry"
    file.write_bytes(b"no entry")
    descriptor = os.open(file, os.O_RDONLY)
    with pytest.raises(EntryUnreadable) as caught:
        EntryFile(descriptor, 8)
    # The number is free again, and another file gets it before the object is gone.
    assert os.open(file, os.O_RDONLY) == descriptor
    del caught
    gc.collect()
    assert os.read(descriptor, 8) == b"no entry"
    os.close(descriptor)


def test_the_journal_of_a_process_that_lives_is_its_own(spool: Spool, tmp_path: Path) -> None:
    assert keep_short(spool)
    [name] = journals(tmp_path)
    assert Journal.adopt(tmp_path, name) is None


@pytest.mark.parametrize("unusable", ["journal-0", "journal-0.lock"])
def test_a_journal_that_cannot_be_opened_holds_up_no_other_and_is_told_of_once(
    spool: Spool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    unusable: str,
) -> None:
    monkeypatch.setattr("gateway.spool._LOOK_SECONDS", 0.1)
    # A lock is no directory, and a journal is nothing else.
    if unusable.endswith(".lock"):
        (tmp_path / "journal-0").mkdir()
        (tmp_path / unusable).mkdir()
    else:
        (tmp_path / "journal-0.lock").touch()
        (tmp_path / unusable).touch()
    assert keep_long(spool)
    [kept] = tmp_path.glob("*/*.entry")
    spool.start()
    for number in (1, 2):
        # Moved there whole: the looker may come at any moment.
        shutil.copytree(kept.parent, tmp_path / "copy")
        (tmp_path / "copy").rename(tmp_path / f"journal-{number}")
        eventually(lambda: spool.gauges()["SpoolDepth"], until=(1.0 + number).__eq__)
    spool.close(None)
    [told] = (r for r in caplog.records if r.message == "a journal cannot be looked after")
    assert vars(told)["journal"] == "journal-0"


def test_a_journal_that_cannot_be_opened_takes_no_descriptor(tmp_path: Path) -> None:
    for name in ("journal-0", "journal-0.lock"):
        (tmp_path / name).touch()
    # What earlier tests left to the collector is closed now, and not between the two counts.
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(NotADirectoryError):
        Journal.adopt(tmp_path, "journal-0")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert journals(tmp_path) == ["journal-0"]


def test_a_journal_that_could_not_be_ended_is_ended_later_and_closes_no_other_file(
    tmp_path: Path,
) -> None:
    journal = Journal.create(tmp_path)
    # What is in the lock's place cannot be unlinked.
    lock = tmp_path / f"{journal.name}.lock"
    lock.unlink()
    lock.mkdir()
    with pytest.raises(OSError, match=r"directory|permitted"):
        journal.retire()
    other = os.open(tmp_path, os.O_RDONLY)
    lock.rmdir()
    assert journal.retire()
    assert os.fstat(other).st_ino == tmp_path.stat().st_ino
    os.close(other)


@pytest.fixture(params=["local", "nfs"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the disk be as local ones are, and then as NFS, which tells of what is gone by ESTALE.

    It does so wherever a name is looked up in a directory, or a directory is read, by descriptor.
    """
    if request.param == "local":
        return

    def as_of_nfs(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            of = options.get("dir_fd", options.get("src_dir_fd"))
            if of is None and isinstance(arguments[0], int):
                of = arguments[0]
            if of is not None and os.fstat(of).st_nlink == 0:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return call(*arguments, **options)

        return called

    for name in ("open", "rename", "unlink", "scandir", "fsync"):
        monkeypatch.setattr(os, name, as_of_nfs(getattr(os, name)))


@pytest.mark.usefixtures("disk")
def test_a_process_whose_journal_was_emptied_by_another_begins_a_new_one(
    spool: Spool, tmp_path: Path
) -> None:
    # As when a lock on NFS is lost: the heir sees no lock, removes what is begun and the directory.
    before = list(tmp_path.iterdir())
    scratch = spool.scratch()
    scratch.write(FILE)
    remove_journals(tmp_path)
    with pytest.raises(StoreUnavailable):
        spool.keep_large(KEY, scratch, METADATA)
    scratch.close()
    assert keep_short(spool)
    assert keep_long(spool)
    assert files(tmp_path) == [".entry", ".entry"]
    assert not set(before) & set(tmp_path.iterdir())
    assert spool.shortage() is None


@pytest.mark.usefixtures("disk")
@both_sizes
def test_the_first_instance_after_a_journal_is_gone_is_turned_away_and_no_other(
    spool: Spool, tmp_path: Path, keep: Keep
) -> None:
    remove_journals(tmp_path)
    with pytest.raises((StoreUnavailable, OSError)):
        keep(spool)
    assert spool.shortage() is None
    assert keep(spool)
    assert files(tmp_path) == [".entry"]


@pytest.mark.usefixtures("disk")
def test_an_entry_that_another_process_has_uploaded_is_not_waited_for(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert keep_long(spool)
    remove_journals(tmp_path)
    spool.start()
    eventually(spool.gauges, until=lambda gauges: gauges["SpoolDepth"] == 0)
    spool.close(monotonic() + 10)
    assert spool.gauges()["SpoolBytes"] == 0
    assert caplog.messages == []


@pytest.mark.usefixtures("disk")
def test_a_journal_that_another_process_ends_while_we_take_it_over_is_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal.create(tmp_path)
    remove_journals(tmp_path)
    assert journal.sweep() == ([], 0)
    journal.remove_entry("000000000001")
    assert journal.retire()
    assert caplog.messages == []


def remove_journals(root: Path) -> None:
    for path in root.glob("*/*"):
        path.unlink()
    for path in root.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_file_begun_in_a_journal_that_was_replaced_becomes_an_entry_there_or_none(
    spool: Spool, tmp_path: Path, *, is_gone: bool
) -> None:
    [before] = (path for path in tmp_path.iterdir() if path.is_dir())
    first, lost = spool.scratch(), spool.scratch()
    first.write(FILE)
    # The heir removes what it takes for given up, and then perhaps the directory.
    (before / f"{lost.name_in_journal}.part").unlink()
    with pytest.raises(StoreUnavailable):
        spool.keep_large(KEY, lost, METADATA)
    half = spool.scratch()
    half.write(FILE[:100])
    # Both are the first of their journals.
    assert half.name_in_journal == first.name_in_journal
    if is_gone:
        for path in before.iterdir():
            path.unlink()
        before.rmdir()
        with pytest.raises(StoreUnavailable):
            spool.keep_large(KEY, first, METADATA)
    else:
        assert spool.keep_large(KEY, first, METADATA)
    for draft in (first, lost):
        draft.close()
    begun, *kept = sorted(tmp_path.glob("*/*"), key=lambda path: path.stat().st_size)
    assert (begun.suffix, begun.stat().st_size) == (".part", 100)
    assert begun.parent != before
    assert [(path.parent, path.suffix) for path in kept] == [(before, ".entry")] * (not is_gone)
    # The new journal is still the one in use.
    with half:
        half.write(FILE[100:])
        assert spool.keep_large(KEY, half, METADATA)
    assert keep_short(spool)
    assert files(tmp_path) == [".entry"] * (2 + len(kept))
    assert len(list(begun.parent.iterdir())) == 2


def test_a_journal_that_nothing_is_in_is_gone_when_its_process_ends(
    spool: Spool, tmp_path: Path
) -> None:
    spool.start()
    spool.close(monotonic() + 10)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_to_is_the_operators_to_mend(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="LENTICULAR_SPOOL_DIR cannot be used"):
        Spool(
            tmp_path / "missing",
            Custody.__new__(Custody),
            max_bytes=1,
            uploads=1,
            memory_bytes=1,
        )
