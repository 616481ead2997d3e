"""Each way in which a C-STORE can fail: its status, one line without patient data, and on we go.

Each is sent byte for byte by a raw peer, alone on its association, and by dcmjs-dimse among all the
others on one; what no client but a raw one can send, a comment says so.
"""

import resource
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmjs_dimse, dcmtk
from tests.peers.dimse import CT, EXPLICIT, MR, VERIFICATION, associate_rq, p_data
from tests.peers.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.instances import PATIENT_ID, PATIENT_NAME, study
from tests.peers.nodes_file import nodes_file
from tests.peers.storing import store

pytestmark = [pytest.mark.peers, pytest.mark.slow]

SUCCESS: Final = 0x0000
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
OUT_OF_RESOURCES: Final = 0xA700
INTERNAL_ERROR: Final = 0xA702
MISMATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

MIB: Final = 1 << 20
UID: Final = "1.2.826.0.1.96.1"
STUDY: Final = "1.2.826.0.1.96"


def element(tag: int, vr: str, value: str) -> bytes:
    """Encode an element in Explicit VR Little Endian."""
    encoded = value.encode()
    encoded += (b"\0" if vr == "UI" else b" ") * (len(encoded) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(encoded)) + encoded


def data_set(
    sop_class_uid: str = CT,
    sop_instance_uid: str = UID,
    study_instance_uid: str = STUDY,
    series_instance_uid: str = f"{STUDY}.2",
) -> bytes:
    """Encode an instance of our patient."""
    return (
        element(0x00080016, "UI", sop_class_uid)
        + element(0x00080018, "UI", sop_instance_uid)
        + element(0x00100010, "PN", PATIENT_NAME)
        + element(0x00100020, "LO", PATIENT_ID)
        + element(0x0020000D, "UI", study_instance_uid)
        + element(0x0020000E, "UI", series_instance_uid)
    )


@dataclass(frozen=True)
class Sent:
    """A C-STORE-RQ, what S3 does meanwhile, and what must come of it."""

    status: int
    logged: tuple[str, ...] = ()
    data_set: bytes | None = data_set()
    sop_class_uid: str = CT
    sop_instance_uid: str = UID
    context_id: int = 1
    fault: Fault | None = None
    called: str = "LENTICULAR"


def pixel_data(length: int) -> bytes:
    """Encode Pixel Data of so many bytes."""
    return struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", length) + bytes(length)


CUT_SHORT: Final = "a stream that ends within an element"
FRAGMENT: Final = struct.pack("<HHI", 0xFFFE, 0xE000, 4) + b"\xff\xd8\xff\xd9"
QUARANTINED = ("instance quarantined",)
NOT_STORED = ("instance not stored",)
FAULTS = {
    "nothing is wrong": Sent(SUCCESS),
    # A700, storage refuses, throttles, is unreachable; the scratch disk is in test_custody
    "S3 says SlowDown": Sent(OUT_OF_RESOURCES, NOT_STORED, fault=Fault.SLOW_DOWN),
    "S3 fails": Sent(OUT_OF_RESOURCES, NOT_STORED, fault=Fault.INTERNAL_ERROR),
    "S3 denies access": Sent(OUT_OF_RESOURCES, NOT_STORED, fault=Fault.ACCESS_DENIED),
    "the bucket is gone": Sent(OUT_OF_RESOURCES, NOT_STORED, fault=Fault.NO_SUCH_BUCKET),
    "the way to S3 breaks": Sent(OUT_OF_RESOURCES, NOT_STORED, fault=Fault.CONNECTION_RESET),
    "S3 gets other bytes": Sent(OUT_OF_RESOURCES, NOT_STORED, fault=Fault.BODY_ALTERED),
    # A900, the data set is not what the command says
    "another SOP instance": Sent(MISMATCH, QUARANTINED, data_set(sop_instance_uid="1.2.3")),
    "another SOP class": Sent(MISMATCH, QUARANTINED, data_set(sop_class_uid=MR)),
    # C000, it cannot be read, or what names it is no UID
    "no data set": Sent(CANNOT_UNDERSTAND, (), None),
    "an empty data set": Sent(SUCCESS, QUARANTINED, b""),
    "noise": Sent(CANNOT_UNDERSTAND, QUARANTINED, b"\xff" * 4096),
    "a data set of another syntax": Sent(
        CANNOT_UNDERSTAND, QUARANTINED, struct.pack("<HHI", 8, 0x16, 26) + CT.encode() + b"\0"
    ),
    CUT_SHORT: Sent(CANNOT_UNDERSTAND, QUARANTINED, data_set()[:-30]),
    "an element of 4 GiB": Sent(
        CANNOT_UNDERSTAND,
        QUARANTINED,
        data_set()[:60] + struct.pack("<HH2s2xI", 0x0009, 0x1001, b"OB", 0xFFFFFFFE),
    ),
    # The same behind the UIDs, by which alone it could be placed
    "half of the pixel data": Sent(
        CANNOT_UNDERSTAND, QUARANTINED, data_set() + pixel_data(100_000)[:50_000]
    ),
    "half a header": Sent(CANNOT_UNDERSTAND, QUARANTINED, data_set() + pixel_data(0)[:4]),
    "noise behind the UIDs": Sent(CANNOT_UNDERSTAND, QUARANTINED, data_set() + b"\xff" * 4096),
    "fragments without their end": Sent(
        CANNOT_UNDERSTAND,
        QUARANTINED,
        data_set() + struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + FRAGMENT,
    ),
    "no study, and half of the pixel data": Sent(
        CANNOT_UNDERSTAND,
        QUARANTINED,
        data_set(study_instance_uid="") + pixel_data(100_000)[:50_000],
    ),
    "a UID of two dots": Sent(CANNOT_UNDERSTAND, QUARANTINED, sop_instance_uid=".."),
    "a UID that climbs": Sent(CANNOT_UNDERSTAND, QUARANTINED, sop_instance_uid="../x"),
    "a UID that is a path": Sent(CANNOT_UNDERSTAND, QUARANTINED, sop_instance_uid="/etc/passwd"),
    "a UID of 65 characters": Sent(
        CANNOT_UNDERSTAND, QUARANTINED, sop_instance_uid="1." * 32 + "1"
    ),
    "a UID with NUL": Sent(CANNOT_UNDERSTAND, QUARANTINED, sop_instance_uid="1.2\0.3"),
    "a UID with a line break": Sent(CANNOT_UNDERSTAND, QUARANTINED, sop_instance_uid="1.2\n.3"),
    "no UID": Sent(CANNOT_UNDERSTAND, QUARANTINED, sop_instance_uid=""),
    # 0122, the context is not the command's
    "a context of another class": Sent(SOP_CLASS_NOT_SUPPORTED, context_id=3),
    "a context of no storage class": Sent(
        SOP_CLASS_NOT_SUPPORTED, sop_class_uid=VERIFICATION, context_id=5
    ),
    # It is kept and acknowledged, and an operator sees it; PS3.4 has no status for that
    "no study": Sent(SUCCESS, QUARANTINED, data_set(study_instance_uid="")),
    "a study that climbs": Sent(SUCCESS, QUARANTINED, data_set(study_instance_uid="../../x")),
    "a series with NUL": Sent(SUCCESS, QUARANTINED, data_set(series_instance_uid="1.2\0.3")),
    # A title is the peer's; with access `open` any will do
    "a called AE title with a slash": Sent(SUCCESS, called="../A/B"),
}

#: What dcmjs-dimse does not send: a store without a data set or with one of no bytes; a UID of more
#: than 64 characters, which it cuts; a store on the context of another class (pynetdicom does:
#: test_storing_where_it_is_not_offered). Titles are the association's: storescu sends this one.
FOR_A_RAW_PEER = frozenset(
    {
        "no data set",
        "an empty data set",
        "a UID of 65 characters",
        "a context of another class",
        "a context of no storage class",
        "a called AE title with a slash",
    }
)
FOR_ANY_CLIENT: Final[Mapping[str, Sent]] = {
    name: sent for name, sent in FAULTS.items() if name not in FOR_A_RAW_PEER
}
#: What is wrong with these is where they end.
ENDS_WRONG: Final = frozenset(
    {
        CUT_SHORT,
        "half of the pixel data",
        "half a header",
        "noise behind the UIDs",
        "fragments without their end",
        "no study, and half of the pixel data",
    }
)
#: An element that makes what is forgotten to be freed weigh.
PIXELS: Final = pixel_data(MIB)


@dataclass(frozen=True)
class Site:
    """A gateway, its way to S3 and its folder for scratch files."""

    gateway: Gateway
    s3: FaultyS3
    scratch: Path


@pytest.fixture(scope="module")
def site(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run one gateway through all failures; it must be as well after the last as at the first."""
    folder = tmp_path_factory.mktemp("failures")
    scratch = folder / "scratch"
    scratch.mkdir()
    with ExitStack() as running:
        s3 = running.enter_context(faulty_s3(cloud.endpoint))
        settings = {
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "LENTICULAR_RETRY_SECONDS": "0",
            "LENTICULAR_SCRATCH_DIR": str(scratch),
        }
        gateway = running.enter_context(
            running_gateway(folder / "gateway.log", Stores.in_cloud(cloud), settings)
        )
        # What the first instance takes is kept for the next: S3 connections and their threads.
        [first] = study(folder / "first", 1)
        assert store(gateway, first) == [SUCCESS]
        yield Site(gateway, s3, scratch)


def at_most(before: tuple[int, ...]) -> Callable[[tuple[int, ...]], bool]:
    """Return what tells that there are no more of anything than before."""
    return lambda now: all(count <= first for count, first in zip(now, before, strict=True))


def store_rq(sent: Sent) -> bytes:
    """Encode the command set, in Implicit VR Little Endian, with whatever UIDs there are."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHI", 0, number, len(value)) + value

    def uid(text: str) -> bytes:
        return text.encode() + b"\0" * (len(text) % 2)

    elements = (
        element(0x0002, uid(sent.sop_class_uid))
        + element(0x0100, struct.pack("<H", 0x0001))
        + element(0x0110, struct.pack("<H", 7))
        + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 0x0101 if sent.data_set is None else 0))
        + element(0x1000, uid(sent.sop_instance_uid))
    )
    return element(0x0000, struct.pack("<I", len(elements))) + elements


def said_of(gateway: Gateway, seen: int, **facts: object) -> list[dict[str, Any]]:
    """Wait until the association with these facts has ended, and return what was logged since.

    `seen` lines are from before it. What was said of others is left out: the end of one that its
    peer released is logged after the peer can know of it.
    """

    def ended() -> list[dict[str, Any]]:
        wanted = {"message": "association ended", **facts}
        lines = gateway.lines()
        others = {line["association"] for line in lines[:seen] if "association" in line}
        return [
            line for line in lines[seen:]
            if wanted.items() <= line.items() and line["association"] not in others
        ]  # fmt: skip

    [end] = eventually(ended)
    return [
        line for line in gateway.lines()[seen:]
        if line.get("association", end["association"]) == end["association"]
    ]  # fmt: skip


def complaints(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what was logged that is not as it should be."""
    return [line["message"] for line in lines if line["level"] not in ("DEBUG", "INFO")]


def send(gateway: Gateway, sent: Sent) -> tuple[int | None, int]:
    """Send one C-STORE-RQ over an association of its own; return the status, and our port."""
    contexts = [(1, CT, (EXPLICIT,)), (3, MR, (EXPLICIT,)), (5, VERIFICATION, (EXPLICIT,))]
    with gateway.connect() as peer:
        _, port = peer.sock.getsockname()
        peer.send(associate_rq(contexts, called=sent.called))
        assert peer.read_pdu()[0] == 2
        peer.send(p_data((sent.context_id, 3, store_rq(sent))))
        if sent.data_set is not None:
            peer.send(p_data((sent.context_id, 2, sent.data_set)))
        response = peer.read_response()
        assert response.message_id_being_responded_to == 7
        peer.release()
    return response.status, port


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_has_its_status_and_one_line_and_the_gateway_serves_on(
    site: Site, tmp_path: Path, fault: str
) -> None:
    gateway, sent = site.gateway, FAULTS[fault]
    seen = len(gateway.lines())
    before = gateway.resources()
    if sent.fault is not None:
        site.s3.fail(sent.fault)
    try:
        status, port = send(gateway, sent)
    finally:
        site.s3.heal()
    assert status == sent.status
    assert complaints(said_of(gateway, seen, port=port)) == list(sent.logged)
    text = gateway.log.read_text("utf-8")
    for secret in (PATIENT_ID, *PATIENT_NAME.split("^"), "passwd"):
        assert secret not in text
    for key in gateway.object_keys():
        folder, *parts = key.split("/")
        assert folder in ("instances", "quarantine")
        assert not {"", ".", ".."} & set(parts)

    dcmtk.echo(gateway)
    instances = study(tmp_path / "after", 2)
    assert store(gateway, *instances) == [SUCCESS, SUCCESS]
    assert {instance.key for instance in instances} <= set(gateway.object_keys())
    eventually(gateway.resources, until=at_most(before))
    assert list(site.scratch.iterdir()) == []


def store_all_with_dcmjs(site: Site, *, rounds: int = 1, behind: bytes = b"") -> list[int]:
    """Send all that any client can over one association a round; return the statuses.

    `behind` is put behind each data set, unless where it ends is what is wrong with it. S3 fails
    for the instances that it is to fail for, and serves the others meanwhile.
    """
    requests = []
    for number, (name, sent) in enumerate(FOR_ANY_CLIENT.items(), 1):
        assert sent.data_set is not None
        encoded, uid = sent.data_set, sent.sop_instance_uid
        if sent.fault is not None:
            uid = f"{UID}.{number}"
            encoded = data_set(sop_instance_uid=uid)
            site.s3.fail(sent.fault, where=f"/{uid}/")
        if name not in ENDS_WRONG:
            encoded += behind
        requests.append(dcmjs_dimse.store_of(sent.sop_class_uid, uid, EXPLICIT, encoded))
    try:
        association = dcmjs_dimse.Association(requests)
        events = dcmjs_dimse.run_each(site.gateway, [association], times=rounds)
    finally:
        site.s3.heal()
    return dcmjs_dimse.statuses(events)


def test_a_client_hears_the_status_of_each_failure_and_its_association_goes_on(site: Site) -> None:
    gateway = site.gateway
    seen = len(gateway.lines())
    assert store_all_with_dcmjs(site) == [sent.status for sent in FOR_ANY_CLIENT.values()]
    told = complaints(said_of(gateway, seen, calling_aet="DCMJS"))
    assert told == [line for sent in FOR_ANY_CLIENT.values() for line in sent.logged]


def test_a_client_may_call_us_by_a_path(site: Site, tmp_path: Path) -> None:
    [instance] = study(tmp_path, 1)
    assert dcmtk.store(site.gateway, instance.path, options=("-aec", "../A/B")) == [SUCCESS]
    assert instance.key in site.gateway.object_keys()


def test_failures_without_end_take_no_more_of_anything(site: Site) -> None:
    gateway = site.gateway
    rounds = 10
    expected = [sent.status for sent in FOR_ANY_CLIENT.values()]
    # What the first ones take is kept for the next.
    assert store_all_with_dcmjs(site, rounds=2, behind=PIXELS) == expected * 2
    before, memory = gateway.resources(), gateway.resident_bytes()
    assert store_all_with_dcmjs(site, rounds=rounds, behind=PIXELS) == expected * rounds
    eventually(gateway.resources, until=at_most(before))
    assert list(site.scratch.iterdir()) == []
    # One kind of failure that kept its data set would have kept `rounds` MiB by now.
    eventually(gateway.resident_bytes, until=lambda now: now - memory < rounds // 2 * MIB)


def test_a_gateway_that_runs_out_of_memory_refuses_what_it_cannot_hold_and_serves_on(
    cloud: OfflineCloud, tmp_path: Path
) -> None:
    settings = {"LENTICULAR_MEMORY_BYTES": str(256 * MIB)}
    [large] = study(tmp_path / "large", 1, size=96 * MIB)
    small = study(tmp_path / "small", 2)
    with running_gateway(tmp_path / "gateway.log", Stores.in_cloud(cloud), settings) as gateway:
        # What the first instance takes is there when memory becomes short.
        assert store(gateway, small[0]) == [SUCCESS]
        before = gateway.resources()
        with address_space(gateway, 48 * MIB):
            assert store(gateway, large, *small) == [INTERNAL_ERROR, SUCCESS, SUCCESS]
        [failed] = [line for line in gateway.lines() if line["level"] not in ("DEBUG", "INFO")]
        assert (failed["level"], failed["message"]) == ("ERROR", "service failed")
        assert failed["exception"][0]["type"] == "MemoryError"
        eventually(gateway.resources, until=at_most(before))
        assert set(gateway.object_keys()) == {instance.key for instance in small}
        text = gateway.log.read_text("utf-8")
        for secret in (PATIENT_ID, *PATIENT_NAME.split("^")):
            assert secret not in text
        assert store(gateway, large) == [SUCCESS]
        assert large.key in gateway.object_keys()


@contextmanager
def address_space(gateway: Gateway, more_bytes: int) -> Iterator[None]:
    """Let a process have so much more memory than it has, and no more."""
    pid = gateway.process.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more_bytes
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))


def test_every_status_of_the_table_is_provoked() -> None:
    # A702 is a mistake of ours or the end of our memory, see above. 0124 needs a node that may move
    # and not store: test_get.
    assert {sent.status for sent in FAULTS.values()} == {
        SUCCESS,
        SOP_CLASS_NOT_SUPPORTED,
        OUT_OF_RESOURCES,
        MISMATCH,
        CANNOT_UNDERSTAND,
    }


@pytest.mark.parametrize("called", ["LENTICULAR/X", "../LENTICULAR", "'; DROP"])
def test_a_strange_called_title_is_refused_where_titles_are_checked(
    cloud: OfflineCloud, tmp_path: Path, called: str
) -> None:
    stores = Stores.in_cloud(cloud)
    nodes = nodes_file(tmp_path, {"RAW": {}})
    settings = {"LENTICULAR_ACCESS": "known-aet", "LENTICULAR_NODES_FILE": str(nodes)}
    with running_gateway(tmp_path / "gateway.log", stores, settings) as gateway:
        with gateway.connect() as peer:
            peer.send(associate_rq(called=called))
            assert peer.read_rejection() == (1, 1, 7)
        with gateway.connect() as peer:
            peer.send(associate_rq())
            assert peer.read_pdu()[0] == 2
            peer.release()
        eventually(lambda: gateway.lines(message="association rejected"))
        assert gateway.lines(message="association rejected")[0]["called_aet"] == called


@pytest.mark.parametrize("called", ["A\\B", "A\x1b[31mB", "A\r\nB", "A\0B", " " * 16])
def test_a_called_title_that_is_none_is_aborted_and_not_written_down(
    site: Site, called: str
) -> None:
    def said() -> list[dict[str, Any]]:
        return site.gateway.lines(message="association request not understood")

    seen = len(said())
    with site.gateway.connect() as peer:
        peer.send(associate_rq([(1, CT, (EXPLICIT,))], called=called))
        assert peer.read_abort() == (2, 6)
    [line] = eventually(lambda: said()[seen:])
    assert "called_aet" not in line
    assert [
        each for each in site.gateway.lines() if each.get("association") == line["association"]
    ] == [line]
    dcmtk.echo(site.gateway)


def test_a_peer_that_goes_away_within_a_data_set_leaves_one_line(site: Site) -> None:
    gateway = site.gateway
    before = gateway.resources()
    seen = len(gateway.lines())
    with gateway.connect() as peer:
        _, port = peer.sock.getsockname()
        peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
        assert peer.read_pdu()[0] == 2
        peer.send(p_data((1, 3, store_rq(FAULTS["nothing is wrong"]))) + p_data((1, 0, b"half")))
    said = [line["message"] for line in said_of(gateway, seen, port=port)]
    assert said == ["association aborted", "association ended"]
    eventually(gateway.resources, until=at_most(before))
