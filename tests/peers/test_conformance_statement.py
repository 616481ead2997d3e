"""What the Conformance Statement lists a running node accepts; what it does not list, it refuses.

The statement is read as a person reads it, from the file, not from the tables it was written from.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Final

import pytest
from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom.sop_class import _STORAGE_CLASSES

from tests.cloud.standin import OfflineCloud
from tests.peers.dimse import associate_rq
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.node_process import ROOT

pytestmark = pytest.mark.peers

STATEMENT: Final = ROOT / "infra/guide/conformance-statement.md"
CONTEXTS: Final = 128
ACCEPTED, ABSTRACT_SYNTAX_UNKNOWN, TRANSFER_SYNTAX_UNKNOWN = 0, 3, 4
#: A print class, a worklist, a hanging protocol, one of nobody: services that are not offered.
OTHER_SERVICES: Final = [
    "1.2.840.10008.5.1.1.9",
    "1.2.840.10008.5.1.4.34.6.1",
    "1.2.840.10008.5.1.4.38.2",
    "1.2.840.10008.1.20.2",
    "1.2.3.4.5",
]

Proposal = tuple[str, str]


@pytest.fixture(scope="module")
def gateway(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("conformance") / "gateway.log"
    with running_gateway(log, Stores.in_cloud(cloud)) as running:
        yield running


def table(number: str) -> list[list[str]]:
    """Read the rows of a table of the statement by its number."""
    text = STATEMENT.read_text("utf-8").partition(f"**Table {number}. ")[2]
    rows = re.search(r"((?:^\|.*\|\n)+)", text, re.MULTILINE)
    assert rows, f"there is no table {number}"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1].splitlines()]
    return cells[2:]


STORAGE: Final = [row[1] for row in table("1-1")]
SYNTAXES: Final = {row[0]: row[1] for row in table("1-2")}
SERVICES: Final = {row[1]: [SYNTAXES[each] for each in row[4].split(", ")] for row in table("1-3")}


def negotiate(gateway: Gateway, proposals: Sequence[Proposal]) -> list[tuple[int, str]]:
    """Propose each pair in a context of its own; return results and transfer syntaxes."""
    answers = []
    for start in range(0, len(proposals), CONTEXTS):
        some = proposals[start : start + CONTEXTS]
        contexts = [
            (2 * place + 1, abstract, [transfer]) for place, (abstract, transfer) in enumerate(some)
        ]
        with gateway.connect() as peer:
            peer.send(associate_rq(contexts))
            kind, body = peer.read_pdu()
            assert kind == 2
            answers += list(_answers(body))
            peer.release()
    assert len(answers) == len(proposals)
    return answers


def _answers(body: bytes) -> Iterator[tuple[int, str]]:
    """Read the presentation context items of an A-ASSOCIATE-AC, PS3.8 9.3.3.2."""
    at = 68
    while at < len(body):
        length = int.from_bytes(body[at + 2 : at + 4], "big")
        if body[at] == 0x21:
            item = body[at + 4 : at + 4 + length]
            yield item[2], item[8:].decode("ascii").strip("\0")
        at += 4 + length


def test_the_tables_of_the_statement_are_as_large_as_they_should_be() -> None:
    assert len(STORAGE) > 150
    assert len(SYNTAXES) > 30
    assert len(SERVICES) > 10


def test_each_storage_class_is_accepted_and_each_transfer_syntax(gateway: Gateway) -> None:
    each_class = list(zip(STORAGE, cycle(SYNTAXES.values()), strict=False))
    each_syntax = [("1.2.840.10008.5.1.4.1.1.7", syntax) for syntax in SYNTAXES.values()]
    proposals = each_class + each_syntax
    assert negotiate(gateway, proposals) == [(ACCEPTED, syntax) for _, syntax in proposals]


def test_each_other_service_is_accepted_in_the_syntaxes_it_lists_and_in_no_other(
    gateway: Gateway,
) -> None:
    proposals = [(uid, syntax) for uid in SERVICES for syntax in SYNTAXES.values()]
    for (uid, syntax), (result, _) in zip(proposals, negotiate(gateway, proposals), strict=True):
        listed = syntax in SERVICES[uid]
        assert result == (ACCEPTED if listed else TRANSFER_SYNTAX_UNKNOWN), (uid, syntax)


def test_what_is_not_listed_is_refused(gateway: Gateway) -> None:
    explicit = SYNTAXES["Explicit VR Little Endian"]
    unlisted = [uid for uid in map(str, _STORAGE_CLASSES.values()) if uid not in STORAGE]
    classes = [(uid, explicit) for uid in [*unlisted, *OTHER_SERVICES] if uid not in SERVICES]
    results = {result for result, _ in negotiate(gateway, classes)}
    assert results == {ABSTRACT_SYNTAX_UNKNOWN}
    known = set(SYNTAXES.values())
    syntaxes = [str(uid) for uid in AllTransferSyntaxes if uid not in known] + [str(UID("1.2.3"))]
    proposals = [(STORAGE[0], uid) for uid in syntaxes]
    assert {result for result, _ in negotiate(gateway, proposals)} == {TRANSFER_SYNTAX_UNKNOWN}
