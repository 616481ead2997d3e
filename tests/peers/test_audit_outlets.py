"""Where audit messages go: each outlet against a real other side."""

import json
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest

from lenticular.audit import APPLICATION_START, APPLICATION_STOP, AuditSource
from lenticular.audit_outlets import LogGroup, OutletFailed, Syslog, tls_context
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers.pki import Authority
from tests.peers.repository import repository

START = AuditSource("LENTICULAR", "here").activity(APPLICATION_START)
STOP = AuditSource("LENTICULAR", "here").activity(APPLICATION_STOP)


def test_syslog_connects_again_when_the_repository_has_hung_up(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    with repository(authority) as records:
        syslog = Syslog("127.0.0.1", records.port, tls_context(authority.certificate))
        syslog.send([START])
        eventually(lambda: len(records.messages) == 1)
        records.hang_up()

        # What goes into a connection that is just ending is lost, as RFC 5425 has it; not for long.
        def arrives() -> bool:
            try:
                syslog.send([STOP])
            except OutletFailed:
                return False
            return len(records.messages) > 1

        eventually(arrives)
        syslog.close()
    assert len(records.connections) == 2
    assert records.messages[-1].endswith(STOP.to_xml())


def test_what_syslog_was_given_just_before_its_end_arrives(tmp_path: Path) -> None:
    """Though the tickets that TLS 1.3 sent to us have not been read when the connection ends."""
    authority = Authority.create(tmp_path)
    with repository(authority) as records:
        for _ in range(5):
            records.messages.clear()
            syslog = Syslog("127.0.0.1", records.port, tls_context(authority.certificate))
            syslog.send([START] * 200)
            syslog.close()
            eventually(lambda: len(records.messages) == 200)


def test_syslog_tells_nothing_to_a_repository_that_it_cannot_trust(tmp_path: Path) -> None:
    with repository(Authority.create(tmp_path)) as records:
        stranger = Authority.create(tmp_path, "stranger")
        syslog = Syslog("127.0.0.1", records.port, tls_context(stranger.certificate))
        with pytest.raises(OutletFailed, match="SSLCertVerificationError"):
            syslog.send([START])
        assert records.messages == []


def test_syslog_that_nobody_answers_fails_and_can_be_tried_again(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    with repository(authority) as records:
        pass
    syslog = Syslog("127.0.0.1", records.port, tls_context(authority.certificate))
    with pytest.raises(OutletFailed, match="ConnectionRefusedError"):
        syslog.send([START])


def logs(cloud: OfflineCloud) -> Any:
    make: Any = boto3.client
    return make(
        "logs",
        endpoint_url=cloud.endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def test_a_log_group_gets_lines_in_order_in_a_stream_of_this_process(cloud: OfflineCloud) -> None:
    client, group = logs(cloud), f"audit-{uuid.uuid4().hex}"
    outlet = LogGroup(client, group)
    with pytest.raises(OutletFailed, match="ResourceNotFoundException"):
        outlet.send([START])
    client.create_log_group(logGroupName=group)
    assert outlet.send([STOP, START]) == 0
    assert outlet.send([STOP]) == 0
    [stream] = client.describe_log_streams(logGroupName=group)["logStreams"]
    events = client.get_log_events(
        logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
    )["events"]
    types = [json.loads(event["message"])["type"] for event in events]
    assert types == ["Application Start", "Application Stop", "Application Stop"]
    # Another one of this process, after a restart of the thread, say, finds the stream there.
    assert LogGroup(client, group).send([START]) == 0
