"""A commitment says what is so, is worked on until its requester knows, and survives repetition."""

import base64
import hashlib
import json
import re
import ssl
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from gateway.tls import TlsFiles
from lenticular.archive import Form, FormKey, InstanceKey, TransactionKey
from lenticular.commitment import Patience, Reference, Request, State
from lenticular.committing import Committing, Turn, turns
from lenticular.errors import TransactionUidInUse
from lenticular.event_report import Reporter
from lenticular.index_items import Converted
from lenticular.index_keys import series_of_instance
from lenticular.indexing import index_objects
from lenticular.nodes import PERMISSIONS, Node
from lenticular.safekeeping import check
from lenticular.status import CommitmentFailure
from lenticular.tls_calling import Tls
from lenticular.tls_secret import TlsSecret
from lenticular.transactions import Transactions
from tests.bench.committing import counted, put_series
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import CT, Store, study
from tests.commands import lenticular
from tests.peers.commitment_requester import Oddity, Requester, requester
from tests.peers.pki import Authority, Identity

MR = "1.2.840.10008.5.1.4.1.1.4"
LEASE = timedelta(seconds=180)
START = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(cloud: OfflineCloud) -> Store:
    """Return an empty bucket and an empty table."""
    return Store.in_cloud(cloud)


@pytest.fixture
def modality() -> Iterator[Requester]:
    """Run a requester that takes its reports."""
    with requester("MODALITY") as running:
        yield running


@dataclass
class Site:
    """What the commit function works with, and a clock that stands still."""

    store: Store
    modality: Requester
    now: datetime = START
    sent: list[tuple[str, int]] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    secret: TlsSecret | None = None

    def __post_init__(self) -> None:
        self.call(self.modality)
        dynamodb: Any = self.store.cloud.clients.dynamodb
        self.transactions = Transactions(
            self.store.archive, dynamodb, self.store.table, clock=lambda: self.now
        )
        self.committing = Committing(
            archive=self.store.archive,
            index=self.store.index(),
            transactions=self.transactions,
            reporter=Reporter(answer_seconds=2, tls_with=self.tls_with),
            patience=Patience(
                grace=timedelta(minutes=10), report=timedelta(hours=6), first_pause_seconds=30
            ),
            find_node=self.nodes.get,
            send=lambda body, seconds: self.sent.append((body, seconds)),
            clock=lambda: self.now,
        )

    def call(self, modality: Requester, secret: TlsSecret | None = None) -> None:
        """Have a requester be the node, called by TLS where there is a secret for that."""
        self.secret = secret
        self.nodes["MODALITY"] = Node(
            "MODALITY",
            "127.0.0.1",
            modality.port,
            frozenset(PERMISSIONS),
            tls="none" if secret is None else "host",
        )

    def tls_with(self, node: Node) -> Tls | None:
        """Say how TLS is spoken with a node."""
        return None if self.secret is None else self.secret.with_node(node)

    def ask(self, uid: str, references: Sequence[Reference]) -> TransactionKey:
        """Have a request kept as the gateway does."""
        key = TransactionKey("MODALITY", uid)
        self.transactions.ask(Request(key, "LENTICULAR", self.now, tuple(references)))
        return key

    def event(self, key: TransactionKey) -> None:
        """Do what the event of the request's object asks for."""
        self.committing.take(Turn(key, 0, None), LEASE)

    def follow(self) -> int:
        """Let the time of the next message come and do its turn; return how long that was."""
        body, seconds = self.sent.pop(0)
        self.now += timedelta(seconds=seconds)
        for turn in turns(body):
            self.committing.take(turn, LEASE)
        return seconds

    def state(self, key: TransactionKey) -> State:
        """Return how far a transaction is."""
        found = self.transactions.find(key)
        assert found is not None
        return found.state


@pytest.fixture
def site(store: Store, modality: Requester) -> Site:
    return Site(store, modality)


def _stored(
    store: Store, number: int, *, indexed: bool = True
) -> tuple[list[str], list[Reference]]:
    """Store a study; return the keys of its objects and references to its instances."""
    attributes = study(number)
    keys = [store.put(**each) for each in attributes]
    if indexed:
        assert index_objects(store.archive, store.index(), keys) == []
    return keys, [Reference(CT, each["SOPInstanceUID"]) for each in attributes]


def test_everything_that_is_safe_is_committed_to(site: Site) -> None:
    _, references = _stored(site.store, 1)
    key = site.ask("1.2.3", references)
    site.event(key)
    [report] = site.modality.reports
    assert (report.event_type, report.transaction_uid) == (1, "1.2.3")
    assert report.committed == frozenset(references)
    assert report.failed == {}
    assert (report.calling_aet, report.retrieve_aet) == ("LENTICULAR", "LENTICULAR")
    assert report.is_scp is True
    assert site.state(key) is State.REPORTED
    assert site.sent == []


def test_each_reference_that_fails_has_its_reason(site: Site) -> None:
    keys, (first, second, *rest) = _stored(site.store, 1)
    lost = site.store.archive
    s3: Any = site.store.cloud.clients.s3
    s3.delete_object(Bucket=lost.bucket, Key=keys[-1])
    wrong_class = Reference(MR, second.sop_instance_uid)
    unknown = Reference(CT, "1.2.3.4.5")
    unsupported = Reference("1.2.3.4", "1.2.3.4.6")
    key = site.ask("1.2.3", [first, wrong_class, *rest, unknown, unsupported])
    site.now += timedelta(minutes=10)
    site.event(key)
    [report] = site.modality.reports
    assert report.event_type == 2
    assert report.failed == {
        wrong_class: CommitmentFailure.CLASS_INSTANCE_CONFLICT,
        rest[-1]: CommitmentFailure.PROCESSING_FAILURE,
        unknown: CommitmentFailure.NO_SUCH_OBJECT_INSTANCE,
        unsupported: CommitmentFailure.REFERENCED_SOP_CLASS_NOT_SUPPORTED,
    }
    assert report.committed == {first, *rest[:-1]}


def test_an_object_that_was_changed_is_not_safe_and_one_that_was_copied_is(store: Store) -> None:
    keys, references = _stored(store, 1)
    s3: Any = store.cloud.clients.s3
    for key, changed in ((keys[0], b"!"), (keys[1], b"")):
        # The same size, so that the content must be looked at; a copy in parts has another ETag.
        body = s3.get_object(Bucket=store.bucket, Key=key)["Body"].read()
        body = body[: len(body) - len(changed)] + changed
        upload = s3.create_multipart_upload(Bucket=store.bucket, Key=key)["UploadId"]
        part = s3.upload_part(
            Bucket=store.bucket, Key=key, UploadId=upload, PartNumber=1, Body=body
        )
        s3.complete_multipart_upload(
            Bucket=store.bucket,
            Key=key,
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
        )
    failures = check(store.archive, store.index(), references, wait_for_missing=False)
    assert failures == {references[0]: CommitmentFailure.PROCESSING_FAILURE}


def test_every_content_of_an_instance_must_be_there(store: Store) -> None:
    attributes = study(1)[0]
    keys = [store.put(**attributes), store.put(**{**attributes, "PatientName": "Other^Name"})]
    assert index_objects(store.archive, store.index(), keys) == []
    reference = Reference(CT, attributes["SOPInstanceUID"])
    index = store.index()
    assert check(store.archive, index, [reference], wait_for_missing=False) == {}
    s3: Any = store.cloud.clients.s3
    s3.delete_object(Bucket=store.bucket, Key=keys[0])
    assert check(store.archive, index, [reference], wait_for_missing=False) == {
        reference: CommitmentFailure.PROCESSING_FAILURE
    }


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_retired_original_is_safe_while_a_form_that_restores_to_it_is_there(
    store: Store, *, in_parts: bool
) -> None:
    (key, *_), (reference, *_) = _stored(store, 1)
    original = InstanceKey.parse(key)
    assert original is not None
    content = b"the same pixels in another transfer syntax"
    sha256 = hashlib.sha256(content)
    form = str(FormKey(original, "1.2.840.10008.1.2.4.70"))
    s3: Any = store.cloud.clients.s3
    if in_parts:
        # Of parts S3 knows no SHA-256 of the whole, so the object is read.
        store.put_bytes(form, content)
    else:
        checksum = base64.b64encode(sha256.digest()).decode()
        s3.put_object(Bucket=store.bucket, Key=form, Body=content, ChecksumSHA256=checksum)
    became = Converted((Form(form, len(content), sha256.hexdigest()),), retired=True)
    index = store.index()
    assert index.record_converted(original, became)
    s3.delete_object(Bucket=store.bucket, Key=key)
    assert check(store.archive, index, [reference], wait_for_missing=False) == {}
    store.put_bytes(form, content.upper())
    assert check(store.archive, index, [reference], wait_for_missing=False) == {
        reference: CommitmentFailure.PROCESSING_FAILURE
    }


def test_a_series_costs_pages_and_each_instance_a_lookup(store: Store) -> None:
    requests = []
    for series, instances in ((1, 15), (2, 60)):
        references = put_series(store, series, instances)
        with counted(store) as calls:
            assert check(store.archive, store.index(), references, wait_for_missing=True) == {}
        requests.append(dict(calls))
    # The lookups, the items of the series, other contents of its instances, one listing.
    assert requests == [{"Query": each + 2, "ListObjectsV2": 1} for each in (15, 60)]


def test_many_references_are_found_among_all_uids_while_those_are_few(store: Store) -> None:
    references = put_series(store, 1, 300)
    with counted(store) as calls:
        assert check(store.archive, store.index(), references, wait_for_missing=True) == {}
    assert calls == {"Scan": 1, "Query": 2, "ListObjectsV2": 1}
    unknown = [Reference(CT, f"1.2.3.4.{number}") for number in range(300)]
    index = store.index()
    assert check(store.archive, index, [*references, *unknown], wait_for_missing=True) is None
    failures = check(store.archive, index, [*references, *unknown], wait_for_missing=False)
    assert failures == dict.fromkeys(unknown, CommitmentFailure.NO_SUCH_OBJECT_INSTANCE)


@pytest.mark.parametrize("more", [0, 200])
def test_an_instance_in_two_series_must_be_safe_in_both(store: Store, more: int) -> None:
    others = put_series(store, 5, more) if more else []
    first = study(1)[0]
    # As a study that was split, or merged, by a modality that keeps the UIDs of its instances.
    second = {**first, "StudyInstanceUID": "1.2.7", "SeriesInstanceUID": "1.2.7.1"}
    keys = [store.put(**first), store.put(**second)]
    index = store.index()
    assert index_objects(store.archive, index, keys) == []
    reference = Reference(CT, first["SOPInstanceUID"])
    s3: Any = store.cloud.clients.s3
    for key in keys:
        assert check(store.archive, index, [*others, reference], wait_for_missing=True) == {}
        body = s3.get_object(Bucket=store.bucket, Key=key)["Body"].read()
        s3.delete_object(Bucket=store.bucket, Key=key)
        assert check(store.archive, index, [*others, reference], wait_for_missing=True) == {
            reference: CommitmentFailure.PROCESSING_FAILURE
        }
        s3.put_object(Bucket=store.bucket, Key=key, Body=body)


def test_a_content_that_only_the_bucket_has_yet_is_waited_for(store: Store) -> None:
    attributes = study(1)[0]
    index = store.index()
    index_objects(store.archive, index, [store.put(**attributes)])
    reference = Reference(CT, attributes["SOPInstanceUID"])
    second = store.put(**{**attributes, "PatientName": "Other^Name"})
    assert check(store.archive, index, [reference], wait_for_missing=True) is None
    # When nobody waits any more, what counts is that it is there, and whole.
    assert check(store.archive, index, [reference], wait_for_missing=False) == {}
    index_objects(store.archive, index, [second])
    assert check(store.archive, index, [reference], wait_for_missing=True) == {}
    third = second.replace(second[-20:-4], "0" * 16)
    store.put_bytes(third, b"not what its key says")
    assert check(store.archive, index, [reference], wait_for_missing=False) == {
        reference: CommitmentFailure.PROCESSING_FAILURE
    }


@pytest.mark.parametrize("series", ["1.2.1.0", "1.2.1.9"])
def test_a_content_that_was_on_its_way_must_have_come(store: Store, series: str) -> None:
    attributes = study(1)[0]
    index = store.index()
    index_objects(store.archive, index, [store.put(**attributes)])
    reference = Reference(CT, attributes["SOPInstanceUID"])
    second = {**attributes, "PatientName": "Other^Name", "SeriesInstanceUID": series}
    key = store.put(**second)
    s3: Any = store.cloud.clients.s3
    s3.delete_object(Bucket=store.bucket, Key=key)

    def checked(*, wait: bool) -> object:
        quarantined = "quarantine/unidentified/" + "0" * 64 + ".dcm"
        return check(
            store.archive,
            index,
            [reference],
            wait_for_missing=wait,
            arriving=[key, quarantined],
        )

    assert checked(wait=True) is None
    assert checked(wait=False) == {reference: CommitmentFailure.PROCESSING_FAILURE}
    assert store.put(**second) == key
    assert checked(wait=True) is None
    assert checked(wait=False) == {}
    index_objects(store.archive, index, [key])
    assert checked(wait=True) == {}


def test_what_was_on_its_way_at_any_asking_is_remembered(site: Site) -> None:
    key = TransactionKey("MODALITY", "1.2.3")
    references = (Reference(CT, "1.2.3.4"),)
    for arriving in (("a",), (), ("b", "a")):
        site.transactions.ask(Request(key, "LENTICULAR", site.now, references, arriving))
    assert site.transactions.request(key).arriving == ("a", "b")


@pytest.mark.parametrize("series", [1, 12])
def test_references_of_many_series_are_all_found(store: Store, series: int) -> None:
    attributes = study(1, series=series, instances=12 // series)
    keys = [store.put(**each) for each in attributes]
    index_objects(store.archive, store.index(), keys)
    references = [Reference(CT, each["SOPInstanceUID"]) for each in attributes]
    assert check(store.archive, store.index(), references, wait_for_missing=True) == {}
    missing = Reference(CT, "1.2.3.4.5")
    index = store.index()
    asked = [*references, missing]
    assert check(store.archive, index, asked, wait_for_missing=True) is None
    assert check(store.archive, index, asked, wait_for_missing=False) == {
        missing: CommitmentFailure.NO_SUCH_OBJECT_INSTANCE
    }


def test_an_instance_that_is_still_being_indexed_is_waited_for(site: Site) -> None:
    keys, references = _stored(site.store, 1, indexed=False)
    key = site.ask("1.2.3", references)
    site.event(key)
    assert site.modality.reports == []
    pauses = [site.follow() for _ in range(4)]
    assert pauses == sorted(pauses)
    assert site.state(key) is State.CHECKING
    index_objects(site.store.archive, site.store.index(), keys)
    site.follow()
    [report] = site.modality.reports
    assert report.event_type == 1


def test_what_does_not_come_within_the_grace_is_reported_as_missing(site: Site) -> None:
    key = site.ask("1.2.3", [Reference(CT, "1.2.3.4")])
    site.event(key)
    while site.sent:
        site.follow()
    [report] = site.modality.reports
    assert (report.event_type, list(report.failed.values())) == (2, [0x0112])
    assert site.now - START == timedelta(minutes=10)
    assert site.state(key) is State.REPORTED


def test_messages_that_come_again_or_late_bring_no_second_report(site: Site) -> None:
    keys, references = _stored(site.store, 1, indexed=False)
    key = site.ask("1.2.3", references)
    site.event(key)
    earlier, _ = site.sent[0]
    index_objects(site.store.archive, site.store.index(), keys)
    site.follow()
    for body in (earlier, earlier):
        site.sent.append((body, 0))
        site.follow()
    site.event(key)
    assert len(site.modality.reports) == 1
    assert site.sent == []


def test_two_executions_at_a_time_report_once(site: Site) -> None:
    _, references = _stored(site.store, 1)
    key = site.ask("1.2.3", references)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: site.event(key), range(4)))
    assert len(site.modality.reports) == 1
    # Those that came while another was at it look again, and find nothing left to do.
    while site.sent:
        site.follow()
    assert len(site.modality.reports) == 1


@dataclass(frozen=True)
class Crash:
    """Ends an execution at the call of a step, before it or after it."""

    step: str
    after: bool


class Crashed(Exception):
    """What a killed process looks like to the test."""


@pytest.mark.parametrize(
    "crash",
    [
        Crash(step, after)
        for step in ("begin", "checked", "send", "wait", "report", "end")
        for after in (False, True)
    ],
    ids=str,
)
def test_a_crash_anywhere_is_made_good_by_the_next_delivery(
    site: Site, crash: Crash, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, references = _stored(site.store, 1, indexed=False)
    key = site.ask("1.2.3", references)
    crashes = iter([True])
    owner: Any = {"report": Reporter, "send": None}.get(crash.step, Transactions)
    original: Any = site.committing.send if owner is None else getattr(owner, crash.step)

    def crashing(*arguments: Any) -> Any:
        if next(crashes, False):
            if crash.after:
                original(*arguments)
            raise Crashed
        return original(*arguments)

    if owner is None:
        object.__setattr__(site.committing, "send", crashing)
    else:
        monkeypatch.setattr(owner, crash.step, crashing)
    # What Lambda does: a message whose function died comes again after its visibility time-out.
    waiting: list[tuple[Turn, int]] = [(Turn(key, 0, None), 0)]
    for round_ in range(60):
        if not waiting:
            break
        turn, seconds = waiting.pop(0)
        site.now += timedelta(seconds=seconds)
        if round_ == 1:
            index_objects(site.store.archive, site.store.index(), keys)
        try:
            site.committing.take(turn, LEASE)
        except Crashed:
            waiting.append((turn, 1080))
        waiting += [(each, pause) for body, pause in site.sent for each in turns(body)]
        site.sent.clear()
    assert waiting == []
    assert site.state(key) is State.REPORTED
    # Of a crash between the requester's answer and our note of it nobody can know.
    least = 2 if crash == Crash("report", after=True) or crash == Crash("end", after=False) else 1
    assert len(site.modality.reports) == least
    assert all(report.event_type == 1 for report in site.modality.reports)


@pytest.mark.parametrize(
    ("oddity", "problem"),
    [
        (Oddity.REJECTS_ASSOCIATION, "refused the association: no reason given"),
        (Oddity.REJECTS_CONTEXT, "does not accept Storage Commitment Push Model SOP Class"),
        (Oddity.REFUSES_ROLE, r"does not let \w+ use Storage Commitment Push Model SOP Class"),
        # pynetdicom may close the connection before it has sent its A-ABORT.
        (Oddity.ABORTS_ASSOCIATION, "(aborted the association|ended the connection, or .*)"),
        (Oddity.ABORTS, "did not answer the report"),
        (Oddity.FAILS, "answered the report with status 0110"),
        (Oddity.HANGS, "did not answer the report"),
    ],
    ids=lambda each: each.name if isinstance(each, Oddity) else "",
)
def test_a_requester_that_cannot_be_told_is_tried_again_with_growing_pauses(
    site: Site, oddity: Oddity, problem: str
) -> None:
    _, references = _stored(site.store, 1)
    site.modality.oddity = oddity
    key = site.ask("1.2.3", references)
    site.event(key)
    pauses = [site.follow() for _ in range(3)]
    assert pauses[0] == 30
    assert pauses == sorted(pauses)
    found = site.transactions.find(key)
    assert found is not None
    assert (found.state, found.failures) == (State.REPORTING, 0)
    assert re.fullmatch(f"the requester {problem}", found.problem or "")
    site.modality.oddity = None
    site.follow()
    [report] = site.modality.reports
    assert report.committed == frozenset(references)
    assert site.state(key) is State.REPORTED


@dataclass
class Trust:
    """Who trusts whom in a clinic with an authority of its own, and the node's secret."""

    cloud: OfflineCloud
    authority: Authority
    ours: Identity
    right: Identity
    expired: Identity
    stranger: Identity

    def called(self, identity: Identity) -> ssl.SSLContext:
        """Make the context of a requester, which wants to see a certificate of the authority."""
        return TlsFiles(
            certificate=identity.certificate,
            key=identity.key,
            client_ca=self.authority.certificate,
        ).context("bcp195")

    def secret(self, shown: Identity, **instead: str) -> TlsSecret:
        """Put the secret of a node with mutual TLS into the cloud."""
        value = {
            "certificate": shown.certificate.read_text(),
            "key": shown.key.read_text(),
            "client_ca": self.authority.certificate.read_text(),
            **instead,
        }
        name = f"tls-{uuid.uuid4().hex}"
        made = self.client().create_secret(Name=name, SecretString=json.dumps(value))
        return self.kept(made["ARN"])

    def kept(self, arn: str) -> TlsSecret:
        """Return what reads a secret."""
        return TlsSecret(client=self.client, arn=arn, trusts_client_ca=True, profile="bcp195")

    def client(self) -> Any:
        """Make a client of Secrets Manager."""
        return boto3.client(
            "secretsmanager",
            endpoint_url=self.cloud.endpoint,
            region_name="eu-central-1",
            aws_access_key_id="offline",
            aws_secret_access_key="offline",
        )


@pytest.fixture(scope="module")
def trust(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("pki")
    authority, other = Authority.create(folder), Authority.create(folder, "other")
    return Trust(
        cloud,
        authority,
        authority.issue("ours"),
        authority.issue("right"),
        authority.issue("expired", days=-1),
        other.issue("stranger"),
    )


def test_a_requester_is_told_by_tls_alone_and_when_both_trust_each_other(
    store: Store, trust: Trust
) -> None:
    """Whatever does not do is told, tried again, and heard of when it is mended."""
    _, references = _stored(store, 1)
    good = trust.secret(trust.ours)
    gone = trust.kept("arn:aws:secretsmanager:eu-central-1:123456789012:secret:gone-abcdef")
    none = TlsSecret(client=trust.client, arn="", trusts_client_ca=False, profile="bcp195")
    ports = {}
    with ExitStack() as running:
        for name, context in {
            "right": trust.called(trust.right),
            "expired": trust.called(trust.expired),
            "stranger": trust.called(trust.stranger),
            "plain": None,
        }.items():
            ports[name] = running.enter_context(requester("MODALITY", tls=context))
        site = Site(store, ports["right"])
        key = site.ask("1.2.3", references)
        site.event(key)
        for name, secret, told in (
            ("right", None, "ended the connection, or did not answer the association request"),
            ("plain", good, "speaks no TLS on this port"),
            ("expired", good, "shows a certificate that has expired"),
            ("stranger", good, "of nobody that is trusted here: the stack must have MutualTls"),
            ("right", none, "of nobody that is trusted here: the stack must have MutualTls"),
            ("right", trust.secret(trust.stranger), "does not take the certificate that we show"),
            ("right", gone, "cannot be read: ResourceNotFoundException"),
            ("right", trust.secret(trust.ours, key="no key"), "cannot be used"),
        ):
            site.call(ports[name], secret)
            site.follow()
            found = site.transactions.find(key)
            assert found is not None
            assert found.state is State.REPORTING
            assert told in (found.problem or ""), name
        assert not any(each.attempts for each in ports.values())
        site.call(ports["right"], good)
        site.follow()
    [report] = ports["right"].reports
    assert report.committed == frozenset(references)
    assert site.state(key) is State.REPORTED


def test_a_requester_that_is_down_or_removed_is_given_up_after_the_age(site: Site) -> None:
    _, references = _stored(site.store, 1)
    del site.nodes["MODALITY"]
    key = site.ask("1.2.3", references)
    site.event(key)
    turns_made = 0
    while site.sent:
        assert site.follow() <= 900
        turns_made += 1
    assert timedelta(hours=6) <= site.now - START < timedelta(hours=6, minutes=15)
    assert turns_made < 40
    found = site.transactions.find(key)
    assert found is not None
    assert (found.state, found.problem) == (
        State.UNDELIVERED,
        "the requester is not a node with a port to report to",
    )
    assert site.transactions.verdict(key) is not None


def test_a_bucket_that_fails_is_tried_again_and_never_a_reason_to_fail_instances(
    site: Site, store: Store
) -> None:
    _, references = _stored(store, 1)
    key = site.ask("1.2.3", references)
    object.__setattr__(
        site.committing, "archive", type(store.archive)(store.cloud.clients.s3, "gone")
    )
    site.event(key)
    assert site.modality.reports == []
    object.__setattr__(site.committing, "archive", store.archive)
    site.follow()
    [report] = site.modality.reports
    assert report.event_type == 1


def test_the_same_request_again_starts_again_and_another_one_is_refused(site: Site) -> None:
    _, references = _stored(site.store, 1)
    key = site.ask("1.2.3", references)
    site.event(key)
    site.ask("1.2.3", list(reversed(references)))
    site.event(key)
    assert [report.event_type for report in site.modality.reports] == [1, 1]
    with pytest.raises(TransactionUidInUse):
        site.ask("1.2.3", references[:-1])
    site.event(key)
    assert len(site.modality.reports) == 2
    assert site.transactions.request(key).references == tuple(references)


def test_a_transaction_uid_belongs_to_its_requester(site: Site) -> None:
    _, references = _stored(site.store, 1)
    site.ask("1.2.3", references)
    other = TransactionKey("../OTHER 1", "1.2.3")
    site.transactions.ask(Request(other, "LENTICULAR", START, tuple(references[:1])))
    assert site.transactions.request(other).references == tuple(references[:1])
    assert TransactionKey.parse(other.requested) == other
    assert ".." not in other.requested.replace(".2E", "")


@pytest.mark.parametrize(
    "body",
    [
        "no JSON",
        '{"Records": []',
        '{"commitment": "commitments/requested/A/../B.json", "turn": 0, "received": "2026-01-01"}',
        '{"commitment": "commitments/requested/A/1.2.json", "turn": "x", "received": "2026-01-01"}',
        '{"commitment": "commitments/requested/A/1.2.json", "turn": 1}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "x"}}}]}',
    ],
)
def test_a_message_that_is_not_understood_fails(body: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        turns(body)


def test_an_item_of_another_kind_is_no_instance() -> None:
    assert series_of_instance({"pk": "STUDY#1.2", "sk": "SERIES#1.2.3", "uid": "1.2.3"}) is None
    assert series_of_instance({"pk": "STUDY#1.2", "sk": "INSTANCE#1.2.3#1.2.3.4"}) == (
        "1.2",
        "1.2.3",
    )


def test_an_operator_sees_what_could_not_be_told_and_starts_it_again(site: Site) -> None:
    _, references = _stored(site.store, 1)
    missing = Reference(CT, "1.2.3.4.5")
    site.modality.oddity = Oddity.FAILS
    key = site.ask("1.2.3", [*references, missing])
    site.now += timedelta(hours=72)
    site.event(key)
    assert site.state(key) is State.UNDELIVERED

    heading, line = _lenticular(site, "commitments", "list", "--state", "undelivered").splitlines()
    told = dict(zip(re.split("  +", heading), re.split("  +", line), strict=True))
    assert (told["requester"], told["state"]) == ("MODALITY", "undelivered")
    assert (told["references"], told["failures"]) == ("7", "1")
    assert "answered the report with status 0110" in told["problem"]
    listed = json.loads(_lenticular(site, "commitments", "list", "--json"))
    assert (listed["state"], listed["failures"], listed["turns"]) == ("undelivered", 1, 1)
    shown = _lenticular(site, "commitments", "show", "MODALITY", "1.2.3")
    assert "0112 no such object instance 1.2.3.4.5" in " ".join(shown.split())
    assert shown.count("committed  ") == len(references)
    as_json = json.loads(_lenticular(site, "commitments", "show", "MODALITY", "1.2.3", "--json"))
    assert [each["result"] for each in as_json["instances"]] == [
        *["committed"] * len(references),
        "0112 no such object instance",
    ]

    site.modality.oddity = None
    site.now = datetime.now(UTC) + timedelta(minutes=11)
    assert _lenticular(site, "commitments", "retry", "--undelivered").startswith("1 ")
    site.event(key)
    [report] = site.modality.reports
    assert report.event_type == 2
    assert site.state(key) is State.REPORTED


def test_what_a_lost_table_forgot_is_listed_and_begun_again_from_the_bucket(site: Site) -> None:
    _, references = _stored(site.store, 1)
    site.now = datetime.now(UTC) - timedelta(days=9)
    old = site.ask("1.2.2", references)
    site.now = datetime.now(UTC)
    known, lost = site.ask("1.2.3", references), site.ask("1.2.4", references)
    for key in (known, lost):
        site.event(key)
    site.store.cloud.clients.dynamodb.delete_item(
        TableName=site.store.table, Key={"pk": {"S": "COMMITMENT"}, "sk": {"S": str(lost)}}
    )
    listed = json.loads(_lenticular(site, "commitments", "list", "--lost", "--json"))
    assert (listed["requester"], listed["transaction_uid"]) == ("MODALITY", "1.2.4")

    assert _lenticular(site, "commitments", "retry", "OTHER", "--lost").startswith("0 ")
    assert _lenticular(site, "commitments", "retry", "--lost").startswith("1 ")
    site.event(lost)
    assert [report.transaction_uid for report in site.modality.reports] == [
        "1.2.3",
        "1.2.4",
        "1.2.4",
    ]
    assert site.state(lost) is State.REPORTED
    assert _lenticular(site, "commitments", "list", "--lost") == ""
    assert str(old.transaction_uid) in _lenticular(
        site, *(["commitments", "list", "--lost", "--days", "10"])
    )


def _lenticular(site: Site, *arguments: str) -> str:
    environment = {
        **site.store.cloud.environment,
        "LENTICULAR_BUCKET": site.store.bucket,
        "LENTICULAR_TABLE": site.store.table,
    }
    done = lenticular(environment, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout
