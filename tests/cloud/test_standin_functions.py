"""Functions get the template's events as Lambda would bring them, and lose none of them."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.local.event_sources import failed_ids
from tests.cloud.deadline import eventually
from tests.cloud.standin import DATA, RecorderStack

Recorder = Callable[..., RecorderStack]
EMPTY = (0, 0)


def _emptied(stack: RecorderStack, queue: str = "Queue") -> None:
    eventually(lambda: stack.counts(queue), until=lambda counts: counts == EMPTY)


def test_a_stored_object_reaches_the_handler_as_an_s3_event_in_an_sqs_record(
    recorder: Recorder,
) -> None:
    stack = recorder()
    bucket = stack.stack.name("Bucket")
    with stack.running():
        stack.cloud.clients.s3.put_object(Bucket=bucket, Key="instances/1.2/a.dcm", Body=b"x")
        [record] = eventually(stack.records)
        _emptied(stack)
    [notified] = json.loads(record["body"])["Records"]
    assert notified["s3"]["bucket"]["name"] == bucket
    assert notified["s3"]["object"]["key"] == "instances%2F1.2%2Fa.dcm"
    assert notified["eventName"] == "ObjectCreated:Put"


def test_both_prefixes_notify_and_others_do_not(recorder: Recorder) -> None:
    stack = recorder()
    bucket = stack.stack.name("Bucket")
    with stack.running():
        for key in ("elsewhere/1", "instances/2", "quarantine/3"):
            stack.cloud.clients.s3.put_object(Bucket=bucket, Key=key, Body=b"x")
        bodies = eventually(stack.bodies, until=lambda bodies: len(bodies) == 2)
        _emptied(stack)
    keys = {json.loads(body)["Records"][0]["s3"]["object"]["key"] for body in bodies}
    assert keys == {"instances%2F2", "quarantine%2F3"}
    assert len(stack.bodies()) == 2


def test_a_record_has_every_field_lambda_gives_it(recorder: Recorder) -> None:
    stack = recorder()
    stack.sqs.send_message(
        QueueUrl=stack.url("Queue"),
        MessageBody="hello",
        MessageAttributes={
            "colour": {"DataType": "String", "StringValue": "blue"},
            "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        },
    )
    with stack.running():
        [record] = eventually(stack.records)
    assert set(record) == {
        "messageId", "receiptHandle", "body", "attributes", "messageAttributes", "md5OfBody",
        "eventSource", "eventSourceARN", "awsRegion",
    }  # fmt: skip
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"] == stack.stack.get_att("Queue.Arn")
    assert record["awsRegion"] == "us-east-1"
    assert record["md5OfBody"] == "5d41402abc4b2a76b9719d911017c592"
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert {"SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp"} <= set(
        record["attributes"]
    )
    assert record["messageAttributes"]["colour"] == {
        "stringValue": "blue", "stringListValues": [], "binaryListValues": [], "dataType": "String",
    }  # fmt: skip
    assert record["messageAttributes"]["bytes"]["binaryValue"] == "AP8="


def test_a_function_sees_the_templates_environment_and_nothing_of_the_persons(
    recorder: Recorder,
) -> None:
    person = {**os.environ, "SECRET_OF_THE_PERSON": "1", "AWS_PROFILE": "production"}
    stack = recorder()
    stack.send("x")
    with stack.running(environment=person):
        [invocation] = eventually(stack.invocations)
    environment = invocation["environment"]
    assert environment["JOURNAL"] == str(stack.journal)
    assert environment["QUEUE"] == stack.stack.name("Queue")
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == stack.stack.name("Recorder")
    assert environment["AWS_ENDPOINT_URL"] == stack.cloud.endpoint
    allowed = {
        "JOURNAL", "QUEUE", "PATH", "TMPDIR", "LANG", "LC_CTYPE", "TZ", "_HANDLER", "NO_PROXY",
        "no_proxy",
    }  # fmt: skip
    assert {name for name in environment if not name.startswith("AWS_")} <= allowed
    assert "AWS_PROFILE" not in environment


def test_a_function_imports_its_code_and_layers_but_not_the_rest_of_the_tree(
    recorder: Recorder,
) -> None:
    stack = recorder()
    stack.send("x")
    with stack.running():
        invocation = eventually(stack.invocations)[0]
    assert invocation["path"][:2] == [str(DATA / "recorder"), str(DATA / "layer")]
    root = Path(__file__).resolve().parents[2]
    assert str(root) not in invocation["path"]
    assert str(root / "layers" / "core") not in invocation["path"]


def test_the_context_says_which_function_runs_and_how_long_it_may(recorder: Recorder) -> None:
    stack = recorder(TimeoutSeconds="20")
    stack.send("x")
    with stack.running():
        invocation = eventually(stack.invocations)[0]
    assert invocation["function_name"] == stack.stack.name("Recorder")
    assert invocation["arn"].endswith(f":function:{stack.stack.name('Recorder')}")
    assert invocation["memory"] == "256"
    assert 15_000 < invocation["remaining_ms"] <= 20_000
    assert invocation["request_id"]


def test_only_the_failed_messages_of_a_batch_come_back(recorder: Recorder) -> None:
    stack = recorder(VisibilitySeconds="2")
    again = json.dumps({"fail_at_first": True})
    stack.send("a", again, "b")
    with stack.running():
        eventually(stack.bodies, until=lambda bodies: len(bodies) == 4)
        _emptied(stack)
    assert Counter(stack.bodies()) == {"a": 1, "b": 1, again: 2}
    counts = [record["attributes"]["ApproximateReceiveCount"] for record in stack.records()
              if record["body"] == again]  # fmt: skip
    assert counts == ["1", "2"]


def test_a_batch_comes_back_whole_when_the_handler_raises(recorder: Recorder) -> None:
    stack = recorder(VisibilitySeconds="2", MaxReceiveCount="2")
    stack.send("a", json.dumps({"raise": "no"}), "b")
    with stack.running():
        eventually(lambda: stack.counts("DeadLetters"), until=lambda counts: counts[0] == 3)
    assert Counter(stack.bodies())["a"] == 2


def test_a_batch_comes_back_whole_when_the_answer_is_malformed(recorder: Recorder) -> None:
    stack = recorder(VisibilitySeconds="2", MaxReceiveCount="2")
    answer = {"batchItemFailures": [{"itemIdentifier": "of no message"}]}
    stack.send("a", json.dumps({"answer": answer}))
    with stack.running():
        eventually(lambda: stack.counts("DeadLetters"), until=lambda counts: counts[0] == 2)


def test_without_partial_failures_any_answer_is_success(recorder: Recorder) -> None:
    stack = recorder(VisibilitySeconds="2")
    stack.send(json.dumps({"fail": True}), "b", to="PlainQueue")
    with stack.running("PlainRecorder"):
        eventually(stack.bodies, until=lambda bodies: len(bodies) == 2)
        _emptied(stack, "PlainQueue")


def test_a_message_that_always_fails_becomes_a_dead_letter_after_its_last_try(
    recorder: Recorder,
) -> None:
    stack = recorder(VisibilitySeconds="2", MaxReceiveCount="3")
    stack.send(json.dumps({"fail": True}))
    with stack.running():
        eventually(lambda: stack.counts("DeadLetters"), until=lambda counts: counts == (1, 0))
        _emptied(stack)
    assert len(stack.bodies()) == 3


def test_a_batch_gathers_up_to_its_size_within_its_window(recorder: Recorder) -> None:
    stack = recorder(BatchSize="100", WindowSeconds="1")
    stack.send(*map(str, range(250)))
    with stack.running():
        eventually(stack.bodies, until=lambda bodies: len(bodies) == 250)
        _emptied(stack)
    assert sorted(stack.bodies(), key=int) == list(map(str, range(250)))
    sizes = [len(call["event"]["Records"]) for call in stack.invocations()]
    assert sorted(sizes) == [50, 100, 100]


def test_a_lone_message_waits_no_longer_than_its_window(recorder: Recorder) -> None:
    stack = recorder(BatchSize="100", WindowSeconds="1")
    with stack.running():
        started = time.monotonic()
        stack.send("x")
        eventually(stack.bodies)
        assert time.monotonic() - started < 10


def test_a_process_that_dies_in_the_handler_loses_nothing(recorder: Recorder) -> None:
    stack = recorder(VisibilitySeconds="2")
    stack.send("a", json.dumps({"die_at_first": True}), "b")
    with stack.running():
        assert stack.ended() == 3
    with stack.running():
        eventually(lambda: set(stack.bodies()), until=lambda bodies: {"a", "b"} <= bodies)
        _emptied(stack)
    assert len({call["pid"] for call in stack.invocations()}) == 2


def test_sigterm_lets_a_function_finish_what_waits(recorder: Recorder, tmp_path: Path) -> None:
    stack = recorder()
    door = tmp_path / "door"
    stack.send(json.dumps({"hang_until_exists": str(door)}))
    with stack.running() as child:
        eventually(stack.bodies)
        stack.send(*map(str, range(50)))
        child.terminate()
        door.touch()
        assert stack.ended() == 0
    assert set(map(str, range(50))) < set(stack.bodies())
    assert stack.counts() == EMPTY


def test_a_handler_that_overruns_is_told_of_and_what_it_prints_is_a_log_line(
    recorder: Recorder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stack = recorder(TimeoutSeconds="1")
    door = tmp_path / "door"
    stack.send(json.dumps({"print": "a line", "hang_until_exists": str(door)}))
    with stack.running():
        seen = ""

        def logged() -> str:
            nonlocal seen
            seen += capfd.readouterr().err
            return seen

        eventually(logged, until=lambda text: "has not ended within its 1 s" in text)
        door.touch()
        _emptied(stack)
        eventually(logged, until=lambda text: "a line" in text)


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (None, ""),
        ({}, ""),
        ({"batchItemFailures": None}, ""),
        ({"batchItemFailures": []}, ""),
        ({"batchItemFailures": [{"itemIdentifier": "b"}]}, "b"),
        ({"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "a"}]}, "ab"),
        ("done", "abc"),
        ([], "abc"),
        ({"batchItemFailures": "b"}, "abc"),
        ({"batchItemFailures": ["b"]}, "abc"),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, "abc"),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, "abc"),
        ({"batchItemFailures": [{"itemIdentifier": {}}]}, "abc"),
        ({"batchItemFailures": [{"identifier": "b"}]}, "abc"),
        ({"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "z"}]}, "abc"),
    ],
)
def test_an_answer_is_read_as_lambda_reads_it(answer: object, failed: str) -> None:
    assert failed_ids(answer, {"a", "b", "c"}) == set(failed)


def test_nothing_is_lost_while_messages_come_and_go_at_once(recorder: Recorder) -> None:
    stack = recorder(BatchSize="10")
    bucket = stack.stack.name("Bucket")
    count = 600

    def put(number: int) -> None:
        stack.cloud.clients.s3.put_object(Bucket=bucket, Key=f"instances/{number}", Body=b"")

    with stack.running(), ThreadPoolExecutor(8) as putting:
        list(putting.map(put, range(count)))
        bodies = eventually(stack.bodies, until=lambda bodies: len(bodies) >= count)
        _emptied(stack)
    keys = Counter(json.loads(body)["Records"][0]["s3"]["object"]["key"] for body in bodies)
    assert keys == {f"instances%2F{number}": 1 for number in range(count)}


@pytest.mark.slow
def test_five_thousand_objects_at_once_are_all_delivered(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = recorder(BatchSize="100", WindowSeconds="1")
    bucket = stack.stack.name("Bucket")
    count = 5_000

    def put(number: int) -> None:
        stack.cloud.clients.s3.put_object(Bucket=bucket, Key=f"instances/{number}", Body=b"")

    started = time.monotonic()
    with ThreadPoolExecutor(8) as putting:
        list(putting.map(put, range(count)))
    stored = time.monotonic()
    with stack.running():
        bodies = eventually(stack.bodies, until=lambda bodies: len(bodies) >= count, within=300)
        delivered = time.monotonic()
        _emptied(stack)
    with capsys.disabled():
        print(
            f"\n{count / (stored - started):.0f} stored/s beside an ever longer queue, "
            f"{count / (delivered - stored):.0f} events/s delivered"
        )
    keys = Counter(json.loads(body)["Records"][0]["s3"]["object"]["key"] for body in bodies)
    assert keys == {f"instances%2F{number}": 1 for number in range(count)}
