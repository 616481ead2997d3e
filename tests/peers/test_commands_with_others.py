"""The commands that speak DICOM, with programs of other people: DCMTK's storescp, and Orthanc."""

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,
)

from lenticular.cli import main
from lenticular.part10 import data_set_offset
from tests.audit_schema import problems
from tests.cloud.deadline import eventually
from tests.commands import lenticular
from tests.peers import dcmtk
from tests.peers.conftest import WORKSTATION, Clinic
from tests.peers.ct_files import ct_file
from tests.peers.destination import destination
from tests.peers.node_process import Node
from tests.peers.orthanc import AET, Orthanc, running_orthanc
from tests.ports import free_port

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def orthanc(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    allowed = {f"DicomAlwaysAllow{each}": True for each in ("Find", "Get", "Move")}
    folder = tmp_path_factory.mktemp("orthanc")
    with running_orthanc(folder, clinic.node, port=None, **allowed) as running:
        yield running


def study(folder: Path, uid: str, count: int = 3, **attributes: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [
        ct_file(folder, uid, f"{uid}.1", f"{uid}.1.{number}", rows=32, **attributes)
        for number in range(1, count + 1)
    ]


def data_sets(folder: Path) -> dict[str, bytes]:
    """Return the data set of each DICOM file below a folder, by SOP Instance UID."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".txt":
            file = path.read_bytes()
            uid = dcmread(path, stop_before_pixels=True).SOPInstanceUID
            found[str(uid)] = file[data_set_offset(file) :]
    return found


def facts(environment: Mapping[str, str], *arguments: str | Path) -> dict[str, Any]:
    """Run a command that prints one JSON object and ends well."""
    done = lenticular(environment, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_nodes_that_answer_an_echo_are_told_from_those_that_do_not(
    clinic: Clinic, workstation: Path
) -> None:
    del workstation
    nowhere = f"NOWHERE@127.0.0.1:{free_port()}"
    done = lenticular(clinic.node.environment(), "nodes", "echo", WORKSTATION, nowhere, "--json")
    assert done.returncode == 3
    answered, silent = map(json.loads, done.stdout.splitlines())
    assert (answered["aet"], answered["status"], answered["problem"]) == (WORKSTATION, "0000", None)
    assert answered["echo_ms"] > 0
    assert silent["status"] is None
    assert silent["problem"].startswith(f"{nowhere} cannot be reached: is it running")


def test_folders_are_sent_as_they_are_and_what_is_sent_is_not_sent_again(
    clinic: Clinic, workstation: Path, tmp_path: Path
) -> None:
    files = study(tmp_path / "files", "1.2.3.401")
    (tmp_path / "files" / "readme.txt").write_text("no DICOM")
    state = tmp_path / "state"
    command = ("send", WORKSTATION, tmp_path / "files", "--state", state, "--iod", "none")
    environment = clinic.node.environment()
    sent = facts(environment, *command)
    assert (sent["sent"], sent["not_dicom"], sent["not_sent"]) == (3, 1, 0)
    assert data_sets(workstation) == data_sets(tmp_path / "files")
    for path in workstation.iterdir():
        path.unlink()
    ct_file(tmp_path / "files", "1.2.3.401", "1.2.3.401.1", "1.2.3.401.1.9")
    # As a crash leaves it: the last line cut off, whose file is sent again.
    state.write_bytes(state.read_bytes()[:-10])
    again = facts(environment, *command)
    assert (again["sent"], again["sent_before"]) == (2, 2)
    assert data_sets(workstation).keys() == {files[2].stem, "1.2.3.401.1.9"}
    other = lenticular(environment, "send", "A@127.0.0.1:1", files[0], "--state", state)
    assert other.returncode == 2
    assert "is of another command" in other.stderr


def test_what_is_interrupted_goes_on_where_it_stopped(
    clinic: Clinic, workstation: Path, tmp_path: Path
) -> None:
    study(tmp_path / "files", "1.2.3.408", 4)
    state = tmp_path / "state"
    command = ("send", WORKSTATION, tmp_path / "files", "--state", state, "--iod", "none")
    environment = clinic.node.environment()
    # Where the tests run behind a shell's back it is ignored, and would be by what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The first at once, the next after a minute: however late we look, not all have been sent.
    slowly = [sys.executable, "-m", "lenticular.cli", *map(str, command), "--rate", "0.016"]
    with subprocess.Popen(slowly, env=environment, stderr=subprocess.PIPE, text=True) as sending:
        eventually(lambda: state.exists() and '"done"' in state.read_text("utf-8"))
        sending.send_signal(signal.SIGINT)
        _, told = sending.communicate(timeout=60)
    assert (sending.returncode, told) == (130, "interrupted\n")
    sent = state.read_text("utf-8").count('"done"')
    assert 1 <= sent < 4
    again = facts(environment, *command)
    assert (again["sent"], again["sent_before"]) == (4 - sent, sent)
    assert data_sets(workstation) == data_sets(tmp_path / "files")


def test_files_that_must_not_be_sent_are_told_and_the_others_sent(
    clinic: Clinic, workstation: Path, tmp_path: Path
) -> None:
    good, unknown, other, broken = study(tmp_path / "files", "1.2.3.402", 4)
    whole = broken.read_bytes()
    broken.write_bytes(whole[:132] + b"\x08\x00" + whole[134:])
    data_set = dcmread(unknown)
    unknown_class = UID("1.2.840.10008.5.1.4.99")
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID = unknown_class
    data_set.save_as(unknown)
    other.write_bytes(other.read_bytes().replace(b"1.2.3.402.1.3\0", b"1.2.3.402.1.4\0", 1))
    done = lenticular(
        clinic.node.environment(), "send", WORKSTATION, tmp_path / "files", "--iod", "none"
    )
    assert done.returncode == 4
    told = {line.partition(": ")[0]: line.partition(": ")[2] for line in done.stderr.splitlines()}
    assert "group 0002 is not valid" in told[str(broken)]
    assert "storage class 1.2.840.10008.5.1.4.99 is not known" in told[str(unknown)]
    assert "SOP Instance UID of the data set is not" in told[str(other)]
    assert data_sets(workstation).keys() == {good.stem}


def test_files_that_break_their_iod_are_held_back_where_that_is_wanted(
    clinic: Clinic, workstation: Path, tmp_path: Path
) -> None:
    study(tmp_path / "files", "1.2.3.403", 1)
    command = ("send", WORKSTATION, tmp_path / "files", "--iod")
    rejected = lenticular(clinic.node.environment(), *command, "reject", "--json")
    assert (rejected.returncode, json.loads(rejected.stdout)["not_sent"]) == (4, 1)
    assert "errors by its IOD" in rejected.stderr
    assert not list(workstation.iterdir())
    warned = lenticular(clinic.node.environment(), *command, "warn", "--json")
    assert (warned.returncode, json.loads(warned.stdout)["sent"]) == (0, 1)
    assert "errors by its IOD" in warned.stderr


def test_what_a_peer_does_not_take_is_told(clinic: Clinic, tmp_path: Path) -> None:
    port = free_port()
    nowhere = lenticular(
        clinic.node.environment(), "send", f"A@127.0.0.1:{port}", *study(tmp_path, "1.2.3.404", 1)
    )
    assert nowhere.returncode == 3
    assert "cannot be reached" in nowhere.stderr
    # Refuses everything: an association without a context that it accepts.
    with dcmtk.receiver(tmp_path / "received", "A", port, "--refuse"):
        refused = lenticular(
            clinic.node.environment(), "send", f"A@127.0.0.1:{port}", tmp_path / "1.2.3.404.1.1.dcm"
        )
    assert refused.returncode == 3
    assert "refused the association" in refused.stderr


def test_a_peer_that_breaks_off_each_time_is_given_up(clinic: Clinic, tmp_path: Path) -> None:
    files = study(tmp_path / "files", "1.2.3.407", 2)
    port = free_port()
    with dcmtk.receiver(tmp_path / "received", "A", port, "--abort-after"):
        done = lenticular(
            clinic.node.environment(),
            *("send", f"A@127.0.0.1:{port}", tmp_path / "files", "--retries", "1"),
            *("--iod", "none", "--json"),
        )
    assert (done.returncode, json.loads(done.stdout)["not_sent"]) == (4, 2)
    assert all(str(file) in done.stderr for file in files)


def test_a_file_of_odd_length_is_sent_with_a_zero_behind_it(
    clinic: Clinic, workstation: Path, tmp_path: Path
) -> None:
    [file] = study(tmp_path, "1.2.3.406", 1)
    odd = file.read_bytes() + struct.pack("<HH2sH", 0x7FE1, 0x0010, b"LO", 3) + b"ODD"
    file.write_bytes(odd)
    facts(clinic.node.environment(), "send", WORKSTATION, file, "--iod", "none")
    [received] = workstation.iterdir()
    assert received.read_bytes().endswith(odd[data_set_offset(odd) :] + b"\0")
    assert file.read_bytes() == odd


def test_a_file_of_odd_length_is_imported_as_it_is(clinic: Clinic, tmp_path: Path) -> None:
    [file] = study(tmp_path, "1.2.3.407", 1)
    odd = file.read_bytes() + struct.pack("<HH2sH", 0x7FE1, 0x0010, b"LO", 3) + b"ODD"
    file.write_bytes(odd)
    facts(clinic.node.environment(), "import", "folder", file)
    [key] = clinic.node.object_keys("instances/1.2.3.407/")
    stored = clinic.node.client("s3").get_object(Bucket=clinic.node.bucket, Key=key)
    assert stored["Body"].read().endswith(odd[data_set_offset(odd) :])


def test_a_receiver_of_implicit_vr_alone_gets_the_same_values(
    clinic: Clinic, tmp_path: Path
) -> None:
    [file] = study(tmp_path, "1.2.3.405", 1, PatientID="IMPLICIT")
    port = free_port()
    with dcmtk.receiver(tmp_path / "received", "A", port, accept="+xi") as folder:
        facts(clinic.node.environment(), "send", f"A@127.0.0.1:{port}", file, "--iod", "none")
        [received] = folder.iterdir()
    assert dcmread(received).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert dcmread(received).to_json() == dcmread(file).to_json()


def test_a_file_that_cannot_be_read_is_told_and_the_others_sent(
    clinic: Clinic, tmp_path: Path
) -> None:
    first, second, third = study(tmp_path / "files", "1.2.3.440")
    # A regular file, of which the kernel gives nobody the beginning.
    broken = tmp_path / "files" / "broken.dcm"
    broken.symlink_to("/proc/self/mem")
    port = free_port()

    def on_store(_: C_STORE, __: Association) -> int:
        second.unlink(missing_ok=True)
        return 0

    with destination(port, "DEST", on_store=on_store) as receiving:
        # In this process, which has loaded what every command loads.
        done = CliRunner(env=clinic.node.environment()).invoke(
            main,
            ("send", f"DEST@127.0.0.1:{port}", str(tmp_path / "files"), "--iod", "none", "--json"),
        )
    assert done.exit_code == 4, done.output
    assert [each for each in (first, second, third) if f"{each}: cannot be" in done.stderr] == [
        second
    ]
    assert f"{broken}: cannot be read" in done.stderr
    assert receiving.uids == ["1.2.3.440.1.1", "1.2.3.440.1.3"]


def test_stored_studies_are_sent_found_got_and_exported(
    clinic: Clinic, workstation: Path, tmp_path: Path
) -> None:
    uid = "1.2.3.406"
    environment = clinic.node.environment()
    study(tmp_path / "files", uid, PatientID="STORED", PatientName="Müller^Ä", StudyDate="20260106")
    stored = facts(environment, "import", "folder", tmp_path / "files")
    assert stored["sent"] == 3
    query = ("find", "-k", "PatientName=Müller^Ä*", "-k", "StudyInstanceUID", "--json")
    found = eventually(
        lambda: lenticular(environment, *query, "-k", "NumberOfStudyRelatedInstances").stdout,
        until=lambda output: '"3"' in output,
    )
    assert json.loads(found)["StudyInstanceUID"] == uid

    assert facts(environment, "send", WORKSTATION, "--study", uid)["sent"] == 1
    originals = data_sets(tmp_path / "files")
    assert data_sets(workstation) == originals

    assert facts(environment, "get", uid, tmp_path / "got")["files"] == 3
    assert data_sets(tmp_path / "got") == originals
    assert [each.name for each in (tmp_path / "got" / uid).iterdir()] == [f"{uid}.1"]

    trail = tmp_path / "audit.jsonl"
    audited = {**environment, "LENTICULAR_AUDIT_FILE": str(trail)}
    assert facts(audited, "export", uid, tmp_path / "exported")["files"] == 3
    [line] = map(json.loads, trail.read_text("ascii").splitlines())
    assert (line["event"], line["action"], line["outcome"]) == ("Export", "R", 0)
    assert (line["study"], line["patient"], line["instances"]) == (uid, "STORED", 3)
    assert line["destination"] == (tmp_path / "exported").as_uri()
    assert problems(line["xml"]) == []
    records = dcmread(tmp_path / "exported" / "DICOMDIR").DirectoryRecordSequence
    s3 = clinic.node.client("s3")
    kept = {
        key.split("/")[3]: s3.get_object(Bucket=clinic.node.bucket, Key=key)["Body"].read()
        for key in clinic.node.object_keys(f"instances/{uid}/")
    }
    assert {
        str(each.ReferencedSOPInstanceUIDInFile): tmp_path.joinpath(
            "exported", *each.ReferencedFileID
        ).read_bytes()
        for each in records
        if each.DirectoryRecordType == "IMAGE"
    } == kept
    # DCMTK reads it too.
    dump = dcmtk.run("dcmdump", tmp_path / "exported" / "DICOMDIR")
    assert dump.count("[IMAGE]") == 3
    assert "dictionary" not in dcmtk.run("dcmftest", tmp_path / "exported" / "DICOMDIR")
    assert lenticular(environment, "export", uid, tmp_path / "exported").returncode == 2


def test_a_study_is_deleted_when_that_is_said_twice_and_comes_back(
    clinic: Clinic, tmp_path: Path
) -> None:
    uid = "1.2.3.430"
    environment = clinic.node.environment()
    files = study(tmp_path / "files", uid, 2, PatientID="DELETED")
    assert dcmtk.store(clinic.node, *files) == [0, 0]
    keys = ("PatientID=DELETED", "StudyInstanceUID", "NumberOfStudyRelatedInstances")
    before = eventually(
        lambda: dcmtk.find(clinic.node, "STUDY", *keys),
        until=lambda found: found and found[0]["0020,1208"] == "2",
    )
    planned = lenticular(environment, "delete", uid, "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert (plan["instances"], plan["deleted"]) == (2, False)
    assert plan["held_until"] > "2030"
    held = lenticular(environment, "delete", uid, "--yes", "--reason", "a test")
    assert held.returncode == 2
    assert "retention holds 1 of them" in held.stderr
    assert lenticular(environment, "delete", uid, "--yes").returncode == 2
    assert dcmtk.find(clinic.node, "STUDY", *keys) == before

    free = {**environment, "LENTICULAR_RETENTION_DAYS": "0"}
    assert lenticular(free, "delete", uid, "--yes", "--reason", "a test").returncode == 0
    assert not dcmtk.find(clinic.node, "STUDY", *keys)
    assert lenticular(environment, "rebuild-index").returncode == 0
    assert not dcmtk.find(clinic.node, "STUDY", *keys)
    listed = lenticular(environment, "deletions", "--json").stdout
    [deletion] = [each for each in map(json.loads, listed.splitlines()) if uid in str(each)]
    assert (deletion["state"], deletion["reason"]) == ("deleted", "a test")

    assert lenticular(environment, "restore", uid).returncode == 0
    assert dcmtk.find(clinic.node, "STUDY", *keys) == before
    dcmtk.get(clinic.node, tmp_path / "got", "STUDY", f"StudyInstanceUID={uid}")
    assert data_sets(tmp_path / "got") == data_sets(tmp_path / "files")


def test_what_is_stored_is_verified_and_what_is_wrong_ends_with_a_status_of_its_own(
    clinic: Clinic, tmp_path: Path
) -> None:
    uid = "1.2.3.431"
    environment = clinic.node.environment()
    assert dcmtk.store(clinic.node, *study(tmp_path, uid, 2)) == [0, 0]
    eventually(
        lambda: dcmtk.find(
            clinic.node, "STUDY", f"StudyInstanceUID={uid}", "NumberOfStudyRelatedInstances"
        ),
        until=lambda found: found and found[0]["0020,1208"] == "2",
    )
    # Other tests leave objects of theirs on the way to the index; in the end none is.
    state = tmp_path / "state"
    verify = ("verify", "--json", "--state", state)
    done = lenticular(environment, *verify)
    assert uid not in done.stdout
    whole = json.loads(done.stdout.splitlines()[-1])
    assert whole["bytes_read"] > 0
    sampled = lenticular(environment, "verify", "--json", "--sample", "0.000001", "--seed", "any")
    few = json.loads(sampled.stdout.splitlines()[-1])
    # What other tests left in quarantine is read all the same.
    assert few["bytes_read"] < whole["bytes_read"]
    assert few["seed"] == "any"
    # One that is finished is no reason to read nothing the next time.
    assert not state.exists()
    [key, _] = clinic.node.object_keys(f"instances/{uid}/")
    s3 = clinic.node.client("s3")
    version = s3.delete_object(Bucket=clinic.node.bucket, Key=key)["VersionId"]
    fresh = lenticular(environment, "verify", "--quick", "--json")
    assert fresh.returncode == 4
    found = [json.loads(line) for line in fresh.stdout.splitlines()]
    wanted = {"kind": "not in the bucket", "object_key": key, "repaired": False}
    assert wanted in found
    s3.delete_object(Bucket=clinic.node.bucket, Key=key, VersionId=version)
    again = lenticular(environment, "verify", "--quick", "--json")
    assert key not in again.stdout
    state.write_text('{"asked": {"verify": "another bucket", "quick": false}}\n')
    other = lenticular(environment, *verify)
    assert (other.returncode, "is of another command" in other.stderr) == (2, True)


def test_another_pacs_is_imported_once(clinic: Clinic, orthanc: Orthanc, tmp_path: Path) -> None:
    environment = clinic.node.environment()
    peer = f"{AET}@127.0.0.1:{orthanc.port}"
    for number, day in enumerate(("20260301", "20260302", "20260401"), 1):
        for file in study(tmp_path, f"1.2.3.41{number}", 2, PatientID=f"I{number}", StudyDate=day):
            orthanc.upload(file)
    found = lenticular(environment, "find", "--from", peer, "-k", "StudyDate=20260301-20260331")
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == ["StudyDate", "20260301", "20260302"]
    state = tmp_path / "state"
    command = ("import", "node", peer, "--dates", "20260301-20260305", "--state", state)
    first = facts(environment, *command)
    assert (first["sent"], first["sent_before"]) == (2, 0)
    assert len(clinic.node.object_keys("instances/1.2.3.411/")) == 2
    assert len(clinic.node.object_keys("instances/1.2.3.412/")) == 2
    assert not clinic.node.object_keys("instances/1.2.3.413/")
    again = facts(environment, *command)
    assert (again["sent"], again["sent_before"]) == (0, 2)
    assert facts(environment, "get", "1.2.3.413", tmp_path / "got", "--from", peer)["files"] == 2
    # Orthanc knows no such destination.
    lost = lenticular(
        {**environment, "LENTICULAR_AE_TITLE": "STRANGER"},
        *("import", "node", peer, "--study", "1.2.3.413", "--retries", "0"),
    )
    assert lost.returncode == 4
    assert "1.2.3.413: " in lost.stderr


def test_a_destination_that_the_other_pacs_does_not_know_is_named(
    clinic: Clinic, tmp_path: Path
) -> None:
    with pacs(clinic.node, study(tmp_path, "1.2.3.430", 1), 1) as peer:
        settings = {**clinic.node.environment(), "LENTICULAR_AE_TITLE": "STRANGER"}
        done = CliRunner(env=settings).invoke(main, ["import", "node", peer, "--retries", "0"])
    assert done.exit_code == 4
    assert "A801" in done.stderr
    assert "does not know STRANGER as a destination" in done.stderr


@contextmanager
def pacs(node: Node, files: Sequence[Path], says: int) -> Iterator[str]:
    """Run a PACS that says how many instances its study 1.2.3.430 has, and sends these files."""

    def on_find(_: evt.Event) -> Iterator[tuple[int, Dataset]]:
        match = Dataset()
        match.QueryRetrieveLevel, match.StudyInstanceUID = "STUDY", "1.2.3.430"
        match.NumberOfStudyRelatedInstances = says
        yield 0xFF00, match

    def on_move(event: evt.Event) -> Iterator[Any]:
        if event.move_destination != node.aet:
            yield None, None
            return
        contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
        yield node.host, node.port, {"ae_title": node.aet, "contexts": contexts}
        yield len(files)
        for file in files:
            yield 0xFF00, dcmread(file)

    ae = AE("PACS")
    ae.add_supported_context(StudyRootFind)
    ae.add_supported_context(StudyRootMove)
    handlers: list[Any] = [(evt.EVT_C_FIND, on_find), (evt.EVT_C_MOVE, on_move)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield f"PACS@127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("sent", "says", "told"),
    [
        (0, 0, "sent 0 of its instances"),
        (0, 2, "sent 0 of 2 instances"),
        (1, 2, "sent 1 of 2 instances"),
        (2, 2, None),
        (2, 0, None),
    ],
)
def test_a_study_is_imported_when_all_of_it_came(
    clinic: Clinic, tmp_path: Path, sent: int, says: int, told: str | None
) -> None:
    files = study(tmp_path, "1.2.3.430", 2)[:sent]
    state = tmp_path / "state"
    with pacs(clinic.node, files, says) as peer:
        command = ("import", "node", peer, "--retries", "1", "--state", str(state))
        # In this process, which has loaded what every command loads.
        done = CliRunner(env=clinic.node.environment()).invoke(main, command)
    assert done.exit_code == (4 if told else 0), done.output
    assert (told or "") in done.stderr
    assert ("1.2.3.430" in state.read_text()) == (told is None)


def test_holdings_are_counted_by_modality_month_and_sender(clinic: Clinic, tmp_path: Path) -> None:
    environment = clinic.node.environment()
    files = study(tmp_path / "files", "1.2.3.420", 2, StudyDate="19700105")
    named = {**environment, "LENTICULAR_CALLING_AE_TITLE": "COUNTED"}
    facts(named, "import", "folder", tmp_path / "files")

    def counted() -> list[dict[str, Any]]:
        done = lenticular(
            environment, "stats", "--by", "node", "--by", "month", "--by", "modality", "--json"
        )
        rows = map(json.loads, done.stdout.splitlines())
        return [row for row in rows if row["node"] == "COUNTED"]

    [row] = eventually(counted, until=lambda rows: rows and rows[0]["instances"] == 2)
    size = sum(map(len, data_sets(tmp_path / "files").values()))
    assert (row["month"], row["modality"], row["studies"]) == ("1970-01", "CT", 1)
    assert size < row["received_bytes"] == row["stored_bytes"] < size + 2000
    assert row["gained"] is None
    assert len(files) == 2
    table = lenticular(environment, "stats").stdout.splitlines()
    assert table[0].split()[0] == "modality"
    assert table[-1].startswith("all")
