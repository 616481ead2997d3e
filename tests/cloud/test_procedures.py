"""Performed procedure steps in the index: beside their studies, with what of them has come."""

import importlib.util
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest

from lenticular.archive import ProcedureKey
from lenticular.errors import StoreUnavailable
from lenticular.index_items import Procedure
from lenticular.indexing import index_objects
from lenticular.indexing import rebuild as rebuild_instances
from lenticular.moments import moment
from lenticular.procedure_step import Cause, Step, created
from lenticular.procedures import Waiting, counted_again, look, missing, newest, rebuild
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import ROOT, Store, study

STEP = "1.2.3.77"
CALLING = "CT1"
WAITING = Waiting(3600)
#: When the final N-SET came.
OVER = datetime(2026, 1, 5, 8, 30, tzinfo=UTC)


@pytest.fixture
def store(cloud: OfflineCloud) -> Store:
    """Return an empty bucket and an empty table."""
    return Store.in_cloud(cloud)


def _ui(*uids: str) -> dict[str, Any]:
    return {"vr": "UI", "Value": list(uids)}


def _begun(*studies: str) -> Step:
    texts = {0x00400253: "S1", 0x00400241: "CT1", 0x00400244: "20260105", 0x00400245: "081500",
             0x00400252: "IN PROGRESS", 0x00080060: "CT"}  # fmt: skip
    scheduled = [
        {"0020000D": _ui(each), "00080050": {"vr": "SH", "Value": ["A1"]}} for each in studies
    ]
    attributes: dict[int, Any] = {tag: {"vr": "LO", "Value": [text]} for tag, text in texts.items()}
    attributes[0x00400270] = {"vr": "SQ", "Value": scheduled}
    return created(STEP, attributes, Cause("2026-01-05T08:15:00.000000Z", CALLING, "0" * 64))


def _over(step: Step, announced: Sequence[str], state: str = "COMPLETED") -> Step:
    references = [
        {"00081150": _ui("1.2.840.10008.5.1.4.1.1.2"), "00081155": _ui(uid)} for uid in announced
    ]
    series = {
        "0020000E": _ui("1.2.3"),
        "00181030": {"vr": "LO", "Value": ["Thorax"]},
        "00081140": {"vr": "SQ", "Value": references[1:]},
        "00400220": {"vr": "SQ", "Value": references[:1]},
    }
    modifications: dict[int, Any] = {
        0x00400252: {"vr": "CS", "Value": [state]},
        0x00400250: {"vr": "DA", "Value": ["20260105"]},
        0x00400251: {"vr": "TM", "Value": ["083000"]},
        0x00400340: {"vr": "SQ", "Value": [series]},
    }
    return step.modified(modifications, Cause(moment(OVER), CALLING, "1" * 64))


def _keep(store: Store, *steps: Step) -> None:
    s3: Any = store.cloud.clients.s3
    for step in steps:
        key = str(ProcedureKey(step.sop_instance_uid, step.number))
        s3.put_object(Bucket=store.bucket, Key=key, Body=step.to_json())


class _Watch:
    """Remembers what a look asks for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.given_up: list[int] = []
        self.broken = False

    def look_again(self, sop_instance_uid: str, check: int, seconds: int) -> None:
        assert sop_instance_uid == STEP
        if self.broken:
            raise StoreUnavailable("SQS did not take a message")
        self.asked.append((check, seconds))

    def give_up(self, procedure: Procedure) -> None:
        self.given_up.append(procedure.received)


def _look(store: Store, watch: _Watch, check: int = 0, *, after: float = 0) -> Procedure:
    found = look(
        store.archive,
        store.index(),
        STEP,
        waiting=WAITING,
        watch=watch,
        check=check,
        now=lambda: OVER + timedelta(seconds=after),
    )
    assert found is not None
    return found


def _arrive(store: Store, *instances: dict[str, str]) -> None:
    keys = [store.put(**attributes) for attributes in instances]
    assert index_objects(store.archive, store.index(), keys) == []


def test_a_step_is_listed_with_its_study_before_anything_of_it_came(store: Store) -> None:
    _keep(store, _begun("1.2.1"))
    watch = _Watch()
    _look(store, watch)
    [listed] = store.index().procedures("1.2.1")
    assert (listed.state, listed.announced, listed.received) == ("IN PROGRESS", 0, 0)
    assert (listed.station_ae_title, listed.calling_ae_title) == ("CT1", CALLING)
    assert (listed.started, listed.ended) == ("20260105T081500", "")
    assert listed.accession_numbers == ("A1",)
    assert not watch.asked
    # A study that has nothing but a step is no study to those who query.
    assert store.index().study("1.2.1") is None
    assert list(store.index().every_study()) == []


def test_what_has_come_already_is_counted_when_the_step_ends(store: Store) -> None:
    instances = study(1)
    begun = _begun("1.2.1")
    _keep(store, begun, _over(begun, [each["SOPInstanceUID"] for each in instances]))
    _arrive(store, *instances)
    watch = _Watch()
    found = _look(store, watch)
    assert (found.state, found.announced, found.received) == ("COMPLETED", 6, 6)
    assert found.is_complete
    assert not watch.asked
    assert not watch.given_up


def test_what_is_late_is_looked_for_at_growing_intervals_until_it_is_there(store: Store) -> None:
    instances = study(1)
    begun = _begun("1.2.1")
    _keep(store, begun, _over(begun, [each["SOPInstanceUID"] for each in instances]))
    _arrive(store, *instances[:4])
    watch = _Watch()
    assert _look(store, watch).received == 4
    _look(store, watch, 1, after=15)
    _arrive(store, instances[4])
    assert _look(store, watch, 2, after=45).received == 5
    _arrive(store, instances[5])
    assert _look(store, watch, 3, after=105).is_complete
    assert watch.asked == [(1, 15), (2, 30), (3, 60)]
    assert not watch.given_up


def test_after_its_patience_it_gives_up_once(store: Store) -> None:
    begun = _begun("1.2.1")
    _keep(store, begun, _over(begun, ["1.2.1.0.0"]))
    watch = _Watch()
    _look(store, watch, 7, after=3599.5)
    assert watch.asked == [(8, 1)]
    for _ in range(2):
        assert _look(store, watch, 8, after=3600.5).overdue
    assert watch.given_up == [0]
    [listed] = store.index().procedures("1.2.1")
    assert listed.overdue
    _arrive(store, study(1)[0])
    again = counted_again(store.archive, store.index(), listed)
    assert again.is_complete
    assert not again.overdue


def test_an_event_that_comes_twice_starts_one_chain_of_looks(store: Store) -> None:
    begun = _begun("1.2.1")
    _keep(store, begun, _over(begun, ["1.2.1.0.0"]))
    watch = _Watch()
    _look(store, watch)
    _look(store, watch, after=3)
    assert watch.asked == [(1, 15)]
    _look(store, watch, 1, after=15)
    _look(store, watch, 1, after=16)
    assert watch.asked == [(1, 15), (2, 30)]
    # The message of the next look was lost with its queue: an event starts the chain anew.
    _look(store, watch, after=200)
    assert watch.asked[2:] == [(1, 15)]


def test_a_look_that_cannot_be_asked_for_fails_the_message_and_is_asked_again(
    store: Store,
) -> None:
    begun = _begun("1.2.1")
    _keep(store, begun, _over(begun, ["1.2.1.0.0"]))
    watch = _Watch()
    watch.broken = True
    with pytest.raises(StoreUnavailable):
        _look(store, watch)
    watch.broken = False
    _look(store, watch)
    assert watch.asked == [(1, 15)]


def test_an_old_event_does_not_bring_an_old_state_back(store: Store) -> None:
    begun = _begun("1.2.1")
    over = _over(begun, ["1.2.1.0.0"], "DISCONTINUED")
    _keep(store, begun)
    watch = _Watch()
    _look(store, watch)
    _keep(store, over)
    _look(store, watch)
    # An event of the first object, late: what counts is what the bucket has.
    assert _look(store, watch).state == "DISCONTINUED"
    assert newest(store.archive, STEP) == over


def test_a_step_of_two_studies_is_listed_with_both_and_counts_both(store: Store) -> None:
    begun = _begun("1.2.1", "1.2.2")
    instances = [study(1)[0], study(2)[0]]
    _keep(store, begun, _over(begun, [each["SOPInstanceUID"] for each in instances]))
    _arrive(store, *instances)
    _look(store, _Watch())
    for uid in ("1.2.1", "1.2.2"):
        [listed] = store.index().procedures(uid)
        assert (listed.announced, listed.received) == (2, 2)


def test_a_rebuild_from_the_bucket_alone_brings_the_steps_back(
    store: Store, cloud: OfflineCloud
) -> None:
    instances = study(1)
    begun = _begun("1.2.1")
    _keep(store, begun, _over(begun, [each["SOPInstanceUID"] for each in instances]))
    _arrive(store, *instances)
    _look(store, _Watch())
    fresh = Store(cloud, store.bucket, Store.in_cloud(cloud).table)
    assert rebuild_instances(fresh.archive, fresh.index()) == len(instances)
    assert rebuild(fresh.archive, fresh.index()) == 1
    assert fresh.items() == store.items()


def test_a_rebuild_of_a_table_in_use_keeps_steps_and_removes_what_is_no_step(
    store: Store,
) -> None:
    _keep(store, _begun("1.2.1"))
    _arrive(store, *study(2))
    index = store.index()
    _look(store, _Watch())
    right = store.items()
    gone = Procedure(
        study_instance_uid="1.2.2", sop_instance_uid="1.2.3.78", number=1, state="IN PROGRESS",
        since="", calling_ae_title="", station_ae_title="", modality="", started="", ended="",
        accession_numbers=(), announced=0, received=0, is_final=False,
    )  # fmt: skip
    assert index.replace(gone.item(), None)
    rebuild_instances(store.archive, index)
    rebuild(store.archive, index)
    assert store.items() == right


def test_steps_are_found_by_the_month_they_started_in(store: Store) -> None:
    _keep(store, _begun("1.2.1"))
    _look(store, _Watch())
    index = store.index()
    [found] = index.procedures_since("2026-01", "20260105T000000")
    assert found.sop_instance_uid == STEP
    assert not list(index.procedures_since("2026-01", "20260106"))
    assert not list(index.procedures_since("2026-02", "0"))


def test_what_is_missing_is_named(store: Store) -> None:
    instances = study(1)
    over = _over(_begun("1.2.1"), [each["SOPInstanceUID"] for each in instances])
    _arrive(store, *instances[1:])
    assert missing(store.index(), over) == {instances[0]["SOPInstanceUID"]}


# The function


class _Context:
    function_name = "mpps"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:mpps"
    aws_request_id = "request"


@pytest.fixture
def queue(cloud: OfflineCloud) -> str:
    """Return the URL of an empty queue."""
    return cloud.clients.sqs.create_queue(QueueName=f"q{uuid.uuid4().hex}")["QueueUrl"]


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch, store: Store, queue: str) -> ModuleType:
    """Load the function as Lambda does, in the environment the template gives it."""
    for name, value in {
        **store.cloud.environment,
        "LENTICULAR_BUCKET": store.bucket,
        "LENTICULAR_TABLE": store.table,
        "LENTICULAR_PROCEDURES_QUEUE": queue,
        "POWERTOOLS_SERVICE_NAME": "lenticular-mpps",
        "POWERTOOLS_METRICS_NAMESPACE": "Lenticular",
    }.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("mpps", ROOT / "functions/mpps/app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stored(*keys: str) -> str:
    records = [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key}}} for key in keys]
    return json.dumps({"Records": records})


def _batch(*bodies: str) -> dict[str, Any]:
    records = [
        {"messageId": f"m{number}", "body": body, "eventSource": "aws:sqs"}
        for number, body in enumerate(bodies)
    ]
    return {"Records": records}


def test_only_the_messages_that_failed_are_reported(store: Store, function: ModuleType) -> None:
    begun = _begun("1.2.1")
    _keep(store, begun)
    answer = function.handler(
        _batch(
            _stored(str(ProcedureKey(STEP, 1))),
            "not JSON",
            json.dumps({"Event": "s3:TestEvent"}),
            json.dumps({"look_again": "../..", "check": 1}),
            _stored("procedures/1.2.99/00001.json"),
        ),
        _Context(),
    )
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m1"}, {"itemIdentifier": "m3"}]}
    assert [each.state for each in store.index().procedures("1.2.1")] == ["IN PROGRESS"]


def test_a_further_look_is_a_message_that_the_queue_delays(
    store: Store, function: ModuleType, queue: str
) -> None:
    begun = _begun("1.2.1")
    # Now, for this one has to be waited for.
    now = moment(datetime.now(UTC))
    over = _over(begun, ["1.2.1.0.0"])
    _keep(store, begun, Step(STEP, 2, Cause(now, CALLING, "1" * 64), over.elements))
    answer = function.handler(_batch(_stored(str(ProcedureKey(STEP, 2)))), _Context())
    assert answer == {"batchItemFailures": []}
    attributes = store.cloud.clients.sqs.get_queue_attributes(
        QueueUrl=queue, AttributeNames=["All"]
    )["Attributes"]
    assert attributes["ApproximateNumberOfMessagesDelayed"] == "1"


def test_giving_up_is_a_metric_that_the_alarm_watches(
    store: Store, function: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = _begun("1.2.1")
    _keep(store, begun, _over(begun, ["1.2.1.0.0"]))
    look_again = json.dumps({"look_again": STEP, "check": 9})
    for _ in range(2):
        function.handler(_batch(look_again), _Context())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [line for line in lines if "ProceduresIncomplete" in line]
    assert [(line["service"], line["ProceduresIncomplete"]) for line in told] == [
        ("lenticular-mpps", [1.0])
    ]
