"""Audit messages keep to the standard's schema, and their way out holds up nobody."""

import json
import logging
import resource
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import AuditTrail, Tally
from gateway.negotiation import TurnedAway
from lenticular.audit import (
    APPLICATION_START,
    NODE_AUTHENTICATION,
    Action,
    AuditMessage,
    AuditSource,
    Outcome,
    Participant,
    Study,
)
from lenticular.audit_outlets import AuditFile, OutletFailed
from tests.audit_schema import problems, read
from tests.cloud.deadline import eventually

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
MPPS = "1.2.840.10008.3.1.2.3.3"
STUDY = Study("1.2.3", "PID-1", {CT: 3, MR: 1})
US = AuditSource("LENTICULAR", "ip-10-1-2-3")
SCANNER = Participant("SCANNER", "192.0.2.7")
VIEWER = Participant("VIEWER", "viewer.clinic.example")


class Box:
    """An outlet that keeps what it gets, unless it is `away`."""

    name = "box"
    gather_seconds = 0.0
    is_record = True

    def __init__(self) -> None:
        self.messages: list[AuditMessage] = []
        self.away = False
        self.tried = threading.Event()

    def send(self, messages: Sequence[AuditMessage]) -> int:
        """Keep them."""
        self.tried.set()
        if self.away:
            raise OutletFailed("nobody there")
        self.messages += messages
        return 0

    def close(self) -> None:
        """Do nothing."""


def test_a_store_names_who_sent_what_of_whom_to_whom() -> None:
    message = read(
        US.transferred(
            STUDY, sender=SCANNER, receiver=US.itself, requestor=SCANNER,
            action=Action.CREATE, outcome=Outcome.SUCCESS,
        ).to_xml()
    )  # fmt: skip
    assert message.event == "110104 DICOM Instances Transferred"
    assert (message.action, message.outcome) == ("C", "0")
    assert message.requestor == message.party("110153 Source Role ID")
    assert message.requestor.user == "SCANNER"
    assert message.requestor.alternative == "AETITLES=SCANNER"
    assert message.requestor.address == "192.0.2.7"
    assert message.party("110152 Destination Role ID").user == "LENTICULAR"
    assert message.objects == {"110180 Study Instance UID": "1.2.3", "2 Patient Number": "PID-1"}
    assert message.instances == {CT: 3, MR: 1}


def test_a_retrieval_for_another_names_the_three_who_take_part() -> None:
    message = read(US.transfer_begins(STUDY, VIEWER, SCANNER).to_xml())
    assert message.event == "110102 Begin Transferring DICOM Instances"
    assert [each.user for each in message.parties] == ["LENTICULAR", "VIEWER", "SCANNER"]
    assert message.requestor.user == "SCANNER"
    assert not message.requestor.roles


def test_an_alert_says_who_was_turned_away_and_why() -> None:
    message = read(US.alert(NODE_AUTHENTICATION, SCANNER, "not known", {}).to_xml())
    assert message.event == "110113 Security Alert"
    assert message.types == ("110126 Node Authentication",)
    assert message.objects == {"110182 Node ID": "192.0.2.7"}
    assert message.details == {"Alert Description": b"not known"}
    assert not any(each.requestor for each in message.parties)


def test_an_export_names_the_person_and_where_it_went() -> None:
    told = US.exported(STUDY, "it@desk", "file:///media/disc", Outcome.SUCCESS)
    message = read(told.to_xml())
    assert (message.event, message.action) == ("110106 Export", "R")
    assert message.requestor == message.party("110153 Source Role ID")
    assert message.requestor.user == "it@desk"
    assert message.party("110154 Destination Media").user == "file:///media/disc"
    assert "<MediaType" in told.to_xml()
    assert message.objects == {"110180 Study Instance UID": "1.2.3", "2 Patient Number": "PID-1"}
    line = json.loads(told.to_line())
    assert (line["requestor"], line["destination"]) == ("it@desk", "file:///media/disc")


def test_a_procedure_names_its_step_whose_it_is_and_who_sent_it() -> None:
    study = Study("1.2.3", "PID-1", {MPPS: 1}, procedure="1.2.9")
    told = US.procedure(
        study, SCANNER, Action.UPDATE, Outcome.MINOR_FAILURE, {"state": "IN PROGRESS"}
    )
    message = read(told.to_xml())
    assert message.event == "110111 Procedure Record"
    assert (message.action, message.outcome) == ("U", "4")
    assert [each.user for each in message.parties] == [message.requestor.user] == ["SCANNER"]
    assert message.objects == {"110180 Study Instance UID": "1.2.3", "2 Patient Number": "PID-1"}
    assert (message.procedures, message.instances) == (("1.2.9",), {MPPS: 1})
    line = json.loads(told.to_line())
    assert (line["procedure"], line["state"]) == ("1.2.9", "IN PROGRESS")
    # No images, of which other lines tell how many they were.
    assert "instances" not in line


def test_the_line_of_a_message_answers_who_and_what_without_its_xml() -> None:
    line = json.loads(US.transfer_begins(STUDY, VIEWER, SCANNER).to_line())
    assert line["event"] == "Begin Transferring DICOM Instances"
    assert (line["requestor"], line["requestor_address"]) == ("SCANNER", "192.0.2.7")
    assert (line["source"], line["destination"]) == ("LENTICULAR", "VIEWER")
    assert (line["study"], line["patient"]) == ("1.2.3", "PID-1")
    assert problems(line["xml"]) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("AuditMessage>", "Message>"),
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        (" EventDateTime=", " DateTime="),
        ("<AuditSourceIdentification ", '<AuditSourceIdentification Site="1" '),
        ('csd-code="110102"', 'csd-code=""'),
        ('UserIsRequestor="true"', 'UserIsRequestor="perhaps"'),
        ('NumberOfInstances="', 'NumberOfInstances="x'),
        ("</EventIdentification>", "</EventIdentification><MediaIdentifier />"),
    ],
)
def test_what_breaks_the_schema_of_the_standard_is_seen(good: str, bad: str) -> None:
    xml = US.transfer_begins(STUDY, VIEWER, SCANNER).to_xml()
    assert problems(xml) == []
    assert good in xml
    assert problems(xml.replace(good, bad)) != []


@given(st.text(), st.text(), st.text(), st.binary())
def test_whatever_peers_call_themselves_and_their_patients_the_xml_keeps_to_the_schema(
    title: str, patient_id: str, reason: str, identifier: bytes
) -> None:
    peer = Participant(title, "192.0.2.7")
    study = Study("1.2.3", patient_id)
    reason_bytes = reason.encode("utf-8", "replace").decode()
    for message in (
        US.transfer_begins(study, VIEWER, peer),
        US.alert(NODE_AUTHENTICATION, peer, reason_bytes, {}),
        US.query(
            peer, sop_class_uid="1.2", transfer_syntax_uid="1.2.840.10008.1.2",
            identifier=identifier, outcome=Outcome.SUCCESS, facts={},
        ),
    ):  # fmt: skip
        line = message.to_line()
        assert line.isascii()
        assert "\n" not in line
        assert problems(json.loads(line)["xml"]) == []


def test_what_failed_is_told_apart_from_what_did_not() -> None:
    tally = Tally({"1.2.3": "PID-1"})
    for outcome in (Outcome.SUCCESS, Outcome.MINOR_FAILURE, Outcome.SUCCESS):
        tally.count("1.2.3", CT, Action.READ, outcome)
    results = {outcome: study for study, _, outcome in tally.results()}
    assert results[Outcome.SUCCESS] == Study("1.2.3", "PID-1", {CT: 2})
    assert results[Outcome.MINOR_FAILURE] == Study("1.2.3", "PID-1", {CT: 1})


def turned_away(trail: AuditTrail, times: int) -> None:
    for number in range(times):
        trail.turned_away(TurnedAway("192.0.2.7", "not known", f"PEER{number}"))


def test_an_outlet_that_is_away_costs_nobody_time_and_nothing_but_what_cannot_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.audit._MAX_WAITING", 5)
    monkeypatch.setattr("gateway.audit._FIRST_PAUSE_SECONDS", 0.01)
    box = Box()
    box.away = True
    trail = AuditTrail(US, [box])
    trail.start()
    trail.application_started()
    assert box.tried.wait(10)
    # One is in its hands, five wait, four are lost.
    turned_away(trail, 9)
    box.away = False
    eventually(lambda: len(box.messages) == 6)
    trail.close()
    assert len(box.messages) == 6
    assert [message.event_type for message in box.messages[:1]] == [APPLICATION_START]
    said = [each for each in caplog.records if each.message == "audit messages not written"]
    assert sum(vars(each)["lost"] for each in said) == 4
    assert all(each.levelno == logging.ERROR for each in said)


def test_what_is_left_at_the_end_is_written_or_said_to_be_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.audit._FLUSH_SECONDS", 0.2)
    box, away = Box(), Box()
    away.away = True
    trail = AuditTrail(US, [box, away])
    trail.start()
    turned_away(trail, 3)
    trail.close()
    assert len(box.messages) == 3
    said = [each for each in caplog.records if each.message == "audit messages not written"]
    assert sum(vars(each)["lost"] for each in said) == 3


def test_a_file_gets_a_line_for_each_message_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    trail = AuditTrail(US, [AuditFile(path)])
    trail.start()
    trail.application_started()
    trail.close()
    [line] = path.read_text("ascii").splitlines()
    assert json.loads(line)["type"] == "Application Start"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_is_full_leaves_no_torn_line(tmp_path: Path) -> None:
    box = Box()
    trail = AuditTrail(US, [box])
    trail.start()
    turned_away(trail, 3)
    trail.close()
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path)
    file.send(box.messages[:1])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The disk takes a part of the next lines.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) * 3 // 2, hard))
    try:
        with pytest.raises(OutletFailed):
            file.send(box.messages[1:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    file.send(box.messages[1:])
    assert len([json.loads(line) for line in path.read_text("ascii").splitlines()]) == 3


def test_a_trail_that_was_never_started_can_be_closed() -> None:
    AuditTrail(US, [Box()]).close()
