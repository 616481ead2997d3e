"""C-CANCEL is heeded at once, whatever a retrieval is waiting for just then."""

import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
)
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet as StudyRootGet,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,
)

from lenticular.index_keys import INSTANCE_PREFIX
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers.archived import archive, image, transcode
from tests.peers.destination import MESSAGE_ID, counts, destination, requestor, responses
from tests.peers.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

pytestmark = pytest.mark.peers

ROOT = "1.2.826.0.1.94"
STUDY, LARGE, FORM, MANY = (f"{ROOT}.{number}" for number in range(1, 5))
UIDS = [f"{STUDY}.1.{number}" for number in range(3)]
#: More than the kernel keeps of a connection that nobody reads from.
LARGE_ROWS = 4096
#: What may be ahead, and how requests for parts of the large file end. Its pixels alone are as
#: much: for the last part there is room when the first one has been taken.
_READ_AHEAD_BYTES = 32 << 20
SECOND_PART, LAST_PART = (f" bytes={start}-" for start in (4 << 20, _READ_AHEAD_BYTES))
CANCELLED = 0xFE00
#: Requests of one retrieval that the gateway makes at a time, and what it says when too many hang.
AT_A_TIME = 32
_WAITS = "retrieval waits, requests of others that were cancelled still hang"
#: Less than the gateway would wait, 120 s for a message and 30 s for an association, and more than
#: a busy machine costs.
AT_ONCE_SECONDS = 25
#: As /proc/net/tcp names the state of a connection that nobody answers.
_SYN_SENT = "02"


@dataclass(frozen=True)
class Site:
    """A gateway that is patient with its destination, its ways to S3 and DynamoDB, and forms.

    `forms` are object keys by study. Nobody listens on `port`, the destination's, but it is taken,
    so that a test can.
    """

    gateway: Gateway
    s3: FaultyS3
    dynamodb: FaultyS3
    port: int
    forms: Mapping[str, str]


@pytest.fixture(scope="module")
def whole_site(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Fill an archive and run a gateway over it."""
    stores = Stores.in_cloud(cloud)
    *_, first, large = archive(
        stores,
        *(image(STUDY, f"{STUDY}.1", uid) for uid in UIDS),
        image(FORM, f"{FORM}.1", f"{FORM}.1.1", rows=128),
        image(LARGE, f"{LARGE}.1", f"{LARGE}.1.1", rows=LARGE_ROWS),
    )
    archive(stores, *(image(MANY, f"{MANY}.1", f"{MANY}.1.{n}") for n in range(AT_A_TIME)))
    forms = {FORM: transcode(stores, first), LARGE: transcode(stores, large, "deflate")}
    folder = tmp_path_factory.mktemp("site")
    port = free_port()
    nodes = nodes_file(folder, {"DEST": port})
    with faulty_s3(cloud.endpoint) as s3, faulty_s3(cloud.endpoint) as dynamodb:
        settings = {
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "AWS_ENDPOINT_URL_DYNAMODB": dynamodb.endpoint,
            "LENTICULAR_NODES_FILE": str(nodes),
            "LENTICULAR_DIMSE_SECONDS": "120",
            "LENTICULAR_READ_AHEAD_BYTES": str(_READ_AHEAD_BYTES),
        }
        with running_gateway(folder / "gateway.log", stores, settings) as gateway:
            yield Site(gateway, s3, dynamodb, port, forms)


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """Let go at the end of each test of what S3 and DynamoDB hold."""
    yield whole_site
    whole_site.s3.heal()
    whole_site.dynamodb.heal()


class Moving:
    """A C-MOVE under way."""

    def __init__(self, association: Association, study: str) -> None:
        """Ask for it, and hear the first response: nothing has been sent yet."""
        self._association = association
        self._answers = responses(association, "DEST", study)
        next(self._answers)

    def cancel(self) -> Dataset:
        """Send C-CANCEL; return the final response, which must come at once."""
        self._association.send_c_cancel(MESSAGE_ID, query_model=StudyRootMove)
        began = monotonic()
        *_, (final, _) = self._answers
        assert monotonic() - began < AT_ONCE_SECONDS
        assert final.Status == CANCELLED
        return final


def test_while_the_destination_does_not_answer_a_sub_operation(site: Site) -> None:
    asked, over = threading.Event(), threading.Event()
    sent_over: list[Association] = []

    def on_store(request: C_STORE, association: Association) -> int:
        sent_over.append(association)
        if request.AffectedSOPInstanceUID == UIDS[1]:
            asked.set()
            over.wait(60)
        return 0

    with destination(site.port, "DEST", on_store=on_store), requestor(site.gateway) as asking:
        moving = Moving(asking, STUDY)
        assert asked.wait(30)
        # Of the one that was broken off nobody knows what became of it: it remains.
        assert counts(moving.cancel()) == (2, 1, 0, 0)
        over.set()
        # Whoever ends it while it answers leaves pynetdicom's socket open.
        eventually(lambda: not sent_over[-1].is_alive())
    assert site.gateway.lines(message="destination failed") == []


@pytest.mark.parametrize(
    ("stalls", "counted"), [(1, (2, 0, 1, 0)), (3, (0, 1, 2, 0))], ids=["first", "second"]
)
def test_what_failed_before_it_was_cancelled_does_not_remain(
    site: Site, stalls: int, counted: tuple[int, ...]
) -> None:
    asked, over = threading.Event(), threading.Event()
    requests = itertools.count()
    sent_over: list[Association] = []

    def on_store(_request: C_STORE, association: Association) -> int:
        number = next(requests)
        sent_over.append(association)
        if number == stalls:
            asked.set()
            over.wait(60)
        # The first two fail and are tried again after the third.
        return 0xA700 if number < 2 else 0

    with destination(site.port, "DEST", on_store=on_store), requestor(site.gateway) as asking:
        moving = Moving(asking, STUDY)
        assert asked.wait(30)
        assert counts(moving.cancel()) == counted
        over.set()
        # Whoever ends it while it answers leaves pynetdicom's socket open.
        eventually(lambda: not sent_over[-1].is_alive())


def test_while_the_destination_does_not_answer_the_association(site: Site) -> None:
    with (
        socket.create_server(("127.0.0.1", site.port)) as server,
        requestor(site.gateway) as asking,
    ):
        moving = Moving(asking, STUDY)
        server.settimeout(30)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b"\x01"
            assert counts(moving.cancel()) == (3, 0, 0, 0)
            connection.settimeout(30)
            # The rest of the request, and then nothing more.
            while connection.recv(65536):
                pass


def test_while_the_destination_cannot_be_reached(site: Site) -> None:
    with ExitStack() as connections, requestor(site.gateway) as asking:
        # Linux takes one connection more than it is told to, and then does not answer.
        server = connections.enter_context(
            socket.create_server(("127.0.0.1", site.port), backlog=0)
        )
        connections.enter_context(closing(socket.create_connection(server.getsockname())))
        moving = Moving(asking, STUDY)
        eventually(lambda: _SYN_SENT in _connections_to(site.port))
        assert counts(moving.cancel()) == (3, 0, 0, 0)


def _connections_to(port: int) -> list[str]:
    """Return the state of each connection to a port of this machine."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[3] for row in rows if row[2].endswith(f":{port:04X}")]


@contextmanager
def receiver(port: int, on_data: Callable[[], object]) -> Iterator[None]:
    """Be a destination that says when P-DATA-TF comes, in the thread that reads them."""

    def look(event: evt.Event) -> None:
        if event.data[0] == 4:
            on_data()

    ae = AE(ae_title="DEST")
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_DATA_RECV, look)]
    )
    assert server is not None
    try:
        yield
    finally:
        server.shutdown()


def test_while_the_destination_does_not_read_what_it_is_sent(site: Site) -> None:
    begun, over = threading.Event(), threading.Event()

    def dawdle() -> None:
        begun.set()
        over.wait(60)

    with receiver(site.port, dawdle), requestor(site.gateway) as asking:
        moving = Moving(asking, LARGE)
        assert begun.wait(30)
        try:
            assert counts(moving.cancel()) == (1, 0, 0, 0)
        finally:
            over.set()


def test_while_s3_does_not_give_what_is_to_be_sent(site: Site) -> None:
    site.s3.fail(Fault.HELD, where=f"/{UIDS[0]}/")
    with destination(site.port, "DEST") as receiving, requestor(site.gateway) as asking:
        moving = Moving(asking, STUDY)
        eventually(lambda: site.s3.held)
        assert counts(moving.cancel()) == (3, 0, 0, 0)
    assert receiving.requests == []


def test_while_s3_does_not_give_the_rest_of_what_is_being_sent(site: Site) -> None:
    site.s3.fail(Fault.HELD, where=SECOND_PART)
    begun = threading.Event()
    with receiver(site.port, begun.set), requestor(site.gateway) as asking:
        moving = Moving(asking, LARGE)
        assert begun.wait(30)
        assert counts(moving.cancel()) == (1, 0, 0, 0)
    assert site.gateway.lines(message="destination failed") == []


def test_while_s3_does_not_give_the_form_that_is_to_be_sent(site: Site) -> None:
    site.s3.fail(Fault.HELD, where=f"/{site.forms[FORM]}")
    takes: Mapping[str, Sequence[str]] = {CTImageStorage: [JPEGLosslessSV1]}
    with destination(site.port, "DEST", takes) as receiving, requestor(site.gateway) as asking:
        moving = Moving(asking, FORM)
        eventually(lambda: site.s3.held)
        assert counts(moving.cancel()) == (1, 0, 0, 0)
    assert receiving.requests == []


@pytest.mark.parametrize("hangs", ["index", "form"])
def test_while_what_went_as_it_was_being_sent_is_to_be_had_from_a_form(
    site: Site, hangs: str
) -> None:
    site.s3.fail(Fault.NO_SUCH_BUCKET, where=SECOND_PART)
    held = site.s3
    if hangs == "form":
        site.s3.fail(Fault.HELD, where=f"/{site.forms[LARGE]}")
    else:
        held = site.dynamodb
        site.dynamodb.fail(Fault.HELD, where=f'"sk": {{"S": "{INSTANCE_PREFIX}')
    begun = threading.Event()
    with receiver(site.port, begun.set), requestor(site.gateway) as asking:
        moving = Moving(asking, LARGE)
        assert begun.wait(30)
        eventually(lambda: held.held)
        assert counts(moving.cancel()) == (1, 0, 0, 0)
    assert site.gateway.lines(message="destination failed") == []


def asked_for(asking: Association, study: str) -> Iterator[tuple[Dataset, Dataset | None]]:
    """Send C-MOVE-RQ; return its responses, none of which has been heard yet."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
    return asking.send_c_move(identifier, "DEST", StudyRootMove, MESSAGE_ID)


def test_while_the_index_does_not_say_how_much_is_to_be_sent(site: Site) -> None:
    site.dynamodb.fail(Fault.HELD, where=f"STUDY#{STUDY}")
    with requestor(site.gateway) as asking:
        answers = asked_for(asking, STUDY)
        eventually(lambda: site.dynamodb.held)
        asking.send_c_cancel(MESSAGE_ID, query_model=StudyRootMove)
        began = monotonic()
        [(final, _)] = answers
        assert monotonic() - began < AT_ONCE_SECONDS
    assert (final.Status, counts(final)) == (CANCELLED, (-1, 0, 0, 0))


def test_while_the_index_does_not_say_what_is_to_be_sent(site: Site) -> None:
    site.dynamodb.fail(Fault.HELD, where=f'STUDY#{STUDY}"}}, ":prefix"')
    with destination(site.port, "DEST") as receiving, requestor(site.gateway) as asking:
        moving = Moving(asking, STUDY)
        eventually(lambda: site.dynamodb.held)
        assert counts(moving.cancel()) == (3, 0, 0, 0)
    assert receiving.requests == []


def _asks_or_waits(site: Site, held: int) -> bool:
    return site.s3.held > held or bool(site.gateway.lines(message=_WAITS))


def test_what_hangs_of_cancelled_retrievals_is_bounded(site: Site) -> None:
    site.s3.fail(Fault.HELD, where=f"/{MANY}/")
    with destination(site.port, "DEST"), requestor(site.gateway) as asking:
        while not site.gateway.lines(message=_WAITS):
            held = site.s3.held
            assert held < 3 * AT_A_TIME
            answers = asked_for(asking, MANY)
            eventually(partial(_asks_or_waits, site, held))
            asking.send_c_cancel(MESSAGE_ID, query_model=StudyRootMove)
            *_, (final, _) = answers
            assert final.Status == CANCELLED
        # The last one asked for nothing, not even for what it would have sent.
        assert counts(final) == (-1, 0, 0, 0)
        answers = asked_for(asking, STUDY)
        eventually(lambda: len(site.gateway.lines(message=_WAITS)) > 1)
        site.s3.heal()
        *_, (final, _) = answers
    assert (final.Status, counts(final)) == (0x0000, (-1, len(UIDS), 0, 0))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_gateway_that_stops_does_not_wait_for_what_hangs(
    site: Site, cloud: OfflineCloud, tmp_path: Path, workers: str
) -> None:
    site.s3.fail(Fault.HELD, where=f"/{UIDS[0]}/")
    settings = {
        "AWS_ENDPOINT_URL_S3": site.s3.endpoint,
        "LENTICULAR_DRAIN_SECONDS": "0",
        "LENTICULAR_WORKERS": workers,
    }
    stores = Stores(cloud, site.gateway.bucket, site.gateway.table)
    with (
        destination(site.port, "DEST"),
        running_gateway(tmp_path / "gateway.log", stores, settings) as gateway,
        requestor(gateway) as asking,
    ):
        answers = responses(asking, "DEST", STUDY)
        next(answers)
        eventually(lambda: site.s3.held)
        gateway.terminate()
        assert gateway.process.wait(AT_ONCE_SECONDS) == 0
        assert gateway.lines(level="ERROR") == []


def test_a_part_that_one_request_hangs_on_is_asked_for_once_more(site: Site) -> None:
    def moved(study: str) -> tuple[int, tuple[int, ...]]:
        with requestor(site.gateway) as asking:
            *_, (final, _) = responses(asking, "DEST", study)
        return final.Status, counts(final)

    # One that is the first of its file, and one that is not.
    site.s3.fail(Fault.HELD, where=f"/{UIDS[1]}/", times=1)
    site.s3.fail(Fault.HELD, where=SECOND_PART, times=1)
    with destination(site.port, "DEST") as receiving, ThreadPoolExecutor(2) as pool:
        began = monotonic()
        answers = list(pool.map(moved, (STUDY, LARGE)))
        assert monotonic() - began < 30
        # Held to the end: they came by other requests.
        assert site.s3.held == 2
    assert answers == [(0x0000, (-1, len(UIDS), 0, 0)), (0x0000, (-1, 1, 0, 0))]
    assert len(receiving.requests) == len(UIDS) + 1


@pytest.mark.parametrize(
    ("study", "where", "syntax", "remaining"),
    [
        (STUDY, [f"/{UIDS[0]}/"], ExplicitVRLittleEndian, 3),
        (FORM, [f"/transcoded/{FORM}/"], JPEGLosslessSV1, 1),
        # All of it has to be here before it is converted, and sent.
        (LARGE, [SECOND_PART, LAST_PART], ImplicitVRLittleEndian, 1),
    ],
    ids=["begin", "form", "rest"],
)
def test_while_s3_does_not_give_what_is_to_be_got(
    site: Site, study: str, where: list[str], syntax: str, remaining: int
) -> None:
    for each in where:
        site.s3.fail(Fault.HELD, where=each)
    ae = AE(ae_title="VIEWER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    asking = ae.associate(
        site.gateway.host,
        site.gateway.port,
        contexts=[
            build_context(StudyRootGet),
            build_context(CTImageStorage, syntax),
        ],
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
    )
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
    answers = asking.send_c_get(identifier, StudyRootGet, MESSAGE_ID)
    next(answers)
    eventually(lambda: site.s3.held >= len(where))
    asking.send_c_cancel(MESSAGE_ID, query_model=StudyRootGet)
    began = monotonic()
    *_, (final, _) = answers
    assert monotonic() - began < AT_ONCE_SECONDS
    assert (final.Status, counts(final)) == (CANCELLED, (remaining, 0, 0, 0))
    asking.release()
