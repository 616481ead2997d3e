"""A study is deleted while others are at work on it: nothing comes behind, and nothing is lost.

The functions' own handlers, and the gateway's custody, run against the deletion of the same study,
stopped before every call that they, or it, make of AWS.
"""

import importlib.util
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, Lock, Thread
from types import ModuleType
from typing import Any, Final

import pytest

from gateway.custody import Custody
from lenticular import deletion
from lenticular.archive import INSTANCES, TRANSCODED, Archive
from lenticular.deletion import Deletions, Plan, Record, State
from lenticular.errors import StoreUnavailable
from lenticular.forms import FormStore
from lenticular.index import Index
from lenticular.index_items import Item
from lenticular.indexing import index_objects, rebuild
from lenticular.originals import write_original
from lenticular.transcoding import Transcoder, originals_without_form
from lenticular.transcoding_policy import TranscodingPolicy
from tests import images
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import ROOT, Store
from tests.images import Image

# A function that finds nothing to do counts nothing.
pytestmark = pytest.mark.filterwarnings("ignore:No application metrics")

NOW: Final = datetime.now(UTC)
KEPT: Final = timedelta(days=30)
CT: Final = images.smooth("ct", 32, 32)
ONE_BIT: Final = Image("bits", 1, 1, bytes(633), uid=f"{images.STUDY}.1.2")
#: More than any of them makes.
CALLS: Final = 60
PATIENCE_SECONDS: Final = 60


@pytest.fixture
def store(cloud: OfflineCloud, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Create an empty node, and the environment that its parts find it by."""
    store = Store.in_cloud(cloud)
    for name, value in {
        **cloud.environment,
        "LENTICULAR_BUCKET": store.bucket,
        "LENTICULAR_TABLE": store.table,
        "LENTICULAR_TRANSCODE": "jpeg-lossless",
        "LENTICULAR_FORMS_CLASS": "STANDARD",
        "LENTICULAR_TRANSCODE_QUEUE": "asked for nothing",
        "POWERTOOLS_SERVICE_NAME": "lenticular",
        "POWERTOOLS_METRICS_NAMESPACE": "Lenticular",
    }.items():
        monkeypatch.setenv(name, value)
    return store


class Killed(BaseException):
    """A function's process is no more."""


@dataclass
class Gate:
    """Stops whose clients lead through it before one call, until that is let go on or killed.

    The calls of one operation alone are counted, or of all.
    """

    at: int
    operation: str = ""
    calls: int = 0
    killed: bool = False
    stopped: Event = field(default_factory=Event)
    opened: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)

    def client(self, client: Any) -> Any:
        return Through(client, self.passed)

    def passed(self, name: str, _request: dict[str, Any]) -> None:
        with self.lock:
            number = self.calls
            self.calls += name.startswith(self.operation)
        if number == self.at and self.calls > number:
            self.stopped.set()
            assert self.opened.wait(PATIENCE_SECONDS)
        if self.killed:
            raise Killed


@dataclass
class Through:
    """A client of AWS, before each call of which something is told of it."""

    client: Any
    tell: Callable[[str, dict[str, Any]], object]

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.client, name)
        if name in {"meta", "exceptions"}:
            return operation

        def told(*arguments: Any, **request: Any) -> Any:
            self.tell(name, request)
            return operation(*arguments, **request)

        return told


class _Context:
    function_name = "function"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:function"
    aws_request_id = "request"


@dataclass
class Function:
    """A function's handler, as Lambda loads it."""

    store: Store
    module: ModuleType
    body: Callable[[str], Any]

    @classmethod
    def load(cls, store: Store, name: str, body: Callable[[str], Any]) -> "Function":
        spec = importlib.util.spec_from_file_location(name, ROOT / f"functions/{name}/app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return cls(store, module, body)

    def run(self, keys: Iterable[str], gate: Gate) -> None:
        """Call it with a message for each key, in an environment of its own."""
        for name in ("_stores", "_transcoder"):
            if cached := getattr(self.module, name, None):
                cached.cache_clear()
        clients = self.store.cloud.clients
        vars(self.module)["s3_client"] = lambda: gate.client(clients.s3)
        vars(self.module)["dynamodb_client"] = lambda: gate.client(clients.dynamodb)
        records = [{"messageId": key, "body": json.dumps(self.body(key))} for key in keys]
        if not records:
            return
        try:
            answer = self.module.handler({"Records": records}, _Context())
        except Killed:
            return
        assert gate.killed or answer["batchItemFailures"] == []


class Rebuilding(Function):
    """The operator's command, in the place of a function."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def run(self, keys: Iterable[str], gate: Gate) -> None:
        """Rebuild the index, again where that is asked for."""
        del keys
        clients = self.store.cloud.clients
        archive = Archive(gate.client(clients.s3), self.store.bucket)
        index = Index(gate.client(clients.dynamodb), self.store.table)
        with suppress(Killed):
            rebuild(archive, index)


def index_function(store: Store, monkeypatch: pytest.MonkeyPatch) -> Function:
    monkeypatch.setenv("LENTICULAR_TRANSCODE", "none")

    def body(key: str) -> Any:
        return {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key}}}]}

    return Function.load(store, "index", body)


def transcode_function(store: Store, monkeypatch: pytest.MonkeyPatch, retire: str) -> Function:
    monkeypatch.setenv("LENTICULAR_RETIRE_ORIGINAL", retire)
    return Function.load(store, "transcode", lambda key: {"object_key": key})


def put(store: Store, image: Image) -> str:
    store.put_bytes(image.key(), image.file())
    return image.key()


def indexed(store: Store, image: Image) -> str:
    key = put(store, image)
    assert index_objects(store.archive, store.index(), [key]) == []
    return key


def transcoded(store: Store, key: str, *, retire: bool) -> None:
    s3: Any = store.cloud.clients.s3
    policy = TranscodingPolicy.parse("jpeg-lossless")
    forms = FormStore(s3, store.bucket)
    Transcoder(store.archive, forms, store.index(), policy, retire_originals=retire).transcode(key)


def emptied(store: Store) -> None:
    """Leave nothing in bucket and table."""
    s3: Any = store.cloud.clients.s3
    dynamodb: Any = store.cloud.clients.dynamodb
    found = s3.list_object_versions(Bucket=store.bucket)
    for each in (*found.get("Versions", []), *found.get("DeleteMarkers", [])):
        s3.delete_object(Bucket=store.bucket, Key=each["Key"], VersionId=each["VersionId"])
    for pk, sk in store.items():
        dynamodb.delete_item(TableName=store.table, Key={"pk": {"S": pk}, "sk": {"S": sk}})


def items(store: Store) -> list[Item]:
    return sorted(store.index().partition(images.STUDY), key=lambda item: str(item["sk"]))


def plan(store: Store) -> Plan:
    return deletions(store).plan(images.STUDY, timedelta(0), NOW)


def deletions(
    store: Store,
    pause: Callable[[float], object] = lambda _: None,
    tell: Callable[[str, dict[str, Any]], object] = lambda _name, _request: None,
) -> Deletions:
    clients: Any = store.cloud.clients
    s3 = Through(clients.s3, tell)
    index = Index(Through(clients.dynamodb, tell), store.table)  # type: ignore[arg-type]
    return Deletions(s3, Archive(s3, store.bucket), index, pause=pause)  # type: ignore[arg-type]


def delete(store: Store, planned: Plan, pause: Callable[[float], object]) -> Record:
    return deletions(store, pause).delete(planned, by="a", reason="a test", kept=KEPT, now=NOW)


def nothing_is_left(store: Store) -> None:
    left = [*store.archive.keys(INSTANCES), *store.archive.keys(TRANSCODED)]
    assert (left, items(store), store.index().leases(images.STUDY)) == ([], [], frozenset())
    states = {state for _, state in deletions(store).all(images.STUDY)}
    assert states <= {State.DELETED, State.RESTORED}


def all_is_there(store: Store, *stored: Image) -> None:
    """Find and read each image, and hold bucket and index against each other."""
    for image in stored:
        item = store.index().instance(images.STUDY, f"{images.STUDY}.1", image.uid)
        assert item is not None
        file = io.BytesIO()
        write_original(store.archive, item, file)
        assert file.getvalue() == image.file()
    before = items(store)
    rebuild(store.archive, store.index())
    assert items(store) == before


def stops(function: Function, keys: list[str], operation: str) -> Iterator[tuple[Gate, Thread]]:
    """Run a function once for each of its calls, stopped before that."""
    for at in itertools.count():
        gate = Gate(at, operation)
        running = Thread(target=function.run, args=(keys, gate))
        running.start()
        while not gate.stopped.wait(0.005):
            if not running.is_alive():
                assert at, "it makes no such call"
                return
        yield gate, running


@dataclass(frozen=True)
class Case:
    """What is deleted at which moment.

    Attributes:
        operation: what the calls before which it is begin with
        is_killed: whether the function ends there, or goes on as soon as it is waited for
    """

    image: Image = CT
    retire: str = "false"
    operation: str = ""
    is_killed: bool = False

    def __str__(self) -> str:
        fate = "killed" if self.is_killed else "going on"
        return f"{self.image.name} retire={self.retire} {self.operation or 'any call'} {fate}"


def deleted_meanwhile(
    store: Store, function: Function, case: Case, before: Callable[[Store, Image], object]
) -> Iterator[Record]:
    """Store, begin a function, stop it, delete the study, let it go on or not; at every call."""
    before(store, case.image)
    planned = plan(store)
    for gate, running in stops(function, [case.image.key()], case.operation):

        def goes_on(_: float, gate: Gate = gate, running: Thread = running) -> None:
            gate.opened.set()
            running.join(PATIENCE_SECONDS)

        if case.is_killed:
            gate.killed = True
            goes_on(0)
        record = delete(store, planned, goes_on)
        goes_on(0)
        assert not running.is_alive()
        yield record
        emptied(store)
        before(store, case.image)
        planned = plan(store)


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the dead no longer than it takes to see that it is done."""
    monkeypatch.setattr(deletion, "LONGEST_LEASE_SECONDS", 3)


@pytest.mark.parametrize(
    "case",
    [
        Case(operation="put_object"),
        Case(ONE_BIT, operation="put_object"),
        *(
            pytest.param(Case(image, retire, is_killed=is_killed), marks=pytest.mark.slow)
            for image, retire in ((CT, "false"), (CT, "true"), (ONE_BIT, "false"))
            for is_killed in (False, True)
        ),
    ],
    ids=str,
)
def test_nothing_is_left_of_a_study_that_is_deleted_while_it_is_transcoded(
    store: Store, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    transcode = transcode_function(store, monkeypatch, case.retire)
    for record in deleted_meanwhile(store, transcode, case, indexed):
        nothing_is_left(store)
        rebuild(store.archive, store.index())
        nothing_is_left(store)
        assert deletions(store).restore(record, by="a") == len(record.keys)
        transcode.run(originals_without_form(store.archive, images.STUDY), Gate(CALLS))
        assert list(originals_without_form(store.archive, images.STUDY)) == []
        all_is_there(store, case.image)


@pytest.mark.parametrize(
    "case",
    [
        Case(operation="update_item"),
        pytest.param(Case(), marks=pytest.mark.slow),
        pytest.param(Case(is_killed=True), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_nothing_is_left_of_a_study_that_is_deleted_while_it_is_indexed(
    store: Store, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    index = index_function(store, monkeypatch)
    for record in deleted_meanwhile(store, index, case, put):
        nothing_is_left(store)
        assert deletions(store).restore(record, by="a") == 1
        all_is_there(store, CT)


@pytest.mark.parametrize(
    "case",
    [Case(operation="put_item"), pytest.param(Case(), marks=pytest.mark.slow)],
    ids=str,
)
def test_nothing_is_left_of_a_study_that_is_deleted_while_the_index_is_rebuilt(
    store: Store, case: Case
) -> None:
    rebuilding = Rebuilding(store)
    for record in deleted_meanwhile(store, rebuilding, case, put):
        nothing_is_left(store)
        assert deletions(store).restore(record, by="a") == 1
        all_is_there(store, CT)


@dataclass(frozen=True)
class Sending:
    """What was there of an image that is sent again, and what becomes of the deletion meanwhile.

    Attributes:
        was: that it was stored by a node that makes no forms, transcoded, or retired too
        retire: whether it is retired when it has come again
        operation: what the deletion's calls before which it comes begin with
        breaks_off: whether the deletion ends there, and is finished later
    """

    was: str
    retire: bool
    operation: str = ""
    breaks_off: bool = False

    def __str__(self) -> str:
        then = "retired again" if self.retire else "kept"
        ends = " breaking off" if self.breaks_off else ""
        return f"{self.was} then {then} {self.operation or 'any call'}{ends}"


@dataclass
class SentAgain:
    """Sends an image again before a call of a deletion whose record there is.

    It is stored as the gateway does, then indexed and transcoded as the functions do.
    """

    store: Store
    custody: Custody
    sending: Sending
    at: int
    calls: int = -1
    lock: Lock = field(default_factory=Lock)

    @property
    def is_done(self) -> bool:
        return self.calls > self.at

    def tell(self, name: str, _request: dict[str, Any]) -> None:
        with self.lock:
            begins = name == "put_object" and self.calls < 0
            counts = self.calls >= 0 and name.startswith(self.sending.operation)
            number = self.calls
            self.calls += begins or counts
        if not counts or number != self.at:
            return
        if self.custody.keep(CT.key(), bytearray(CT.file()), {"received": "2026-02-02T00:00:00Z"}):
            assert index_objects(self.store.archive, self.store.index(), [CT.key()]) == []
            if self.sending.was != "stored":
                transcoded(self.store, CT.key(), retire=self.sending.retire)
        if self.sending.breaks_off:
            raise StoreUnavailable("the way is gone")


@pytest.mark.parametrize(
    "sending",
    [
        Sending("transcoded", retire=True, operation="delete_object"),
        # Between a look at the bucket and what is removed from the index by it.
        Sending("stored", retire=False, operation="delete_item"),
        pytest.param(Sending("stored", retire=False, breaks_off=True), marks=pytest.mark.slow),
        pytest.param(Sending("transcoded", retire=True), marks=pytest.mark.slow),
        pytest.param(Sending("retired", retire=True, breaks_off=True), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_what_is_sent_again_while_its_study_is_deleted_is_stored_and_stays(
    store: Store, sending: Sending
) -> None:
    custody = Custody(store.bucket, retry_seconds=20)
    for at in itertools.count():
        indexed(store, CT)
        if sending.was != "stored":
            transcoded(store, CT.key(), retire=sending.was == "retired")
        again = SentAgain(store, custody, sending, at)
        planned = plan(store)
        try:
            deletions(store, tell=again.tell).delete(
                planned, by="a", reason="a test", kept=KEPT, now=NOW
            )
        except StoreUnavailable:
            [(record, state)] = deletions(store).all(images.STUDY)
            if state is State.BEGUN:
                deletions(store).finish(record)
        if not again.is_done:
            assert at, "it makes no such call"
            break
        all_is_there(store, CT)
        emptied(store)
    # And it was deleted, where nothing came again.
    nothing_is_left(store)
