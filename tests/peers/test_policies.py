"""Each policy of associations is a setting, and a foreign client sees what it does."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]

from lenticular.sop_classes import (
    MODALITY_PERFORMED_PROCEDURE_STEP,
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_MOVE,
    STORAGE_COMMITMENT_PUSH,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmjs_dimse, dcmtk
from tests.peers.dimse import BIG_ENDIAN, EXPLICIT, IMPLICIT, JPEG_LOSSLESS
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.instances import study
from tests.peers.storing import store

pytestmark = pytest.mark.peers

CALLED_UNKNOWN: Final = "Called AE Title Not Recognized"
CALLING_UNKNOWN: Final = "Calling AE Title Not Recognized"
NODES: Final = """\
nodes:
  - {aet: SCANNER, address: 127.0.0.1}
  - {aet: ELSEWHERE, address: 192.0.2.7}
  - {aet: READER, address: 127.0.0.1, may: [find, move]}
  - {aet: STORES, address: 127.0.0.1, may: [store]}
  - {aet: FINDS, address: 127.0.0.1, may: [find]}
  - {aet: MOVES, address: 127.0.0.1, may: [move]}
  - {aet: COMMITS, address: 127.0.0.1, may: [commit]}
  - {aet: STEPS, address: 127.0.0.1, may: [mpps]}
  - {aet: VERIFIES, address: 127.0.0.1, may: []}
"""

Start = Callable[..., Gateway]


@pytest.fixture
def start(cloud: OfflineCloud, tmp_path: Path) -> Iterator[Start]:
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text(NODES)
    with ExitStack() as running:

        def start(**settings: str) -> Gateway:
            named = {f"LENTICULAR_{name}": value for name, value in settings.items()}
            return running.enter_context(
                running_gateway(
                    tmp_path / "gateway.log",
                    Stores.in_cloud(cloud),
                    {"LENTICULAR_NODES_FILE": str(nodes), **named},
                )
            )

        yield start


def associate(
    gateway: Gateway, *syntaxes: str, calling: str = "SCANNER", **more: Any
) -> Association:
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    context = build_context(CTImageStorage, list(syntaxes or (EXPLICIT,)))
    return ae.associate(
        gateway.host, gateway.port, [context, build_context(Verification)], gateway.aet, **more
    )


def granted(gateway: Gateway, calling: str, *contexts: tuple[str, list[str]]) -> dcmjs_dimse.Event:
    """Propose contexts with dcmjs-dimse, beside Verification; return what it was granted."""
    proposed = [{"abstract": abstract, "transfer": transfer} for abstract, transfer in contexts]
    events = dcmjs_dimse.run(
        gateway, {"type": "echo"}, calling=calling, contexts=proposed, window=8
    )
    assert dcmjs_dimse.statuses(events) == [0]
    [accepted] = [event for event in events if event["event"] == "accepted"]
    return accepted


def echo(gateway: Gateway, calling: str, called: str) -> str:
    """Return what echoscu says of an association; nothing when all is well."""
    output = dcmtk.run(
        "echoscu", "-aet", calling, "-aec", called, gateway.host, str(gateway.port), check=False
    )
    return output.strip()


# Who may connect

ACCESS: Final = [
    # access, calling, called, what the client reads
    ("open", "STRANGER", "ANYTHING", ""),
    ("open", "ELSEWHERE", "LENTICULAR", ""),
    ("known-aet", "SCANNER", "LENTICULAR", ""),
    ("known-aet", "ELSEWHERE", "LENTICULAR", ""),
    ("known-aet", "STRANGER", "LENTICULAR", CALLING_UNKNOWN),
    ("known-aet", "SCANNER", "ANYTHING", CALLED_UNKNOWN),
    ("known-aet-and-address", "SCANNER", "LENTICULAR", ""),
    ("known-aet-and-address", "ELSEWHERE", "LENTICULAR", CALLING_UNKNOWN),
    ("known-aet-and-address", "STRANGER", "LENTICULAR", CALLING_UNKNOWN),
    ("known-aet-and-address", "SCANNER", "ANYTHING", CALLED_UNKNOWN),
]


@pytest.mark.parametrize("access", ["open", "known-aet", "known-aet-and-address"])
def test_who_may_connect(start: Start, access: str) -> None:
    gateway = start(ACCESS=access)
    for policy, calling, called, told in ACCESS:
        if policy == access:
            said = echo(gateway, calling, called)
            assert told in said if told else not said
            assert not told or "Result: Rejected Permanent, Source: Service User" in said
    expected = [told for policy, _, _, told in ACCESS if policy == access and told]
    rejected = eventually(
        lambda: gateway.lines(message="association rejected"),
        until=lambda lines: len(lines) == len(expected),
    )
    assert all(line["address"] == "127.0.0.1" for line in rejected)


def test_what_a_node_may_is_in_the_nodes_file(start: Start, tmp_path: Path) -> None:
    gateway = start(ACCESS="known-aet")
    [instance] = study(tmp_path / "sent", 1)

    def send(calling: str) -> list[int]:
        return dcmtk.store(gateway, instance.path, options=("-aet", calling))

    assert send("READER") == []
    assert gateway.object_keys() == []
    assert send("SCANNER") == [0]
    assert gateway.object_keys() == [instance.key]


#: Classes of each service, by the permission that a node needs to be their SCU.
NEEDS: Final = {
    "store": [CTImageStorage],
    "find": [PATIENT_ROOT_FIND, STUDY_ROOT_FIND],
    "move": [PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE, STUDY_ROOT_GET],
    "commit": [STORAGE_COMMITMENT_PUSH],
    "mpps": [MODALITY_PERFORMED_PROCEDURE_STEP],
}
MAY: Final = {
    "STORES": ["store"],
    "FINDS": ["find"],
    "MOVES": ["move"],
    "COMMITS": ["commit"],
    "STEPS": ["mpps"],
    "VERIFIES": [],
}


def test_a_node_is_granted_the_services_that_it_may_use_and_no_other(start: Start) -> None:
    gateway = start(ACCESS="known-aet")
    classes = [uid for uids in NEEDS.values() for uid in uids]
    for calling, permissions in MAY.items():
        accepted = granted(gateway, calling, *((uid, [IMPLICIT]) for uid in classes))
        results = {each["abstract"]: each["result"] for each in accepted["contexts"]}
        # Acceptance, or user-rejection: PS3.8 table 9-18.
        wanted = {
            uid: 0 if may in permissions else 1 for may, uids in NEEDS.items() for uid in uids
        }
        assert {uid: results[uid] for uid in classes} == wanted, calling


# What is agreed on


#: What is taken of what is offered, by policy.
TAKEN: Final = {
    "prefer-explicit": [
        ((IMPLICIT, JPEG_LOSSLESS, EXPLICIT), EXPLICIT),
        ((JPEG_LOSSLESS, IMPLICIT), JPEG_LOSSLESS),
    ],
    "first-offered": [
        ((IMPLICIT, JPEG_LOSSLESS, EXPLICIT), IMPLICIT),
        ((JPEG_LOSSLESS, EXPLICIT), JPEG_LOSSLESS),
    ],
    f"{JPEG_LOSSLESS},{BIG_ENDIAN}": [
        ((IMPLICIT, BIG_ENDIAN, JPEG_LOSSLESS), JPEG_LOSSLESS),
        ((IMPLICIT, BIG_ENDIAN), BIG_ENDIAN),
        ((IMPLICIT, EXPLICIT), IMPLICIT),
    ],
}


@pytest.mark.parametrize("policy", TAKEN)
def test_which_transfer_syntax_is_taken(start: Start, policy: str) -> None:
    gateway = start(TRANSFER_SYNTAXES=policy)
    for offered, taken in TAKEN[policy]:
        [context] = [
            each
            for each in granted(gateway, "SCANNER", (CTImageStorage, list(offered)))["contexts"]
            if each["abstract"] == CTImageStorage
        ]
        assert (context["result"], context["transfer"]) == (0, taken)


@pytest.mark.parametrize("limit", ["16384", "131072"])
def test_pdus_are_as_long_as_the_setting_says(start: Start, tmp_path: Path, limit: str) -> None:
    gateway = start(MAX_PDU_BYTES=limit)
    assert f"Their Max PDU Receive Size:  {limit}\n" in dcmtk.echo(gateway, "-d")
    assert granted(gateway, "SCANNER")["max_pdu_bytes"] == int(limit)
    assert store(gateway, *study(tmp_path / "sent", 2, size=1 << 20)) == [0, 0]


def test_operations_are_asked_for_one_at_a_time(start: Start) -> None:
    wanted = AsynchronousOperationsWindowNegotiation()
    wanted.maximum_number_operations_invoked = 8
    wanted.maximum_number_operations_performed = 8
    gateway = start()
    assert granted(gateway, "SCANNER")["window"] == [1, 1]
    opened = associate(gateway, ext_neg=[wanted])
    assert opened.is_established
    assert opened.acceptor.asynchronous_operations == (1, 1)
    opened.release()


# How many, and how long


def test_the_association_over_the_limit_is_refused_for_now(start: Start) -> None:
    gateway = start(MAX_ASSOCIATIONS="2")
    first, second = associate(gateway), associate(gateway)
    # By what was received, for pynetdicom loses a refusal that comes with the connection's end.
    received: list[Any] = []
    third = associate(
        gateway, evt_handlers=[(evt.EVT_PDU_RECV, lambda event: received.append(event.pdu))]
    )
    assert not third.is_established
    [refusal] = received
    # Transient; service provider (presentation); local limit exceeded. PS3.8 table 9-21.
    assert (refusal.result, refusal.source, refusal.reason_diagnostic) == (2, 3, 2)
    told = echo(gateway, "SCANNER", gateway.aet)
    assert "Result: Rejected Transient, Source: Service Provider (Presentation Related)" in told
    assert "Local Limit Exceeded" in told
    first.release()
    fourth = associate(gateway)
    assert fourth.is_established
    for opened in (second, fourth):
        opened.release()


def test_ten_associations_at_a_time_are_the_default(start: Start) -> None:
    gateway = start()
    opened = [associate(gateway) for _ in range(11)]
    assert [each.is_established for each in opened] == [True] * 10 + [False]
    for each in opened[:10]:
        each.release()


@pytest.mark.parametrize(("end", "seen"), [("release", "is_released"), ("abort", "is_aborted")])
def test_an_idle_association_is_ended_as_the_setting_says(
    start: Start, end: str, seen: str
) -> None:
    # An echo before that is in test_association_life_cycle: here a pause might come before it.
    opened = associate(start(IDLE_SECONDS="1", IDLE_END=end))
    eventually(lambda: getattr(opened, seen))


def test_a_connection_without_a_request_is_closed_after_artim(start: Start) -> None:
    gateway = start(ARTIM_SECONDS="1")
    began = time.monotonic()
    with gateway.connect() as silent:
        assert silent.is_closed()
    assert time.monotonic() - began >= 0.9


def test_a_peer_that_stops_within_a_message_is_aborted(start: Start) -> None:
    gateway = start(DIMSE_SECONDS="1")
    opened = associate(gateway)
    assert opened.dul.socket is not None
    # A P-DATA-TF PDU of which only the beginning comes.
    opened.dul.socket.send(b"\x04\0\0\0\x10\0\0\0\0\x20\x01\x03")
    eventually(lambda: opened.is_aborted)
    ended = eventually(lambda: gateway.lines(message="association ended"))
    assert ended[0]["outcome"] == "aborted by us, time-out"
