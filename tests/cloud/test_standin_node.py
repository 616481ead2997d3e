"""The node starts, is watched over and ends as a person at a terminal expects."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from infra.local import ROOT
from infra.local.cloud import Clients, clients
from infra.local.node import aws_environment
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud

_MODULES: Final = {
    "infra.local.moto_server": "moto",
    "infra.local.function_worker": "function",
    "gateway": "gateway",
}
_FREE: Final = ("--port", "0", "--aws-port", "0")


def _start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "infra.local", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _children(pid: int) -> dict[str, int]:
    """Return the node's processes by what they are; of the functions, that which indexes."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError):
            command = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            # The tether has the command in its arguments until it becomes it.
            if command[1:2] == ["-m"] and command[2] in _MODULES:
                name = _MODULES[command[2]]
                if name != "function" or "IndexFunction" in command[3]:
                    found[name] = int(child)
    return found


@dataclass
class RunningNode:
    """A started node and the line by which it said so."""

    process: "subprocess.Popen[str]"
    line: str
    log: list[str]

    @property
    def ready(self) -> dict[str, str]:
        """What the line says."""
        said: dict[str, str] = json.loads(self.line.removeprefix("ready "))
        return said

    @property
    def address(self) -> tuple[str, int]:
        """Where the gateway listens."""
        host, _, port = self.ready["dimse"].rpartition(":")
        return host, int(port)

    def children(self) -> dict[str, int]:
        """Return the process ids of its children by what they are."""
        return _children(self.process.pid)

    def cloud(self) -> Clients:
        """Make clients of its AWS."""
        return clients(aws_environment(self.ready["aws"], {}))

    def logged(self, text: str) -> None:
        """Wait until the log has the text."""
        eventually(lambda: text in "".join(self.log))


@contextlib.contextmanager
def _running(*arguments: str, **environment: str) -> Iterator[RunningNode]:
    process = _start(*_FREE, *arguments, **environment)
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    reading = threading.Thread(target=log.extend, args=(process.stderr,))
    reading.start()
    try:
        line = process.stdout.readline()
        assert line.startswith("ready "), "".join(log)
        yield RunningNode(process, line, log)
    finally:
        process.kill()
        process.wait()
        reading.join()
        process.stdout.close()
        process.stderr.close()


def _order_of_ends(pids: dict[str, int], act: Callable[[], object]) -> list[str]:
    """Do something and return the names of the processes in the order in which they end."""
    poll = select.poll()
    names = {os.pidfd_open(pid): name for name, pid in pids.items()}
    for descriptor in names:
        poll.register(descriptor, select.POLLIN)
    act()
    ended: list[str] = []
    while len(ended) < len(pids):
        ready = poll.poll(30_000)
        assert ready, f"still running after 30 s: {set(names.values()) - set(ended)}"
        for descriptor, _ in ready:
            ended.append(names[descriptor])
            poll.unregister(descriptor)
            os.close(descriptor)
    return ended


def _accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """Run a node for tests that leave it as it was, in the environment of a person with AWS."""
    config = tmp_path_factory.mktemp("aws") / "config"
    config.write_text("[profile production]\nendpoint_url = http://127.0.0.1:1\n")
    with _running(
        LENTICULAR_AE_TITLE="CLINIC",
        AWS_PROFILE="production",
        AWS_CONFIG_FILE=str(config),
        AWS_ENDPOINT_URL="http://127.0.0.1:1",
        AWS_ENDPOINT_URL_SQS="http://127.0.0.1:1",
        HTTP_PROXY="http://127.0.0.1:1",
    ) as running:
        yield running


def test_one_line_says_where_a_client_may_connect(node: RunningNode) -> None:
    assert re.fullmatch(r'ready \{"dimse": "127\.0\.0\.1:\d+", .*\}\n', node.line)
    ready = node.ready
    assert list(ready) == ["dimse", "aet", "aws", "bucket", "table"]
    assert _accepts(node.address)
    node.cloud().s3.head_bucket(Bucket=ready["bucket"])
    node.cloud().dynamodb.describe_table(TableName=ready["table"])


def test_a_person_is_told_what_to_try(node: RunningNode) -> None:
    port = node.address[1]
    node.logged(f"echoscu -aec CLINIC 127.0.0.1 {port}\n")
    node.logged(f"dcmsend -aec CLINIC +sd +r 127.0.0.1 {port} FOLDER\n")
    node.logged("findscu -S -aec CLINIC -k QueryRetrieveLevel=STUDY")


def test_settings_of_the_gateway_may_come_from_the_environment(node: RunningNode) -> None:
    assert node.ready["aet"] == "CLINIC"


def test_ctrl_c_in_a_terminal_reaches_the_node_only(node: RunningNode) -> None:
    for pid in node.children().values():
        assert os.getsid(pid) == pid


@pytest.mark.parametrize("name", ["gateway", "function"])
def test_what_dies_is_started_again(node: RunningNode, name: str) -> None:
    before = node.children()
    os.kill(before[name], signal.SIGKILL)
    after = eventually(node.children, until=lambda now: now.get(name, before[name]) != before[name])
    assert {**after, name: 0} == {**before, name: 0}
    node.logged("ended with exit status -9; it is started again")
    eventually(lambda: _accepts(node.address))


def test_it_ends_gateway_first_then_the_functions_when_all_is_indexed_then_moto() -> None:
    with _running() as node:
        s3 = node.cloud().s3
        for number in range(40):
            s3.put_object(Bucket=node.ready["bucket"], Key=f"quarantine/{number}.dcm", Body=b"")
        order = _order_of_ends(node.children(), lambda: node.process.send_signal(signal.SIGINT))
        assert order == ["gateway", "function", "moto"]
        assert node.process.wait(30) == 0
        assert node.process.stdout is not None
        assert node.process.stdout.read() == ""
    log = "".join(node.log)
    # S3's test message makes one more.
    assert sum(map(int, re.findall(r'"messages":\s*(\d+)', log))) == 41
    assert "Traceback" not in log


def test_sigterm_ends_it_as_ctrl_c_does() -> None:
    with _running() as node:
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(30) == 0


def test_nothing_outlives_a_node_that_is_killed() -> None:
    with _running() as node:
        children = node.children()
        assert set(children) == {"gateway", "function", "moto"}
        assert set(_order_of_ends(children, node.process.kill)) == set(children)


def test_without_moto_the_node_ends_and_says_so() -> None:
    with _running() as node:
        children = node.children()
        order = _order_of_ends(children, lambda: os.kill(children["moto"], signal.SIGKILL))
        assert order[0] == "moto"
        assert node.process.wait(30) == 1
        node.logged("moto ended with exit status -9")


def test_a_dynamodb_of_the_persons_own_holds_the_table_and_outlives_the_node(
    cloud: OfflineCloud,
) -> None:
    elsewhere = cloud.clients.dynamodb

    def stored_through_a_node(key: str) -> set[str]:
        with _running(AWS_ENDPOINT_URL_DYNAMODB=cloud.endpoint) as node:
            assert node.cloud().dynamodb.list_tables()["TableNames"] == []
            node.cloud().s3.put_object(Bucket=node.ready["bucket"], Key=key, Body=b"unreadable")

            def indexed() -> set[str]:
                items = elsewhere.scan(TableName=node.ready["table"])["Items"]
                return {item["sk"]["S"] for item in items}

            return eventually(indexed, until=lambda keys: key in keys)

    stored_through_a_node("quarantine/1.dcm")
    both = stored_through_a_node("quarantine/2.dcm")
    assert both == {"quarantine/1.dcm", "quarantine/2.dcm"}


@contextlib.contextmanager
def _taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield str(listening.getsockname()[1])


def _refusal(*arguments: str, **environment: str) -> str:
    """Start a node that must not start and return the one sentence it says."""
    process = _start(*arguments, **environment)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2, error
    assert out == ""
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("option", ["--port", "--aws-port"])
def test_a_port_in_use_is_told_in_a_sentence(option: str) -> None:
    with _taken_port() as port:
        arguments = [*_FREE]
        arguments[arguments.index(option) + 1] = port
        assert (
            f"cannot listen on 127.0.0.1 port {port} (Address already in use): "
            f"choose another with {option}\n" == _refusal(*arguments)
        )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--nodes", "/nowhere/nodes.yaml"), "/nowhere/nodes.yaml"),
        (("--set", "Colour=red"), "the template has no parameter Colour; it has: "),
        (("--set", "LogLevel=LOUD"), "parameter LogLevel must be one of DEBUG, INFO"),
        (("--set", "LogLevel"), "'LogLevel' is not NAME=VALUE"),
        (("--access", "sometimes"), "LENTICULAR_ACCESS must be one of open"),
        (("--aet", "MUCH TOO LONG AN AE TITLE"), "LENTICULAR_AE_TITLE must be"),
        (("--port", "high"), "LENTICULAR_PORT must be a whole number from 0 to 65535"),
        (("--aws-port", "70000"), "'70000' is no port"),
        (("--host", "no.such.host.invalid"), "cannot listen on no.such.host.invalid"),
        (("--colour", "red"), "unrecognized arguments: --colour red"),
        (("--template", "/nowhere.yaml"), "template /nowhere.yaml cannot be read"),
    ],
)
def test_a_wrong_option_is_told_in_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in _refusal(*_FREE, *arguments)


def test_a_bad_nodes_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text("nodes:\n  - aet: A\n    address: 127.0.0.1\n    port: high\n")
    assert "node 1: port must be a whole number" in _refusal(*_FREE, "--nodes", str(nodes))


def test_packages_that_are_not_installed_are_told_in_a_sentence() -> None:
    # Without site-packages.
    command = [sys.executable, "-S", "-E", "-m", "infra.local"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert re.fullmatch(
        r"missing Python packages: .*boto3, .*`make run` installs them\n", ended.stderr
    )


def test_another_s3_is_refused_because_nothing_would_be_indexed() -> None:
    sentence = _refusal(*_FREE, AWS_ENDPOINT_URL_S3="http://127.0.0.1:1")
    assert sentence.startswith("AWS_ENDPOINT_URL_S3 is set, but only moto's S3 tells")


def test_another_dynamodb_that_does_not_answer_is_told_in_a_sentence() -> None:
    sentence = _refusal(*_FREE, AWS_ENDPOINT_URL_DYNAMODB="http://127.0.0.1:1")
    assert "Table could not be created: Could not connect to the endpoint URL" in sentence


def test_a_template_without_the_gateways_outputs_is_told_in_a_sentence(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(
        "Transform: AWS::Serverless-2016-10-31\nResources: {Queue: {Type: AWS::SQS::Queue}}\n"
    )
    sentence = _refusal(*_FREE, "--template", str(template))
    assert sentence == "the template has no output BucketName\n"


def test_a_gateway_that_cannot_start_says_why_itself(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(
        "Transform: AWS::Serverless-2016-10-31\n"
        "Resources: {Bucket: {Type: AWS::S3::Bucket}}\n"
        "Outputs: {BucketName: {Value: !Ref Bucket}, TableName: {Value: nowhere}}\n"
    )
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text("nodes: [{aet: A, address: 127.0.0.1}]\n")
    process = _start(*_FREE, "--template", str(template), "--nodes", str(nodes))
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "ResourceNotFoundException" in error
    assert error.endswith("the gateway ended at start with exit status 1\n")
    assert "Traceback" not in error
