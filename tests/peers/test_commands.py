"""The operator's commands against a running node, and what they say when something is wrong."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lenticular.cli import main
from tests.cloud.deadline import eventually
from tests.commands import lenticular
from tests.peers import dcmtk
from tests.peers.conftest import Clinic
from tests.peers.ct_files import ct_file
from tests.ports import free_port

pytestmark = pytest.mark.peers


def test_what_was_quarantined_is_listed_and_shown_and_stays_while_nothing_changes(
    clinic: Clinic, tmp_path: Path
) -> None:
    file = ct_file(tmp_path, "", "1.2.3.1", "1.2.3.99.1", PatientName="Secret^Name")
    environment = clinic.node.environment()
    assert dcmtk.store(clinic.node, file) == [0]
    listed = eventually(
        lambda: lenticular(environment, "quarantine", "list", "--json").stdout,
        until=lambda output: "1.2.3.99.1" in output,
    )
    [item] = [each for each in map(json.loads, listed.splitlines()) if "1.2.3.99.1" in str(each)]
    assert item["reason"] == "the data set has no valid Study Instance UID"
    shown = lenticular(environment, "quarantine", "show", item["object_key"], "--json")
    facts = json.loads(shown.stdout)
    assert (facts["sop_instance_uid"], facts["calling_ae_title"]) == ("1.2.3.99.1", "STORESCU")
    retried = lenticular(environment, "quarantine", "retry", item["object_key"])
    assert retried.returncode == 4
    assert "no valid Study Instance UID" in retried.stdout
    assert "1.2.3.99.1" in lenticular(environment, "quarantine").stdout
    assert "Secret" not in listed + shown.stdout + retried.stdout


def test_a_rebuild_leaves_what_can_be_found_as_it_was(clinic: Clinic, tmp_path: Path) -> None:
    node = clinic.node
    file = ct_file(tmp_path, "1.2.3.98", "1.2.3.98.1", "1.2.3.98.1.1", PatientID="REBUILD")
    dcmtk.store(node, file)
    keys = ("PatientID=REBUILD", "StudyInstanceUID", "NumberOfStudyRelatedInstances")
    before = eventually(lambda: dcmtk.find(node, "STUDY", *keys))
    done = lenticular(node.environment(), "rebuild-index")
    assert done.returncode == 0, done.stderr
    assert dcmtk.find(node, "STUDY", *keys) == before


def test_an_index_is_not_emptied_by_a_bucket_that_is_not_its_own(
    clinic: Clinic, tmp_path: Path
) -> None:
    node = clinic.node
    file = ct_file(tmp_path, "1.2.3.97", "1.2.3.97.1", "1.2.3.97.1.1", PatientID="NOT EMPTIED")
    dcmtk.store(node, file)
    keys = ("PatientID=NOT EMPTIED", "StudyInstanceUID", "NumberOfStudyRelatedInstances")
    before = eventually(lambda: dcmtk.find(node, "STUDY", *keys))
    node.client("s3").create_bucket(Bucket="drill")
    done = lenticular({**node.environment(), "LENTICULAR_BUCKET": "drill"}, "rebuild-index")
    assert done.returncode == 2, done.stderr
    assert "have nothing in drill" in done.stderr
    assert dcmtk.find(node, "STUDY", *keys) == before


def test_nodes_are_added_exported_imported_and_removed(clinic: Clinic, tmp_path: Path) -> None:
    environment = clinic.node.environment()
    before = lenticular(environment, "nodes", "export").stdout
    added = lenticular(
        environment, "nodes", "add", "CT 7", "10.0.0.7", "104", "--may", "store", "--may", "mpps",
        "--tls", "any-host",
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    listed = lenticular(environment, "nodes", "list", "--json").stdout
    [node] = [each for each in map(json.loads, listed.splitlines()) if each["aet"] == "CT 7"]
    assert node == {
        "aet": "CT 7",
        "address": "10.0.0.7",
        "port": 104,
        "may": ["mpps", "store"],
        "associations": "one-per-retrieval",
        "tls": "any-host",
    }
    file = tmp_path / "nodes.yaml"
    file.write_text(lenticular(environment, "nodes", "export").stdout)
    assert lenticular(environment, "nodes", "remove", "CT 7").returncode == 0
    assert lenticular(environment, "nodes", "export").stdout == before
    assert lenticular(environment, "nodes", "import", file).returncode == 0
    assert "CT 7" in lenticular(environment, "nodes", "list").stdout
    file.write_text(before)
    assert lenticular(environment, "nodes", "import", "--replace", file).returncode == 0
    assert lenticular(environment, "nodes", "export").stdout == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nodes", "add", "TOO LONG TO BE AN AET", "10.0.0.7"), "aet must be 1 to 16"),
        (("nodes", "remove", "NOBODY"), "there is no node 'NOBODY'"),
        (("nodes", "import", "/no/such/file"), "cannot be read"),
        (("send", "NOBODY", "."), "there is no node 'NOBODY'"),
        (("send", "NOBODY@host", "."), "is not AET@address:port"),
        (("send", "A@127.0.0.1:1", "/no/such/folder"), "there is no file or folder"),
        (("send", "A@127.0.0.1:1"), "name files and folders, or studies"),
        (("find", "-k", "NoSuchKeyword=1"), "there is no attribute"),
        (("get", "../../etc", "folder"), "is not a UID"),
        (("export", "1.2.3.404", "folder"), "there is no study 1.2.3.404"),
        (("import", "node", "A@127.0.0.1:1", "--dates", "2024"), "is not YYYYMMDD-YYYYMMDD"),
        (("quarantine", "show", "instances/1"), "is not in quarantine"),
        (("verify", "--quick", "--sample", "5"), "there is nothing to --sample"),
        (("verify", "--seed", "march"), "give both"),
        (("procedures", "show", "1.2.3.404"), "there is no performed procedure step"),
        (("commitments", "show", "NOBODY", "1.2.3.404"), "1.2.3.404"),
        (("dead-letters", "show", "nothing"), "the stack has no queue nothing"),
        (("send", "A@127.0.0.1:1", __file__), "test_commands.py: 1 other files"),
    ],
)
def test_what_was_typed_wrong_is_told_in_a_sentence(
    clinic: Clinic, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    arguments = tuple(str(tmp_path / each) if each == "folder" else each for each in arguments)
    # In this process, which has loaded what every command loads.
    done = CliRunner(env=clinic.node.environment()).invoke(main, arguments)
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert told in done.stderr


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("AWS_DEFAULT_REGION", "AWS is not configured"),
        ("LENTICULAR_TABLE", "LENTICULAR_TABLE is not set"),
    ],
)
def test_what_is_missing_is_told_in_a_sentence(clinic: Clinic, missing: str, told: str) -> None:
    environment = clinic.node.environment()
    del environment[missing]
    done = lenticular(environment, "nodes", "list")
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.parametrize(
    ("wrong", "command", "told"),
    [
        ({"LENTICULAR_BUCKET": "elsewhere"}, "verify --quick", "NoSuchBucket; AWS has no such"),
        ({"LENTICULAR_BUCKET": "No bucket"}, "verify --quick", "look at LENTICULAR_BUCKET"),
        (
            {"LENTICULAR_TABLE": "elsewhere"},
            "stats",
            "look at LENTICULAR_TABLE, AWS_DEFAULT_REGION",
        ),
        ({"AWS_DEFAULT_REGION": "eu-west-3"}, "nodes list", "look at LENTICULAR_TABLE, AWS_DEF"),
        ({"LENTICULAR_STACK": "elsewhere"}, "dead-letters list", "no stack elsewhere has queues"),
        ({"AWS_ACCESS_KEY_ID": None}, "nodes list", "NoCredentialsError; there are no AWS"),
    ],
)
def test_what_aws_would_refuse_again_is_told_with_what_to_change(
    clinic: Clinic, wrong: dict[str, str | None], command: str, told: str
) -> None:
    done = CliRunner(env={**clinic.node.environment(), **wrong}).invoke(main, command.split())
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert told in done.stderr


def test_a_disk_that_takes_nothing_is_told_and_no_peer_is_blamed(
    clinic: Clinic, tmp_path: Path
) -> None:
    node = clinic.node
    dcmtk.store(node, ct_file(tmp_path, "1.2.3.96", "1.2.3.96.1", "1.2.3.96.1.1"))
    eventually(lambda: dcmtk.find(node, "STUDY", "StudyInstanceUID=1.2.3.96"))
    done = CliRunner(env=node.environment()).invoke(main, ["get", "1.2.3.96", "/proc/nowhere"])
    assert (done.exit_code, done.stderr) == (1, "/proc/nowhere: No such file or directory\n")


def test_a_table_that_cannot_be_reached_is_told_in_a_sentence(clinic: Clinic) -> None:
    environment = clinic.node.environment()
    environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{free_port()}"
    environment["AWS_MAX_ATTEMPTS"] = "1"
    done = lenticular(environment, "stats")
    assert done.returncode == 1
    assert "did not answer" in done.stderr
