"""What the Conformance Statement lists a running node accepts; what it does not list, it refuses.

The statement is read as a person reads it, from the file, not from the tables it was written from.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import _STORAGE_CLASSES

from lenticular.cli import main
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


#: What the commands propose beside storage, by UID, with the transfer syntaxes.
PROPOSED: Final = {
    row[1]: {SYNTAXES[each] for each in row[3].split(", ")}
    for row in table("7-5")
    if row[1] and row[2] == "SCU"
}
[RECEIVED] = [
    {SYNTAXES[each] for each in row[3].split(", ")}
    for row in table("7-5")
    if not row[1] and row[2] == "SCP"
]


@dataclass
class Asked:
    """What association requests were like: one list of contexts each, and who called how."""

    contexts: list[list[tuple[str, tuple[str, ...]]]] = field(default_factory=list)
    scp_roles: list[set[str]] = field(default_factory=list)
    parameters: set[tuple[str, str, str, int | None]] = field(default_factory=set)

    def note(self, event: evt.Event) -> None:
        request = event.assoc.requestor
        primitive = request.primitive
        assert primitive is not None
        self.contexts.append(
            [
                (str(each.abstract_syntax), tuple(map(str, each.transfer_syntax)))
                for each in primitive.presentation_context_definition_list
            ]
        )
        self.scp_roles.append(
            {str(uid) for uid, role in request.role_selection.items() if role.scp_role}
        )
        self.parameters.add(
            (
                str(primitive.calling_ae_title),
                str(request.implementation_class_uid),
                str(request.implementation_version_name),
                primitive.maximum_length_received,
            )
        )


@contextmanager
def archive(asked: Asked, stored: Sequence[str] = STORAGE) -> Iterator[str]:
    """Run an archive by pynetdicom that does all but store others, and has one empty study."""

    def on_find(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        match = Dataset()
        match.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
        match.StudyInstanceUID = "1.2.3"
        yield 0xFF00, match

    ae = AE("ARCHIVE")
    for uid in [*stored, *SERVICES]:
        ae.add_supported_context(uid, list(SYNTAXES.values()), scu_role=True, scp_role=True)
    handlers: list[Any] = [
        (evt.EVT_REQUESTED, asked.note),
        (evt.EVT_C_FIND, on_find),
        (evt.EVT_C_GET, lambda _: iter([0])),
        (evt.EVT_C_MOVE, lambda _: iter([(None, None)])),
    ]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield f"ARCHIVE@127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def run(*arguments: str) -> None:
    done = CliRunner().invoke(main, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception


def file_of(folder: Path, sop_class: str, syntax: UID) -> None:
    """Write a file of a class in a syntax, with no more in it than its UIDs."""
    uid = f"1.2.3.{len(list(folder.iterdir())) + 1}"
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = sop_class, uid
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1.2.3", "1.2.3.0"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = syntax
    data_set.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    data_set.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    data_set.save_as(folder / f"{uid}.dcm", enforce_file_format=True)


def test_the_commands_propose_what_is_listed_and_nothing_else() -> None:
    asked = Asked()
    with archive(asked) as peer:
        run("nodes", "echo", peer)
        for model in ("patient-root", "study-root", "patient-study-only"):
            level = "PATIENT" if model.startswith("patient") else "STUDY"
            run("find", "--from", peer, "--model", model, "--level", level)
        run("import", "node", peer, "--retries", "0")
    proposals = [proposal for contexts in asked.contexts for proposal in contexts]
    assert {uid: set(syntaxes) for uid, syntaxes in proposals} == {
        uid: syntaxes for uid, syntaxes in PROPOSED.items() if "GET" not in UID(uid).name
    }
    said = dict(table("7-4"))
    assert asked.parameters == {
        (
            said["Calling AE title"].partition(",")[0],
            said["Implementation Class UID"],
            said["Implementation Version Name"],
            int(said["Maximum PDU length received"]),
        )
    }
    assert not any(asked.scp_roles)


def test_a_get_by_command_proposes_to_receive_what_is_listed(tmp_path: Path) -> None:
    asked = Asked()
    with archive(asked) as peer:
        run("get", "1.2.3", str(tmp_path / "got"), "--from", peer)
    _, (get, *classes) = asked.contexts
    assert {get[0]: set(get[1])}.items() <= PROPOSED.items()
    assert [uid for uid, _ in classes] == STORAGE[: CONTEXTS - 1]
    assert {frozenset(syntaxes) for _, syntaxes in classes} == {frozenset(RECEIVED)}
    assert asked.scp_roles == [set(), {uid for uid, _ in classes}]


def test_the_commands_propose_files_as_they_are_of_each_class_and_in_each_syntax(
    tmp_path: Path,
) -> None:
    asked = Asked()
    each_class = list(zip(STORAGE, cycle(SYNTAXES.values()), strict=False))
    files = {*each_class, *((STORAGE[0], syntax) for syntax in SYNTAXES.values())}
    for sop_class, syntax in sorted(files):
        file_of(tmp_path, sop_class, UID(syntax))
    with archive(asked, stored=()) as peer:
        # It accepts none, so that nothing is sent; all that was to be is proposed the first time.
        run("send", peer, str(tmp_path), "--iod", "none", "--retries", "1")
    proposals = [proposal for contexts in asked.contexts for proposal in contexts]
    as_they_are = {(uid, syntaxes[0]) for uid, syntaxes in proposals if len(syntaxes) == 1}
    assert files <= as_they_are
    others = as_they_are - files
    assert {syntax for _, syntax in others} <= RECEIVED
    assert others <= {
        (uid, other) for uid, syntax in files if syntax in RECEIVED for other in RECEIVED
    }


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
