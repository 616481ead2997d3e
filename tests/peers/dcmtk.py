"""DCMTK's programs as clients and servers of a node: not ours, from Debian."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.cloud.deadline import eventually
from tests.peers.node_process import Node

#: DCMTK looks nothing up, and answers in English.
ENVIRONMENT = {**os.environ, "LC_ALL": "C", "TCP_NODELAY": "1"}
_SECONDS = 120
_STATUS = re.compile(r"0x([0-9A-Fa-f]{4})")


class PeerFailed(AssertionError):
    """A DCMTK program said that something went wrong."""


def run(program: str, *arguments: str | Path, check: bool = True) -> str:
    """Run a program to its end and return what it printed."""
    path = shutil.which(program)
    assert path, f"{program} is not installed: apt-get install dcmtk"
    done = subprocess.run(
        [path, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_SECONDS,
        check=False,
    )
    # Values come in the peer's character set; as Latin-1 they can at least be looked at.
    output = done.stdout.decode("latin-1")
    if check and done.returncode != 0:
        raise PeerFailed(f"{program} ended with {done.returncode}: {output[-2000:]}")
    return output


def echo(node: Node, *options: str) -> str:
    """Verify the connection."""
    return run("echoscu", "-v", "-aec", node.aet, *options, node.host, str(node.port))


def store(node: Node, *files: Path, options: tuple[str, ...] = ()) -> list[int]:
    """Send files and return the status of each C-STORE-RSP."""
    output = run(
        "storescu", "-d", "-aec", node.aet, *options, node.host, str(node.port), *files, check=False
    )
    responses = output.split("Message Type                  : C-STORE RSP")[1:]
    return [int(_status_of(response), 16) for response in responses]


def _status_of(response: str) -> str:
    found = _STATUS.search(response.partition("DIMSE Status")[2])
    assert found, response[:500]
    return found.group(1)


def find(node: Node, level: str, *keys: str, model: str = "-S") -> list[dict[str, str]]:
    """Query, and return each answer as texts by tag, `0020,000d`; empty values are empty texts."""
    arguments = [part for key in keys for part in ("-k", key)]
    output = run(
        "findscu", "-v", model, "-aec", node.aet, "-k", f"QueryRetrieveLevel={level}", *arguments,
        node.host, str(node.port),
    )  # fmt: skip
    if "Failed" in output or "Refused" in output or "Error" in output:
        raise PeerFailed(output)
    answers = re.split(r"Find Response: \d+ \(Pending[^)]*\)", output)[1:]
    return [_elements(answer) for answer in answers]


@dataclass(frozen=True)
class Answered:
    """What came for one identifier: in words each pending status and the final one, and matches.

    A match has the values of each element by tag, `0020,000d`; of a sequence its items.
    """

    pending: list[str]
    final: str
    matches: list[dict[str, Any]]


def find_each(node: Node, folder: Path, *identifiers: Dataset, model: str = "-S") -> list[Answered]:
    """Send identifiers on one association, each when the one before has been answered."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number:04}.dcm" for number in range(len(identifiers))]
    for path, identifier in zip(files, identifiers, strict=True):
        file = FileDataset(path, identifier, preamble=bytes(128))
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.save_as(path)
    found = folder / "found.xml"
    output = run(
        "findscu", "-v", model, "-aec", node.aet, "-Xs", found,
        node.host, str(node.port), *files, check=False,
    )  # fmt: skip
    _, *parts = output.split("Sending Find Request")
    assert len(parts) == len(identifiers), output[-2000:]
    matches = iter(ET.parse(found).getroot())  # noqa: S314 - findscu wrote it
    answered = []
    for part in parts:
        pending = re.findall(r"Received Find Response \d+ \((.*?)\)\n", part)
        [final] = re.findall(r"Received Final Find Response \((.*?)\)\n", part)
        answered.append(Answered(pending, final, [_values(next(matches)) for _ in pending]))
    return answered


def find_as_sent(node: Node, folder: Path, identifier: Dataset) -> list[Path]:
    """Send an identifier in the character set it names; return the answers' files as they came."""
    folder.mkdir(exist_ok=True)
    asked = folder / "asked.dcm"
    file = FileDataset(asked, identifier, preamble=bytes(128))
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.save_as(asked)
    run("findscu", "-S", "-aec", node.aet, "-X", "-od", folder, node.host, str(node.port), asked)
    return sorted(folder.glob("rsp*.dcm"))


def _values(data_set: ET.Element) -> dict[str, Any]:
    return {
        each.attrib["tag"]: [_values(item) for item in each]
        if each.tag == "sequence"
        else (each.text or "").strip(" ")
        for each in data_set
    }


def _elements(dump: str) -> dict[str, str]:
    elements = {}
    # Not splitlines: a byte of UTF-8 may look like a line end of Latin-1.
    for line in dump.split("\n"):
        found = re.search(r"\(([0-9a-f]{4},[0-9a-f]{4})\) ([A-Z]{2}) (.*?)\s+# +\d+", line)
        if found:
            tag, _, value = found.groups()
            elements[tag] = "" if value.startswith("(no value") else value.strip("[] \0")
    return elements


def move(
    node: Node,
    destination: str,
    level: str,
    *keys: str,
    model: str = "-S",
    options: tuple[str, ...] = (),
) -> str:
    """Ask the node to send what the keys name, and return what movescu printed."""
    arguments = [part for key in keys for part in ("-k", key)]
    return run(
        "movescu", "-d", model, *options, "-aec", node.aet, "-aem", destination,
        "-k", f"QueryRetrieveLevel={level}", *arguments, node.host, str(node.port), check=False,
    )  # fmt: skip


def get(node: Node, folder: Path, level: str, *keys: str, model: str = "-S") -> str:
    """Get what the keys name into a folder, bit for bit, and return what getscu printed."""
    # It does not read the list of what failed, takes that for the answer to its release, and then
    # waits for as long as it is told (30 s by default).
    folder.mkdir(exist_ok=True)
    arguments = [part for key in keys for part in ("-k", key)]
    return run(
        "getscu", "-d", "+B", "-ta", "5", model, "-aec", node.aet, "-od", folder,
        "-k", f"QueryRetrieveLevel={level}", *arguments, node.host, str(node.port), check=False,
    )  # fmt: skip


@contextmanager
def receiver(
    folder: Path, aet: str, port: int, *options: str, accept: str = "+xa"
) -> Iterator[Path]:
    """Run storescp on a port; it accepts every transfer syntax and writes bit for bit.

    Another `accept` makes it take less.
    """
    path = shutil.which("storescp")
    assert path, "storescp is not installed: apt-get install dcmtk"
    folder.mkdir(exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [path, "-v", accept, "+B", "-aet", aet, "-od", str(folder), *options, str(port)],
            env=ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: listens(port))
        yield folder
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    """Tell whether anybody takes connections on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
