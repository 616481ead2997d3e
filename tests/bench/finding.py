"""C-FIND beside Orthanc on the same studies, and memory while very many match.

Our table is in DynamoDB Local, filled by the code that fills the index; Orthanc gets a tiny
instance of each study by C-STORE. Both are asked everything in each round. Ours is reported with
what it spent waiting for the store, as its own log says it of each query (the reading of the
store's JSON included), and with its CPU time, in which there is no store.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from lenticular.archive import InstanceKey
from lenticular.attributes import Level
from lenticular.elements import EncodableElement, encode_data_set
from lenticular.index_items import (
    Copy,
    Item,
    Series,
    month_item,
    series_registers,
    study_of,
    study_registers,
)
from lenticular.part10 import file_head
from tests.cloud.dynamodb_local import running_dynamodb_local
from tests.peers.raw_query import Asker

from .processes import ServerFailed, tree_cpu_seconds
from .receivers import ORTHANC, OURS, Receiver, Running, Site, found

_CT: Final = "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_FIRST_DAY: Final = date(2024, 1, 1)
_STUDIES_A_DAY: Final = 14
#: Of 5,000 studies, 921 are of patients with "son" in their name.
_WITH_SON: Final = 921 / 5000
_RETURNED: Final = (
    "StudyInstanceUID", "PatientName", "PatientID", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyDescription", "ModalitiesInStudy", "NumberOfStudyRelatedInstances",
)  # fmt: skip
_STORE_SECONDS: Final = 600
_PENDING: Final = 0xFF00
_LOG_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class FindSample:
    """What one archive took for one query; `store_milliseconds` is None where nobody says."""

    archive: str
    query: str
    matches: int
    first_milliseconds: float
    total_milliseconds: float
    store_milliseconds: float | None
    cpu_milliseconds: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Resident memory of the gateway before and while it answers."""

    matches: int
    seconds: float
    before_bytes: int
    most_bytes: int


def _attributes(number: int) -> dict[Level, list[tuple[int, str, str]]]:
    """Say what a study's one instance says."""
    day = _FIRST_DAY + timedelta(days=number // _STUDIES_A_DAY)
    with_son = number * _WITH_SON % 1 < _WITH_SON
    name = f"{'Johanson' if with_son else 'Meyer'}{number:06}^Kim"
    uid = f"1.2.826.0.1.3680043.10.2.{number}"
    return {
        Level.PATIENT: [(0x00100010, "PN", name), (0x00100020, "LO", f"PID{number:07}")],
        Level.STUDY: [
            (0x00080020, "DA", f"{day:%Y%m%d}"), (0x00080030, "TM", f"{number % 24:02}1500"),
            (0x00080050, "SH", f"ACC{number:08}"), (0x00081030, "LO", "Thorax nativ"),
            (0x0020000D, "UI", uid),
        ],
        Level.SERIES: [(0x00080060, "CS", "CT"), (0x0020000E, "UI", f"{uid}.1")],
        Level.INSTANCE: [(0x00080016, "UI", _CT), (0x00080018, "UI", f"{uid}.1.1")],
    }  # fmt: skip


def _items(studies: int) -> Iterator[Item]:
    """Make the study items, and the months they are in, as indexing does."""
    months = set()
    for number in range(studies):
        said = _attributes(number)
        uid = said[Level.STUDY][-1][2]
        copy = Copy(
            InstanceKey(uid, f"{uid}.1", f"{uid}.1.1", f"{number:064}"),
            size=1000,
            received="2026-01-01T00:00:00.000000Z",
            sop_class_uid=_CT,
            transfer_syntax_uid=_EXPLICIT,
            attributes={
                level: {
                    f"{tag:08X}": {
                        "vr": vr,
                        "Value": [{"Alphabetic": text} if vr == "PN" else text],
                    }
                    for tag, vr, text in each
                }
                for level, each in said.items()
            },
        )
        series = Series(uid, f"{uid}.1", series_registers(copy), frozenset({_CT}), 1)
        item = study_of(uid, study_registers(copy), [series]).item()
        if item["study_month"] not in months:
            months.add(item["study_month"])
            yield month_item(str(item["study_month"]))
        yield item


def _write_files(folder: Path, studies: int) -> None:
    folder.mkdir()
    for number in range(studies):
        elements: list[EncodableElement] = [
            (tag, vr, text.encode())
            for each in _attributes(number).values()
            for tag, vr, text in each
        ]
        uid = {tag: text for tag, _, text in _attributes(number)[Level.INSTANCE]}
        file = file_head(_CT, uid[0x00080018], _EXPLICIT) + encode_data_set(elements)
        (folder / f"{number}.dcm").write_bytes(file)


def _store(folder: Path, running: Running) -> None:
    storescu = found("storescu")
    if storescu is None:
        raise ServerFailed("storescu is not installed (Debian has it in the package dcmtk)")
    done = subprocess.run(
        [storescu, "-aec", running.aet, "+sd", "127.0.0.1", str(running.port), str(folder)],
        env={"TCP_NODELAY": "1"},
        capture_output=True,
        timeout=_STORE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"studies could not be stored: {done.stderr.decode()[-500:]}")


def _queries(studies: int) -> Mapping[str, Sequence[str]]:
    middle = studies // 2
    week = _FIRST_DAY + timedelta(days=middle // _STUDIES_A_DAY)
    last = week + timedelta(days=6)
    return {
        "patient ID": (f"PatientID=PID{middle:07}",),
        "accession": (f"AccessionNumber=ACC{middle:08}",),
        "one week": (f"StudyDate={week:%Y%m%d}-{last:%Y%m%d}",),
        "*SON*": ("PatientName=*SON*",),
    }


def sample_finds(site: Site, studies: int, rounds: int) -> Iterator[FindSample]:
    """Fill both archives, and ask each of them everything in each round."""
    with ExitStack() as stack:
        dynamodb = stack.enter_context(running_dynamodb_local())
        table = dynamodb.table()
        dynamodb.load(table, _items(studies))
        folders = {OURS: site.folder / "ours", ORTHANC: site.folder / "theirs"}
        archives: dict[Receiver, Running] = {}
        for archive in (OURS, ORTHANC) if ORTHANC.absence is None else (OURS,):
            folders[archive].mkdir()
            own = replace(
                site, folder=folders[archive], table=table, aws={**site.aws, **dynamodb.environment}
            )
            archives[archive] = stack.enter_context(archive.start(own))
        if ORTHANC in archives:
            _write_files(site.folder / "studies", studies)
            _store(site.folder / "studies", archives[ORTHANC])
        for turn in range(-1, rounds):  # the first one warms up
            for archive, running in archives.items():
                for name, keys in _queries(studies).items():
                    log = folders[archive] / "receiver.log" if archive is OURS else None
                    sample = _ask(archive.name, name, keys, running, log)
                    if turn >= 0:
                        yield sample


def _ask(
    archive: str, name: str, keys: Sequence[str], running: Running, log: Path | None
) -> FindSample:
    asker = Asker.associate("127.0.0.1", running.port, running.aet)
    seen = _query_lines(log)
    others = [each for each in _RETURNED if not keys[0].startswith(f"{each}=")]
    before = tree_cpu_seconds(running.pid)
    began = time.perf_counter()
    asker.request(*keys, *others)
    first, matches, status = 0.0, 0, 0
    for response in asker.responses():
        first = first or time.perf_counter() - began
        matches += response.command.status == _PENDING
        status = response.command.status or 0
    total = time.perf_counter() - began
    spent = tree_cpu_seconds(running.pid) - before
    asker.peer.release()
    if status != 0:
        raise ServerFailed(f"{archive} answered a C-FIND-RQ with status {status:04X}")
    return FindSample(
        archive,
        name,
        matches,
        1000 * first,
        1000 * total,
        _store_time(log, len(seen)),
        1000 * spent,
    )


def _query_lines(log: Path | None) -> list[float]:
    if log is None:
        return []
    lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line)["store_milliseconds"] for line in lines if '"query ended"' in line]


def _store_time(log: Path | None, seen: int) -> float | None:
    if log is None:
        return None
    deadline = time.monotonic() + _LOG_SECONDS
    while len(lines := _query_lines(log)) == seen:
        if time.monotonic() > deadline:
            raise ServerFailed("the gateway does not log its queries")
    return lines[seen]


def growth(site: Site, matches: int) -> Growth:
    """Ask for everything, keep nothing, and watch how the gateway grows."""
    with running_dynamodb_local() as dynamodb:
        table = dynamodb.table()
        dynamodb.load(table, _items(matches))
        own = replace(
            site,
            table=table,
            aws={**site.aws, **dynamodb.environment, "LENTICULAR_MAX_RESPONSES": "0"},
        )
        with OURS.start(own) as running:
            # What a first query loads is no growth.
            _ask(OURS.name, "one", ("PatientID=PID0000001",), running, None)
            before = most = _resident_bytes(running.pid)
            asker = Asker.associate("127.0.0.1", running.port, running.aet)
            began = time.perf_counter()
            # By date, month by month: DynamoDB Local takes minutes to scan so many.
            others = [each for each in _RETURNED if each != "StudyDate"]
            asker.request(f"StudyDate={_FIRST_DAY:%Y%m%d}-", *others)
            answered = 0
            for response in asker.responses():
                answered += response.command.status == _PENDING
                if answered % 1000 == 0:
                    most = max(most, _resident_bytes(running.pid))
            asker.peer.release()
            return Growth(answered, time.perf_counter() - began, before, most)


def _resident_bytes(root: int) -> int:
    """Return the memory of the largest process of a tree, which is the gateway itself."""
    sizes = [0]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "status").read_text()
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if root in (int(entry.name), int(parent)):
                sizes += [
                    int(line.split()[1]) * 1024
                    for line in status.splitlines()
                    if line.startswith("VmRSS:")
                ]
    return max(sizes)
