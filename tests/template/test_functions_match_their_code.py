"""Each function's code is there, is given what it reads, and loads what its layers bring."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient

from lenticular.aws import Patience, dynamodb_client, s3_client, sqs_client
from lenticular.settings import (
    CommitSettings,
    IndexSettings,
    ProcedureSettings,
    TranscodeSettings,
)
from tests.template.sam import ROOT, Template, reference

Settings = CommitSettings | IndexSettings | ProcedureSettings | TranscodeSettings
#: Each function, the settings it reads and the layers it has.
FUNCTIONS: dict[str, tuple[type[Settings], set[str]]] = {
    "CommitFunction": (CommitSettings, {"core", "deps"}),
    "IndexFunction": (IndexSettings, {"core", "deps"}),
    "MppsFunction": (ProcedureSettings, {"core", "deps"}),
    "TranscodeFunction": (TranscodeSettings, {"core", "deps", "codecs"}),
}

#: What the Python runtime of Lambda has installed: boto3 and what it needs. botocore also takes
#: certifi where that is there, as it is here.
RUNTIME = {
    "boto3",
    "botocore",
    "certifi",
    "jmespath",
    "python-dateutil",
    "s3transfer",
    "six",
    "urllib3",
}

#: Modules that pydicom takes where they are there: here they are, in a function they are not.
OPTIONAL = ["numpy", "requests", "rle"]

LOADED = """
import sys
sys.modules.update(dict.fromkeys({optional}))
before = set(sys.modules)
import {module}
assert callable({module}.{attribute})
import json, importlib.metadata
roots = {{name.partition(".")[0] for name in set(sys.modules) - before}}
providers = importlib.metadata.packages_distributions()
print(json.dumps(sorted({{each for root in roots for each in providers.get(root, ())}})))
"""


def folder_and_handler(template: Template, function: str) -> tuple[Path, str, str]:
    properties = template.properties("AWS::Serverless::Function")[function]
    module, _, attribute = properties["Handler"].rpartition(".")
    return ROOT / properties["CodeUri"], module, attribute


def locked(path: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9.-]+)==", path.read_text("utf-8"), re.MULTILINE))


def test_no_layer_puts_another_botocore_before_that_of_the_runtime() -> None:
    for layer in ("deps", "codecs"):
        assert locked(ROOT / f"layers/{layer}/requirements.txt").isdisjoint(RUNTIME)


def test_every_function_is_looked_at_here(written: Template) -> None:
    assert sorted(FUNCTIONS) == sorted(written.resources("AWS::Serverless::Function"))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_given_exactly_the_settings_it_reads(
    transformed: Template, function: str
) -> None:
    properties = transformed.properties("AWS::Lambda::Function")[function]
    given = properties["Environment"]["Variables"].keys()
    read = {each.metadata["variable"] for each in dataclasses.fields(FUNCTIONS[function][0])}
    assert {name for name in given if not name.startswith("POWERTOOLS_")} == read


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_defaults_of_the_template_are_those_of_the_settings(
    transformed: Template, function: str
) -> None:
    properties = transformed.properties("AWS::Lambda::Function")[function]
    given = properties["Environment"]["Variables"]
    for setting in dataclasses.fields(FUNCTIONS[function][0]):
        if setting.default is not dataclasses.MISSING:
            written = transformed.default(given[setting.metadata["variable"]])
            assert setting.metadata["parse"](str(written)) == setting.default


def test_parameters_offer_the_choices_that_the_settings_take(written: Template) -> None:
    required = {
        "LENTICULAR_BUCKET": "bucket",
        "LENTICULAR_TABLE": "table",
        "LENTICULAR_COMMIT_QUEUE": "queue",
        "LENTICULAR_FORMS_CLASS": "GLACIER_IR",
        "LENTICULAR_PROCEDURES_QUEUE": "queue",
        "LENTICULAR_TRANSCODE_QUEUE": "queue",
    }
    for parameter, variable in {
        "Duplicates": "LENTICULAR_DUPLICATES",
        "RetireOriginal": "LENTICULAR_RETIRE_ORIGINAL",
    }.items():
        for choice in written.document["Parameters"][parameter]["AllowedValues"]:
            for settings, _ in FUNCTIONS.values():
                settings.from_environment({**required, variable: choice})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_loads_nothing_but_its_layers_and_the_runtime(
    written: Template, function: str
) -> None:
    folder, module, attribute = folder_and_handler(written, function)
    # With no variable set: loading a handler reads no environment and makes no client.
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            LOADED.format(module=module, attribute=attribute, optional=OPTIONAL),
        ],
        env={"PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT / "layers/core")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    distributions = {re.sub("[-_.]+", "-", each).lower() for each in json.loads(loaded.stdout)}
    layers = FUNCTIONS[function][1] - {"core"}
    brought = {
        each for layer in layers for each in locked(ROOT / f"layers/{layer}/requirements.txt")
    }
    assert distributions - {"lenticular"} <= brought | RUNTIME


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_has_its_layers_and_a_log_group_that_ends(
    written: Template, transformed: Template, function: str
) -> None:
    layers = written.properties("AWS::Serverless::LayerVersion")
    listed = written.properties("AWS::Serverless::Function")[function]["Layers"]
    folders = {Path(layers[reference(each) or ""]["ContentUri"]).name for each in listed}
    assert folders == FUNCTIONS[function][1]
    properties = transformed.properties("AWS::Lambda::Function")[function]
    group = transformed.properties("AWS::Logs::LogGroup")[
        properties["LoggingConfig"]["LogGroup"]["Ref"]
    ]
    assert transformed.default(group["RetentionInDays"]) > 0


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_queue_shows_a_message_again_while_its_function_may_be_at_it(
    written: Template, function: str
) -> None:
    # Lambda refuses to map such a queue to the function, and the stack is rolled back.
    properties = written.properties("AWS::Serverless::Function")[function]
    [event] = properties["Events"].values()
    queue = written.properties("AWS::SQS::Queue")[reference(event["Properties"]["Queue"]) or ""]
    visibility = written.document["Parameters"][reference(queue["VisibilityTimeout"]) or ""]
    assert visibility["MinValue"] >= properties["Timeout"]
    # What AWS advises.
    assert visibility["Default"] >= 6 * properties["Timeout"]


def test_a_function_that_puts_work_off_is_not_taken_for_one_that_runs_away(
    written: Template,
) -> None:
    """Lambda ends a chain of messages from a function to itself at the 17th, unless it is told."""
    allowed, sending = set(), set()
    for name, properties in written.properties("AWS::Serverless::Function").items():
        if properties.get("RecursiveLoop") == "Allow":
            allowed.add(name)
        [event] = properties["Events"].values()
        queue = reference(event["Properties"]["Queue"])
        role = written.properties("AWS::IAM::Role")[reference(properties["Role"]) or ""]
        [policy] = role["Policies"]
        if any(
            reference(each["Resource"]) == queue and "sqs:SendMessage" in each["Action"]
            for each in policy["PolicyDocument"]["Statement"]
        ):
            sending.add(name)
    assert allowed == sending == {"CommitFunction", "MppsFunction"}


def test_a_function_in_the_vpc_may_do_what_lambda_asks_its_role_for(written: Template) -> None:
    [name] = (
        reference(each["Role"])
        for each in written.properties("AWS::Serverless::Function").values()
        if "VpcConfig" in each
    )
    [policy] = written.properties("AWS::IAM::Role")[name or ""]["Policies"]
    [actions] = (
        each["Action"] for each in policy["PolicyDocument"]["Statement"] if each["Sid"] == "JoinVpc"
    )
    # As AWS's own policy for it, AWSLambdaVPCAccessExecutionRole, has them.
    assert actions == [
        *("ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface"),
        *("ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"),
        "ec2:UnassignPrivateIpAddresses",
    ]


def longest_seconds(client: BaseClient) -> int:
    """Return how long a request may take that nobody answers."""
    config: Any = client.meta.config
    each = config.connect_timeout + config.read_timeout
    return int(each * config.retries["total_max_attempts"])


def test_a_function_hears_that_a_table_or_a_queue_hangs_before_its_time_is_up(
    written: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    functions = written.properties("AWS::Serverless::Function").values()
    least = min(each["Timeout"] for each in functions)
    assert max(map(longest_seconds, (dynamodb_client(), sqs_client()))) < least
    # The gateway's, of which a peer hears.
    for client in (dynamodb_client(Patience.PEER), s3_client(Patience.PEER)):
        assert longest_seconds(client) < 30
