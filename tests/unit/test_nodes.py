"""The nodes file: what it may say, and what a person is told when it is wrong."""

import socket
import threading
from ipaddress import ip_network
from pathlib import Path
from time import monotonic

import pytest

from lenticular.aws import dynamodb_client
from lenticular.errors import NodesFileError, StoreUnavailable
from lenticular.nodes import (
    PERMISSIONS,
    Node,
    NodeTable,
    entry_of,
    node_of,
    read_nodes_file,
)
from tests.cloud.deadline import eventually


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "nodes.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_node_may_do_everything_by_default(tmp_path: Path) -> None:
    path = _file(tmp_path, "nodes:\n  - {aet: WORKSTATION, address: 192.168.1.20, port: 104}\n")
    (node,) = read_nodes_file(path)
    assert node == Node("WORKSTATION", "192.168.1.20", 104, frozenset(PERMISSIONS))
    assert node.addresses == (ip_network("192.168.1.20/32"),)


def test_a_node_gets_one_association_for_a_retrieval_unless_it_takes_single_instances(
    tmp_path: Path,
) -> None:
    text = "nodes: [{aet: A, address: a}, {aet: B, address: b, associations: one-per-instance}]"
    nodes = read_nodes_file(_file(tmp_path, text))
    assert [node.associations for node in nodes] == ["one-per-retrieval", "one-per-instance"]


def test_a_node_is_called_without_tls_unless_it_says_so(tmp_path: Path) -> None:
    text = "nodes: [{aet: A, address: a}, {aet: B, address: b, tls: host}]"
    nodes = read_nodes_file(_file(tmp_path, text))
    assert [node.tls for node in nodes] == ["none", "host"]
    assert [node_of(entry_of(node)) for node in nodes] == nodes


def test_a_cidr_is_for_receiving_only(tmp_path: Path) -> None:
    path = _file(tmp_path, "nodes:\n  - {aet: CT, address: 10.0.0.0/8, may: [store]}\n")
    (node,) = read_nodes_file(path)
    assert (node.port, node.may) == (None, frozenset({"store"}))


def test_an_empty_file_has_no_nodes(tmp_path: Path) -> None:
    assert read_nodes_file(_file(tmp_path, "")) == []
    assert read_nodes_file(_file(tmp_path, "nodes:\n")) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nodes: [\n", "not valid YAML"),
        ("node: []\n", "one list named `nodes`"),
        ("nodes: CT\n", "must be a list"),
        ("nodes: [CT]\n", "node 1: must be a mapping"),
        ("nodes: [{aet: CT}]\n", "node 1: address must be"),
        ("nodes: [{aet: 'A\\B', address: a}]\n", "node 1: aet must be"),
        ("nodes: [{aet: CT, address: a, ports: 1}]\n", "unknown ports"),
        ("nodes: [{aet: CT, address: a, port: 0}]\n", "port must be"),
        ("nodes: [{aet: CT, address: a, port: true}]\n", "port must be"),
        ("nodes: [{aet: CT, address: 10.0.0.0/99}]\n", "looks like a CIDR but is not one"),
        ("nodes: [{aet: CT, address: 10.0.0.999}]\n", "looks like an IP address but is not one"),
        ("nodes: [{aet: CT, address: 10.0.0.0/8, port: 104}]\n", "leave out port"),
        ("nodes: [{aet: CT, address: a, may: [print]}]\n", "may must be"),
        ("nodes: [{aet: CT, address: a, associations: 1}]\n", "one-per-instance"),
        ("nodes: [{aet: CT, address: a, tls: yes}]\n", "tls must be one of none, host, any-host"),
        ("nodes: [{aet: CT, address: a}, {aet: CT, address: b}]\n", "node 2: CT is there twice"),
    ],
)
def test_a_wrong_file_is_told_in_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(NodesFileError) as caught:
        read_nodes_file(_file(tmp_path, text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(NodesFileError, match=r"nowhere\.yaml cannot be read"):
        read_nodes_file(tmp_path / "nowhere.yaml")


def table_at(port: int, monkeypatch: pytest.MonkeyPatch) -> NodeTable:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{port}")
    return NodeTable(dynamodb_client(), "any", cache_seconds=0)


def test_a_table_that_does_not_answer_keeps_nobody_waiting_for_longer_than_they_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        table = table_at(silent.getsockname()[1], monkeypatch)
        told: list[str] = []

        def find() -> None:
            try:
                table.find("CT1", first_patience_seconds=0.2)
            except StoreUnavailable as error:
                told.append(str(error))

        seekers = [threading.Thread(target=find) for _ in range(10)]
        began = monotonic()
        for seeker in seekers:
            seeker.start()
        for seeker in seekers:
            seeker.join()
    assert told == ["the nodes have not been read yet"] * 10
    # One after the other they would have waited for the first one's answer.
    assert monotonic() - began < 5
    eventually(threading.active_count, until=threads.__ge__)


def test_a_table_that_is_away_is_told_of_once_and_read_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    table = table_at(port, monkeypatch)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="the nodes cannot be read: EndpointConn"):
            table.find("CT1")
    assert [record.message for record in caplog.records] == ["nodes not read"]
    scanner = Node("CT1", "10.0.0.7", None, frozenset({"store"}))
    monkeypatch.setattr(table, "all", lambda: [scanner])
    assert table.find("CT1") == scanner
    monkeypatch.setattr(table, "all", list)
    eventually(lambda: table.find("CT1"), until=lambda found: found is None)
