"""Each function is traced on AWS and silent elsewhere, and answers in the shape Lambda wants."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cloud.standin import OfflineCloud, offline_cloud
from tests.template.sam import ROOT, Template

SETTINGS = {
    "LENTICULAR_BUCKET": "bucket",
    "LENTICULAR_TABLE": "table",
    **{
        f"LENTICULAR_{name}_QUEUE": "https://queue.invalid/"
        for name in ("COMMIT", "PROCEDURES", "TRANSCODE")
    },
    "POWERTOOLS_SERVICE_NAME": "service",
    "POWERTOOLS_METRICS_NAMESPACE": "Lenticular",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
}
#: What Lambda sets where a call is traced.
ON_LAMBDA = {
    "LAMBDA_TASK_ROOT": "/var/task",
    "_X_AMZN_TRACE_ID": "Root=1-5759e988-bd862e3fe1be46a994272793;"
    "Parent=53995c3f42cd8ad8;Sampled=1",
}
#: A message that no function understands is given back, without a word to AWS.
CALL = """
import sys
import app
class Context:
    function_name = "function"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn"
    aws_request_id = "request"
    get_remaining_time_in_millis = lambda self: 60000
{before}
record = {{"messageId": "m1", "body": "[", "eventSource": "aws:sqs"}}
print(app.handler({{"Records": [record]}}, Context()), file=sys.stderr)
"""
FUNCTIONS = ["commit", "index", "mpps", "transcode"]
#: What of each function reads the message or its objects, where it is traced.
READERS = [
    ("commit", "turns"),
    ("index", "object_keys"),
    ("index", "index_objects"),
    ("mpps", "_steps"),
    ("transcode", "object_key"),
]
#: What reads the message or its objects fails as a library does that quotes a value.
LIBRARY_FAILS = """
def fail(*_):
    raise ValueError("Geheimrat")
app.{name} = fail
"""
#: AWS refuses a call and quotes the value; the key of another is the same.
AWS_REFUSES = """
def fail(*_):
    try:
        app.s3_client().get_object(Bucket="bucket", Key="Geheimrat")
    except app.s3_client().exceptions.ClientError:
        pass
    app.dynamodb_client().put_item(TableName="table", Item={{"pk": {{"N": "Geheimrat"}}}})
app.{name} = fail
"""
#: What it logs itself, and what a module of the shared package does.
TELL_LEVELS = """
import logging
shared = logging.getLogger("lenticular.index")
print(app.logger.log_level, shared.getEffectiveLevel(), file=sys.stderr)
"""


@contextmanager
def daemon() -> Iterator[socket.socket]:
    """Listen where the daemon of X-Ray would."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        yield listening


def called(
    function: str, environment: Mapping[str, str], before: str = ""
) -> "subprocess.Popen[str]":
    path = os.pathsep.join((str(ROOT / "functions" / function), str(ROOT / "layers/core")))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CALL.format(before=before)],
        env={"PYTHONPATH": path, **SETTINGS, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sent(listening: socket.socket) -> list[bytes]:
    """Return the segments that were sent by now."""
    segments: list[bytes] = []
    listening.setblocking(False)
    while True:
        try:
            _, _, segment = listening.recv(1 << 16).partition(b"\n")
        except BlockingIOError:
            return segments
        segments.append(segment)


def traced(listening: socket.socket) -> set[str]:
    """Return the names of what was sent by now."""
    return {name for segment in sent(listening) for name in _names(json.loads(segment))}


def _names(segment: Mapping[str, object]) -> Iterator[str]:
    yield str(segment["name"])
    inner = segment.get("subsegments", [])
    assert isinstance(inner, list)
    for each in inner:
        yield from _names(each)


def test_every_function_is_looked_at_here() -> None:
    assert sorted(path.parent.name for path in Path(ROOT / "functions").glob("*/app.py")) == (
        FUNCTIONS
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_call_is_traced_on_lambda_and_nowhere_else(function: str) -> None:
    with daemon() as of_lambda, daemon() as of_nobody:
        calls = [
            called(function, {**more, "AWS_XRAY_DAEMON_ADDRESS": f"127.0.0.1:{port}"})
            for more, port in (
                (ON_LAMBDA, of_lambda.getsockname()[1]),
                ({}, of_nobody.getsockname()[1]),
            )
        ]
        for call in calls:
            _, answer = call.communicate(timeout=60)
            assert call.returncode == 0, answer
            assert "{'batchItemFailures': [{'itemIdentifier': 'm1'}]}" in answer
        assert "## handler" in traced(of_lambda)
        assert traced(of_nobody) == set()


@pytest.mark.parametrize(("function", "name"), READERS)
def test_what_a_foreign_exception_says_is_neither_logged_nor_traced(
    function: str, name: str
) -> None:
    with daemon() as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        environment = {
            **ON_LAMBDA,
            "AWS_XRAY_DAEMON_ADDRESS": address,
            "POWERTOOLS_LOG_LEVEL": "DEBUG",
        }
        call = called(function, environment, LIBRARY_FAILS.format(name=name))
        log, other = call.communicate(timeout=60)
        segments = b"".join(sent(listening)).decode()
    lines = [json.loads(line) for line in log.splitlines()]
    [failure] = [line["exception"] for line in lines if line.get("level") == "ERROR"]
    assert failure[0]["type"] == "ValueError"
    assert failure[0]["frames"][-1].endswith(" fail")
    assert "## handler" in segments
    assert "Geheimrat" not in log + other + segments


@pytest.fixture(scope="module")
def cloud() -> Iterator[OfflineCloud]:
    """Run moto with the table of the settings."""
    with offline_cloud() as running:
        running.clients.dynamodb.create_table(
            TableName=SETTINGS["LENTICULAR_TABLE"],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "N"}],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield running


@pytest.mark.parametrize(
    ("function", "name"), [each for each in READERS if each[1] != "object_keys"]
)
def test_of_what_aws_refuses_a_trace_has_the_code_and_no_word_value_or_key(
    cloud: OfflineCloud, function: str, name: str
) -> None:
    with daemon() as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        environment = {**ON_LAMBDA, **cloud.environment, "AWS_XRAY_DAEMON_ADDRESS": address}
        call = called(function, environment, AWS_REFUSES.format(name=name))
        log, other = call.communicate(timeout=60)
        segments = [json.loads(segment) for segment in sent(listening)]
    assert "Geheimrat" not in log + other + json.dumps(segments)
    calls = {
        (each["name"], each["aws"]["operation"], each["annotations"]["error_code"])
        for each in segments
        if each.get("namespace") == "aws"
    }
    assert calls == {
        ("s3", "GetObject", "NoSuchBucket"),
        ("dynamodb", "PutItem", "ValidationException"),
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_level_a_function_is_given_is_that_of_the_shared_package_too(function: str) -> None:
    call = called(function, {"POWERTOOLS_LOG_LEVEL": "WARNING"}, TELL_LEVELS)
    _, levels = call.communicate(timeout=60)
    assert levels.splitlines()[0] == "30 30"


def test_every_function_warns_of_a_variable_that_is_no_setting() -> None:
    makers = {"commit": "_committing", "index": "_settings", "mpps": "_stores"}
    calls = [
        called(
            function,
            {"LENTICULAR_TABEL": "table"},
            f"app.{makers.get(function, '_transcoder')}()",
        )
        for function in FUNCTIONS
    ]
    for call in calls:
        log, _ = call.communicate(timeout=60)
        [warning] = [each for each in map(json.loads, log.splitlines()) if "most_like" in each]
        assert warning["level"] == "WARNING"
        assert warning["most_like"] == {"LENTICULAR_TABEL": "LENTICULAR_TABLE"}


def test_every_function_may_write_its_traces(transformed: Template) -> None:
    functions = transformed.properties("AWS::Lambda::Function")
    roles = transformed.properties("AWS::IAM::Role")
    assert functions
    for function in functions.values():
        assert function["TracingConfig"] == {"Mode": "Active"}
        (policy,) = roles[function["Role"]["Fn::GetAtt"][0]]["Policies"]
        allowed = [each["Action"] for each in policy["PolicyDocument"]["Statement"]]
        assert ["xray:PutTelemetryRecords", "xray:PutTraceSegments"] in allowed
