"""What a person looks at: every alarm and every number on the dashboard is of something real."""

import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.__main__ import gauges
from gateway.association import Ended
from gateway.command_set import CommandField
from gateway.find import QueryEnded
from gateway.metrics import Metrics
from gateway.negotiation import LOCAL_LIMIT_EXCEEDED
from gateway.wire import Outcome as AssociationOutcome
from infra.local.template import read_template
from lenticular.archive import TransactionKey
from lenticular.commitment import Request, Verdict
from lenticular.committing import Progress
from lenticular.index import Reading
from lenticular.settings import GatewaySettings
from lenticular.transcoding import Outcome
from tests.peers.pki import Authority
from tests.template.sam import ROOT, Document, Template, reference

#: A namespace, a name, and the names of the dimensions.
Metric = tuple[str, str, frozenset[str]]


def metrics_of_aws(table: dict[tuple[str, str], str]) -> set[Metric]:
    return {
        (namespace, name, frozenset(dimensions.split()))
        for (namespace, dimensions), names in table.items()
        for name in names.split()
    }


#: What AWS emits of the resources that we have, as its documentation lists it.
OF_AWS = metrics_of_aws(
    {
        ("AWS/SQS", "QueueName"): (
            "ApproximateAgeOfOldestMessage ApproximateNumberOfMessagesDelayed "
            "ApproximateNumberOfMessagesNotVisible ApproximateNumberOfMessagesVisible "
            "NumberOfEmptyReceives NumberOfMessagesDeleted NumberOfMessagesReceived "
            "NumberOfMessagesSent SentMessageSize"
        ),
        ("AWS/Lambda", "FunctionName"): (
            "ConcurrentExecutions Duration Errors Invocations Throttles"
        ),
        ("AWS/DynamoDB", "TableName"): (
            "ConsumedReadCapacityUnits ConsumedWriteCapacityUnits ReadThrottleEvents "
            "WriteThrottleEvents"
        ),
        ("AWS/DynamoDB", "TableName GlobalSecondaryIndexName"): (
            "ConsumedReadCapacityUnits ConsumedWriteCapacityUnits ReadThrottleEvents "
            "WriteThrottleEvents"
        ),
        ("AWS/DynamoDB", "TableName Operation"): "ThrottledRequests",
        ("AWS/S3", "BucketName StorageType"): "BucketSizeBytes NumberOfObjects",
        ("AWS/ECS", "ClusterName ServiceName"): "CPUUtilization MemoryUtilization",
        ("AWS/NetworkELB", "LoadBalancer"): "ActiveFlowCount ConsumedLCUs ProcessedBytes",
        ("AWS/NetworkELB", "LoadBalancer TargetGroup"): "HealthyHostCount UnHealthyHostCount",
        ("AWS/Logs", "LogGroupName"): "IncomingBytes IncomingLogEvents",
        ("AWS/VPN", "VpnId"): "TunnelDataIn TunnelDataOut TunnelState",
    }
)
#: What the index function reads before it finds that there is nothing to do.
ENVIRONMENT_OF_INDEX = {
    "LENTICULAR_BUCKET": "bucket",
    "LENTICULAR_TABLE": "table",
    "LENTICULAR_TRANSCODE_QUEUE": "https://queue.invalid/",
    "POWERTOOLS_SERVICE_NAME": "lenticular-index",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
}
STORAGE_TYPES = {
    *("AllStorageTypes", "StandardStorage", "StandardIAStorage"),
    "GlacierInstantRetrievalStorage",
}


def embedded(lines: Iterable[str]) -> set[Metric]:
    """Return the metrics that CloudWatch makes of log lines in the embedded metric format."""
    return {
        (directive["Namespace"], metric["Name"], frozenset(dimensions))
        for line in map(json.loads, lines)
        for directive in line["_aws"]["CloudWatchMetrics"]
        for dimensions in directive["Dimensions"]
        for metric in directive["Metrics"]
    }


def of_the_gateway(certificate: Path, namespace: str) -> set[Metric]:
    settings = GatewaySettings(bucket="bucket", table="table", tls_certificate=certificate)
    read, write = os.pipe()
    with open(read, encoding="utf-8") as reader:  # noqa: PTH123 - a descriptor
        metrics = Metrics("NODE", namespace, descriptor=write)
        failed = {(int(CommandField.C_STORE_RSP), 0xA700): 1}
        metrics.association_ended(
            Ended(
                outcome=AssociationOutcome.RELEASED,
                seconds=1.0,
                bytes_received=2,
                bytes_sent=3,
                responses=failed,
            )
        )
        metrics.association_rejected(LOCAL_LIMIT_EXCEEDED)
        metrics.query_ended(
            QueryEnded(
                model="STUDY_ROOT",
                level="STUDY",
                plan="by-date",
                status=0,
                matches=1,
                seconds=0.1,
                reading=Reading(),
            )
        )
        spool = {"SpoolDepth": 1, "SpoolBytes": 2, "SpoolOldestAge": 3.0}
        metrics.start(lambda: 0, lambda: {**gauges(settings, None, lambda: 1), **spool})
        metrics.close()
        os.close(write)
        return embedded(reader)


def function(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"counted_{name}", ROOT / f"functions/{name}/app.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(module: ModuleType) -> set[Metric]:
    line = module.metrics.serialize_metric_set()
    module.metrics.clear_metrics()
    return embedded([json.dumps(line)])


@pytest.fixture(scope="module")
def emitted(
    written: Template, gateway: Template, tmp_path_factory: pytest.TempPathFactory
) -> set[Metric]:
    """Return every metric that we and AWS emit, ours by emitting them."""
    authority = Authority.create(tmp_path_factory.mktemp("authority"))
    task = gateway.properties("AWS::ECS::TaskDefinition")["Task"]
    [container] = (each for each in task["ContainerDefinitions"] if "Environment" in each)
    environment = {
        each["Name"]: each["Value"] for each in container["Environment"] if "Name" in each
    }
    given = given_to(written, "Gateway", environment["LENTICULAR_METRICS_NAMESPACE"])
    found = of_the_gateway(authority.certificate, text_of(given)) | OF_AWS
    now = datetime.now(UTC)
    request = Request(TransactionKey("PEER", "1.2"), "NODE", now, ())
    progress = Progress(request, Verdict(now, {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
        for name, what in (("commit", progress), ("transcode", Outcome(None, None, 0))):
            patch.setenv("POWERTOOLS_SERVICE_NAME", f"lenticular-{name}")
            patch.setenv("POWERTOOLS_METRICS_NAMESPACE", namespace_of(written, name))
            module = function(name)
            module._count(what)
            found |= counted(module)
        for name, value in ENVIRONMENT_OF_INDEX.items():
            patch.setenv(name, value)
        patch.setenv("POWERTOOLS_METRICS_NAMESPACE", namespace_of(written, "index"))
        module = function("index")
        module._failed(set())
        found |= counted(module)
    # tests/cloud/test_procedures.py sees this one.
    found.add((namespace_of(written, "mpps"), "ProceduresIncomplete", frozenset({"service"})))
    for stack, template in (("", written), ("Gateway", gateway)):
        for metric_filter in template.properties("AWS::Logs::MetricFilter").values():
            for each in metric_filter["MetricTransformations"]:
                namespace = text_of(given_to(written, stack, each["MetricNamespace"]))
                found.add((namespace, each["MetricName"], frozenset()))
    return found


def text_of(value: Any) -> str:
    return str(value["Fn::Sub"]) if isinstance(value, dict) else str(value)


def given_to(written: Template, stack: str, value: Any) -> Any:
    """Return what the main template gives for a parameter of a nested one, or the value itself."""
    if stack and (name := reference(value)):
        return written.properties("AWS::CloudFormation::Stack")[stack]["Parameters"][name]
    return value


def namespace_of(written: Template, name: str) -> str:
    """Return the namespace that a function writes its metrics to."""
    properties = written.properties("AWS::Serverless::Function")[f"{name.capitalize()}Function"]
    return text_of(properties["Environment"]["Variables"]["POWERTOOLS_METRICS_NAMESPACE"])


@pytest.fixture(scope="module")
def alarms(written: Template, gateway: Template, network: Template) -> dict[str, Document]:
    """Return the alarms of the node, the nested templates' too, by logical id."""
    return {
        name: alarm
        if "Metrics" in alarm
        else {**alarm, "Namespace": text_of(given_to(written, stack, alarm["Namespace"]))}
        for stack, template in (("", written), ("Gateway", gateway), ("Network", network))
        for name, alarm in template.properties("AWS::CloudWatch::Alarm").items()
    }


@pytest.fixture(scope="module")
def dashboard() -> Template:
    return Template(read_template(ROOT / "infra/dashboard.yaml"))


@pytest.fixture(scope="module")
def widgets(written: Template, dashboard: Template) -> list[Document]:
    """Return what is on the dashboard; but for the namespace, a value is its name in braces."""
    [properties] = dashboard.properties("AWS::CloudWatch::Dashboard").values()
    text, _ = properties["DashboardBody"]["Fn::Sub"]
    namespace = text_of(given_to(written, "DashboardStack", {"Ref": "MetricsNamespace"}))
    text = text.replace("${MetricsNamespace}", namespace)
    body: list[Document] = json.loads(text)["widgets"]
    return body


def metrics_on(widget: Document) -> list[list[Any]]:
    return [
        each
        for each in widget["properties"].get("metrics", [])
        if not (isinstance(each[0], dict) and "expression" in each[0])
    ]


def test_an_alarm_watches_what_is_really_emitted(
    alarms: dict[str, Document], emitted: set[Metric]
) -> None:
    assert len(alarms) > 20
    for name, alarm in alarms.items():
        for metric in watched(alarm):
            dimensions = frozenset(each["Name"] for each in metric.get("Dimensions", []))
            assert (metric["Namespace"], metric["MetricName"], dimensions) in emitted, name


def watched(alarm: Document) -> list[Document]:
    """Return the metrics that an alarm looks at, which is one where it names no expression."""
    if "Metrics" not in alarm:
        return [alarm]
    return [each["MetricStat"]["Metric"] for each in alarm["Metrics"] if "MetricStat" in each]


def test_whatever_may_be_asked_of_the_table_and_its_indexes_is_watched_for_being_slowed_down(
    written: Template, alarms: dict[str, Document]
) -> None:
    asked = set(re.findall(r"'dynamodb:(\w+)'", str(written.document["Resources"])))
    asked -= {"LeadingKeys"}
    throttled = [
        {each["Name"]: each["Value"] for each in metric["Dimensions"]}
        for name in ("TableReadThrottledAlarm", "TableWriteThrottledAlarm")
        for metric in watched(alarms[name])
    ]
    assert sorted(each["Operation"] for each in throttled) == sorted(asked)
    assert all(reference(each["TableName"]) == "Table" for each in throttled)
    for name in ("TableReadThrottledAlarm", "TableWriteThrottledAlarm"):
        [sum_of_all] = (each for each in alarms[name]["Metrics"] if "Expression" in each)
        # What was not throttled has no value, and with it a sum would have none.
        assert sum_of_all["Expression"] == "SUM(FILL(METRICS(), 0))"
        returned = [each["Id"] for each in alarms[name]["Metrics"] if each["ReturnData"]]
        assert returned == [sum_of_all["Id"]]


def test_tasks_are_added_by_what_is_really_emitted(
    written: Template, gateway: Template, emitted: set[Metric]
) -> None:
    [(of_associations, share)] = (
        each["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"]["Metrics"]
        for each in gateway.properties("AWS::ApplicationAutoScaling::ScalingPolicy").values()
        if "CustomizedMetricSpecification" in each["TargetTrackingScalingPolicyConfiguration"]
    )
    metric = of_associations["MetricStat"]["Metric"]
    namespace = text_of(given_to(written, "Gateway", metric["Namespace"]))
    dimensions = frozenset(each["Name"] for each in metric["Dimensions"])
    assert (namespace, metric["MetricName"], dimensions) in emitted
    assert [each["ReturnData"] for each in (of_associations, share)] == [False, True]
    name = of_associations["Id"]
    assert share["Expression"] == {"Fn::Sub": f"100 * {name} / ${{MaxAssociations}}"}


def test_tasks_are_added_before_one_has_all_associations_that_it_may_have(
    written: Template, gateway: Template
) -> None:
    [target] = (
        each["TargetTrackingScalingPolicyConfiguration"]["TargetValue"]
        for name, each in gateway.properties("AWS::ApplicationAutoScaling::ScalingPolicy").items()
        if name == "ScaleOnAssociations"
    )
    # Scaling wants the value to be above it for some minutes.
    assert written.document["Parameters"][reference(target) or ""]["MaxValue"] < 100


def test_no_two_nodes_of_an_account_share_a_metric(emitted: set[Metric]) -> None:
    ours = {namespace for namespace, _, _ in emitted if not namespace.startswith("AWS/")}
    assert ours == {"Lenticular/${AWS::StackName}"}


def test_an_alarm_says_what_it_means_and_where_to_read_on_and_reaches_someone(
    alarms: dict[str, Document],
) -> None:
    for name, alarm in alarms.items():
        description = alarm["AlarmDescription"]
        assert description.endswith(f" [runbook-{name}]")
        assert 100 < len(description) <= 1024
        assert [reference(each) for each in alarm["AlarmActions"]] in (
            ["AlarmTopic"],
            ["AlarmTopicArn"],
        )
        assert alarm["TreatMissingData"] in {"breaching", "notBreaching"}


def test_a_log_line_that_an_alarm_counts_is_written_at_every_level_that_can_be_chosen(
    written: Template, gateway: Template
) -> None:
    code = "\n".join(
        path.read_text("utf-8")
        for folder in ("gateway", "layers/core/lenticular")
        for path in (ROOT / folder).glob("*.py")
    )
    filters = [
        each["FilterPattern"]
        for template in (written, gateway)
        for each in template.properties("AWS::Logs::MetricFilter").values()
    ]
    # The gateway's level is the name that Python gives it.
    filters.remove(f'{{ $.level = "{logging.getLevelName(logging.ERROR)}" }}')
    assert len(filters) == 3
    for pattern in filters:
        messages = re.findall(r'\$\.message = "([^"]+)"', pattern)
        each = '$.message = "{}"' if len(messages) == 1 else '($.message = "{}")'
        assert pattern == f"{{ {' || '.join(each.format(one) for one in messages)} }}"
        for message in messages:
            assert re.search(rf'_log\.(warning|error)\(\s*"{message}"', code)
    assert "ERROR" not in written.document["Parameters"]["LogLevel"]["AllowedValues"]


def test_every_alarm_is_on_the_dashboard(
    written: Template, gateway: Template, alarms: dict[str, Document]
) -> None:
    given = written.properties("AWS::CloudFormation::Stack")["DashboardStack"]["Parameters"]
    here = given["AlarmArns"]["Fn::Join"][1]
    own = written.resources("AWS::CloudWatch::Alarm").keys()
    assert {reference(each) for each in here} == own
    there = gateway.document["Outputs"]["AlarmArns"]["Value"]["Fn::Join"][1]
    nested = {reference(each["Fn::If"][1] if "Fn::If" in each else each) for each in there}
    assert nested == gateway.resources("AWS::CloudWatch::Alarm").keys()
    assert alarms.keys() == own | nested | {"VpnDownAlarm"}
    # A parameter of a nested stack takes 4,096 characters; a stack may be called this long.
    arn = len("arn:aws:cloudwatch:ap-southeast-2:123456789012:alarm:" + "-ABCDEFGHIJKLM,")
    assert sum(arn + 60 + len(name) for name in own) < 4096


def test_every_number_on_the_dashboard_is_really_emitted(
    widgets: list[Document], emitted: set[Metric]
) -> None:
    looked_at = 0
    for widget in widgets:
        for namespace, name, *rest in metrics_on(widget):
            dimensions = rest[: len(rest) // 2 * 2]
            metric = (namespace, name, frozenset(dimensions[::2]))
            assert metric in emitted, metric
            values = dict(zip(dimensions[::2], dimensions[1::2], strict=True))
            assert values.get("StorageType", "AllStorageTypes") in STORAGE_TYPES
            looked_at += 1
    assert looked_at > 40


def test_what_the_dashboard_searches_for_is_really_emitted(
    widgets: list[Document], emitted: set[Metric]
) -> None:
    searches = re.findall(
        r"SEARCH\('\{(.+?)\} MetricName=\"(\w+)\"",
        " ".join(
            each[0]["expression"]
            for widget in widgets
            for each in widget["properties"].get("metrics", [])
            if isinstance(each[0], dict)
        ),
    )
    assert len(searches) == 3
    for schema, name in searches:
        namespace, *dimensions = schema.split(",")
        # With anything but letters, digits and slashes it must be quoted, as a stack's hyphen is.
        assert namespace.startswith("AWS/") or re.fullmatch('".+"', namespace)
        assert (namespace.strip('"'), name, frozenset(dimensions)) in emitted


def test_services_on_the_dashboard_are_those_that_the_functions_call_themselves(
    widgets: list[Document], written: Template, alarms: dict[str, Document]
) -> None:
    called = {
        each["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
        for each in written.properties("AWS::Serverless::Function").values()
    }
    named = {
        each[3] for widget in widgets for each in metrics_on(widget) if each[2:3] == ["service"]
    } | {
        each["Value"]
        for alarm in alarms.values()
        for each in alarm.get("Dimensions", [])
        if each["Name"] == "service"
    }
    assert named == called


def test_widgets_do_not_overlap_and_fit_the_grid(widgets: list[Document]) -> None:
    taken: set[tuple[int, int]] = set()
    for widget in widgets:
        cells = {
            (x, y)
            for x in range(widget["x"], widget["x"] + widget["width"])
            for y in range(widget["y"], widget["y"] + widget["height"])
        }
        assert not cells & taken, widget["properties"]
        taken |= cells
    assert max(x for x, _ in taken) == 23


def test_identifiers_of_a_widget_are_what_its_expressions_name(widgets: list[Document]) -> None:
    for widget in widgets:
        metrics = widget["properties"].get("metrics", [])
        ids = [each[-1].get("id") for each in metrics if isinstance(each[-1], dict)]
        known = {each for each in ids if each}
        assert len(known) == sum(each is not None for each in ids)
        for each in metrics:
            if isinstance(each[0], dict) and "SEARCH" not in each[0]["expression"]:
                names = set(re.findall(r"\b[a-z]\w*", each[0]["expression"]))
                assert names <= known, each[0]["expression"]


def test_an_ae_title_that_is_allowed_does_no_harm_to_the_dashboard(written: Template) -> None:
    pattern = written.document["Parameters"]["AeTitle"]["AllowedPattern"]
    assert re.fullmatch(pattern, "CT ROOM-2 (#1)")
    for mark in "\"'\\":
        assert not re.fullmatch(pattern, f"CT{mark}1"), mark


def test_the_dashboard_is_left_out_where_nobody_wants_it(written: Template) -> None:
    stack = written.document["Resources"]["DashboardStack"]
    assert stack["Condition"] == "HasDashboard"
    assert Path(ROOT / stack["Properties"]["TemplateURL"]).is_file()
