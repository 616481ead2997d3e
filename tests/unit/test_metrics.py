"""Metric lines: what CloudWatch makes metrics of, and nothing that says who the patient is."""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.__main__ import gauges
from gateway.association import Ended
from gateway.command_set import CommandField
from gateway.find import QueryEnded
from gateway.metrics import Metrics, is_failure
from gateway.negotiation import CALLED_AET_NOT_RECOGNIZED, LOCAL_LIMIT_EXCEEDED, Rejected
from gateway.wire import Outcome
from lenticular.errors import StoreUnavailable
from lenticular.index import Reading
from lenticular.settings import GatewaySettings

STORE = CommandField.C_STORE_RSP


def ended(responses: Mapping[tuple[int, int], int]) -> Ended:
    return Ended(
        outcome=Outcome.RELEASED,
        seconds=1.5,
        bytes_received=1000,
        bytes_sent=100,
        responses=responses,
    )


def test_objects_that_were_missing_are_counted_for_an_alarm() -> None:
    (line,) = lines(replace(ended({}), objects_missing=2))
    assert metric_values(line)["ObjectsMissing"] == 2


def test_deletions_that_broke_off_are_told_of_and_hold_up_nothing_else() -> None:
    settings = GatewaySettings(bucket="bucket", table="table")

    def no_answer() -> int:
        raise StoreUnavailable("S3 is away")

    assert gauges(settings, None, lambda: 2) == {"DeletionsBrokenOff": 2}
    # A metric that is never there is not paid for.
    assert gauges(settings, None, lambda: 0) == gauges(settings, None, no_answer) == {}


def lines(
    *associations: Ended, queries: Sequence[QueryEnded] = (), rejections: Sequence[Rejected] = ()
) -> list[dict[str, Any]]:
    """Return the lines of all of them, without the gauges before and after."""
    read, write = os.pipe()
    with open(read, encoding="utf-8") as reader:  # noqa: PTH123 - a descriptor
        metrics = Metrics(
            "NODE", "Lenticular/here", descriptor=write, clock=lambda: 1_700_000_000.0
        )
        for association in associations:
            metrics.association_ended(association)
        for query in queries:
            metrics.query_ended(query)
        for rejected in rejections:
            metrics.association_rejected(rejected)
        metrics.start(lambda: 0)
        metrics.close()
        os.close(write)
        first, *rest, last = [json.loads(line) for line in reader]
    for told in (first, last):
        assert "AssociationsOpen" in told
    return rest


def metric_values(line: dict[str, Any]) -> dict[str, Any]:
    """Read a line as CloudWatch does, which drops one that breaks a rule without a word."""
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Lenticular/here"
    (dimensions,) = directive["Dimensions"]
    assert all(isinstance(line[name], str) and line[name] for name in dimensions)
    names = [metric["Name"] for metric in directive["Metrics"]]
    assert all(isinstance(line[name], int | float) for name in names)
    assert line["_aws"]["Timestamp"] == 1_700_000_000_000
    return {name: line[name] for name in (*dimensions, *names)}


def test_a_query_is_one_line_of_what_it_read() -> None:
    query = QueryEnded(
        model="STUDY_ROOT", level="SERIES", plan="by-date", status=0, matches=3, seconds=0.25,
        reading=Reading(items=40, pages=2, capacity_units=5.5, seconds=0.2),
    )  # fmt: skip
    (line,) = lines(queries=[query])
    assert metric_values(line) == {
        "AETitle": "NODE",
        "Queries": 1,
        "QueryItemsRead": 40,
        "QueryCapacityUnits": 5.5,
        "QuerySeconds": 0.25,
    }
    assert (line["QueryMatches"], line["QueryPages"], line["QueryStoreSeconds"]) == (3, 2, 0.2)
    assert (line["Plan"], line["Level"], line["Model"]) == ("by-date", "SERIES", "STUDY_ROOT")


def test_an_association_is_one_line() -> None:
    (line,) = lines(ended({(STORE, 0): 3, (STORE, 0xB000): 1, (CommandField.C_ECHO_RSP, 0): 1}))
    assert metric_values(line) == {
        "AETitle": "NODE",
        "Associations": 1,
        "BytesReceived": 1000,
        "BytesSent": 100,
        "InstancesStored": 4,
        "ObjectsMissing": 0,
    }
    assert (line["Outcome"], line["AssociationSeconds"]) == ("released", 1.5)


def test_each_kind_of_failure_is_counted_by_operation_and_status() -> None:
    _, *failures = lines(
        ended({(STORE, 0): 1, (STORE, 0xA700): 2, (CommandField.C_MOVE_RSP, 0xA801): 1})
    )
    assert [metric_values(line) for line in failures] == [
        {"AETitle": "NODE", "Operation": "C-STORE", "Status": "A700", "Failures": 2},
        {"AETitle": "NODE", "Operation": "C-MOVE", "Status": "A801", "Failures": 1},
    ]


def test_each_rejection_is_counted_by_its_reason() -> None:
    told = lines(rejections=[CALLED_AET_NOT_RECOGNIZED, LOCAL_LIMIT_EXCEEDED])
    assert [metric_values(line) for line in told] == [
        {"AETitle": "NODE", "Reason": reason, "AssociationsRejected": 1}
        for reason in ("called AE title not recognized", "local limit exceeded")
    ]


def test_operations_that_do_not_exist_are_one_metric() -> None:
    _, *failures = lines(ended({(0x8999, 0x0211): 1, (0x8998, 0x0211): 1}))
    assert {line["Operation"] for line in failures} == {"unknown"}


def test_open_associations_are_told_from_time_to_time() -> None:
    read, write = os.pipe()
    with open(read, encoding="utf-8") as reader:  # noqa: PTH123 - a descriptor
        metrics = Metrics(
            *("NODE", "Lenticular/here"),
            descriptor=write,
            clock=lambda: 1_700_000_000.0,
            gauge_seconds=0.01,
        )
        metrics.start(lambda: 7)
        for _ in range(3):
            line = metric_values(json.loads(reader.readline()))
            assert line == {"AETitle": "NODE", "AssociationsOpen": 7, "MetricLinesLost": 0}
        metrics.close()
        os.close(write)


def test_a_stdout_that_nobody_reads_holds_up_no_association() -> None:
    read, write = os.pipe()
    metrics = Metrics("NODE", "Lenticular/here", descriptor=write)
    metrics.start(lambda: 0)
    for _ in range(3000):
        metrics.association_ended(ended({}))
    assert metrics._lost > 0
    # The reader goes, and the thread that writes with it.
    os.close(read)
    for thread in threading.enumerate():
        if thread.name == "metrics":
            thread.join(10)
            assert not thread.is_alive()
    metrics.close()
    os.close(write)


@pytest.mark.parametrize("status", [0x0000, 0x0001, 0x0107, 0xB000, 0xB007, 0xFE00, 0xFF00])
def test_warnings_cancels_and_pending_answers_are_no_failures(status: int) -> None:
    assert not is_failure(status)


@pytest.mark.parametrize("status", [0x0122, 0x0211, 0xA700, 0xA900, 0xC000])
def test_failures_are(status: int) -> None:
    assert is_failure(status)
