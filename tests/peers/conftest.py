"""Nodes and peers that tests of this folder share."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import dcmtk
from tests.peers.node_process import Node, running_node

WORKSTATION = "WORKSTATION"


def free_port() -> int:
    """Return a port that was free a moment ago, for servers that cannot say which one they took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Clinic:
    """A node, and a workstation it may send to."""

    node: Node
    workstation_port: int


@pytest.fixture(scope="session")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Run one node for all tests that do not break it; each test stores studies of its own."""
    with _running_clinic(tmp_path_factory.mktemp("clinic")) as running:
        yield running


@pytest.fixture
def empty_clinic(tmp_path: Path) -> Iterator[Clinic]:
    """Run a node for one test that looks at everything in it."""
    with _running_clinic(tmp_path) as running:
        yield running


@contextmanager
def _running_clinic(folder: Path) -> Iterator[Clinic]:
    port = free_port()
    nodes = folder / "nodes.yaml"
    nodes.write_text(f"nodes:\n  - {{aet: {WORKSTATION}, address: 127.0.0.1, port: {port}}}\n")
    with running_node(folder / "node.log", "--nodes", str(nodes)) as node:
        yield Clinic(node, port)


@pytest.fixture
def workstation(clinic: Clinic, tmp_path: Path) -> Iterator[Path]:
    """Run storescp as the workstation; yield the folder it receives into."""
    with dcmtk.receiver(tmp_path / "received", WORKSTATION, clinic.workstation_port) as folder:
        yield folder
