"""The transactions of storage commitment: their objects in the bucket, their items in the table.

    pk              sk                          says
    COMMITMENT      {requester}/{transaction}   how far it is, how often tried, what went wrong

The object of the request is written first, by the gateway, before it answers. S3 then puts an event
into the queue, so there is no second step that a crash could keep from being done. Everything else
is done by whoever holds the transaction's lease:

    message ─▶ begin: take the lease ─▶ check, report ─▶ end, or wait: give the lease back

A message says of which asking (`received`) and which turn it is. `begin` lets one pass that is not
older than the item, so a message that comes twice, or late, does nothing. A turn that broke off
leaves its lease to end by itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from .archive import COMMITMENTS_REQUESTED, Archive, TransactionKey
from .aws import conditional_write, error_code
from .commitment import Request, State, Verdict
from .errors import CommitmentUnknown, StoreUnavailable, TransactionUidInUse
from .index_items import Item, from_dynamodb, to_dynamodb
from .moments import moment

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_PARTITION: Final = "COMMITMENT"
#: Before any moment.
_NEVER_LEASED: Final = "-"
_OPEN: Final = frozenset({State.CHECKING, State.REPORTING})


class Busy(Exception):
    """Another execution has the transaction's lease."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction as an operator sees it. Moments are None until they have come."""

    key: TransactionKey
    state: State
    received: datetime
    references: int
    failures: int | None
    turn: int
    checked: datetime | None
    ended: datetime | None
    problem: str | None

    @classmethod
    def from_item(cls, item: Item) -> "Transaction":
        """Read the item."""
        failures = item.get("failures")
        return cls(
            TransactionKey(str(item["requester"]), str(item["transaction_uid"])),
            State(str(item["state"])),
            datetime.fromisoformat(str(item["received"])),
            int(str(item["references"])),
            None if failures is None else int(str(failures)),
            int(str(item["turn"])),
            _moment(item, "checked"),
            _moment(item, "ended"),
            str(item["problem"]) if item.get("problem") else None,
        )


class Transactions:
    """Reads and writes transactions. Safe to share between threads."""

    def __init__(
        self,
        archive: Archive,
        client: "DynamoDBClient",
        table: str,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Keep objects in `archive` and items in `table`."""
        self._archive = archive
        self._client = client
        self._table = table
        self._clock = clock

    # Asking

    def ask(self, request: Request) -> None:
        """Keep a request, and return once it is sure to be worked on.

        The same request again starts its transaction again: its requester may have missed the
        report.

        Raises:
            TransactionUidInUse: the UID stands for another request already.
            StoreUnavailable: the request may or may not be kept.
        """
        key = request.key
        if self._archive.create_document(key.requested, request.document()):
            return
        earlier = self.request(key)
        if not request.asks_the_same(earlier):
            raise TransactionUidInUse("the Transaction UID was used for another request")
        again = earlier.asked_again(request.received, request.arriving)
        self._archive.replace_document(key.requested, again.document())

    def ask_again(self, key: TransactionKey) -> None:
        """Start a transaction again, for an operator; raises `CommitmentUnknown`."""
        again = self.request(key).asked_again(self._clock())
        self._archive.replace_document(key.requested, again.document())

    def request(self, key: TransactionKey) -> Request:
        """Return a request, or raise `CommitmentUnknown`."""
        document = self._archive.read_document(key.requested)
        if document is None:
            raise CommitmentUnknown(f"{key.requester} has no commitment {key.transaction_uid}")
        return Request.from_document(document)

    def verdict(self, key: TransactionKey) -> Verdict | None:
        """Return what the last check found, None before there was one."""
        document = self._archive.read_document(key.checked)
        return None if document is None else Verdict.from_document(document)

    # Working on it

    def begin(self, request: Request, turn: int, lease: timedelta) -> Transaction | None:
        """Take the lease for a turn; None when this turn is over, or a later asking has begun.

        Raises:
            Busy: another execution has the lease.
        """
        now = self._clock()
        until = moment(now + lease)
        fresh: Item = {
            "pk": _PARTITION,
            "sk": str(request.key),
            "requester": request.key.requester,
            "transaction_uid": request.key.transaction_uid,
            "state": State.CHECKING.value,
            "received": moment(request.received),
            "references": len(request.references),
            "turn": turn,
            "leased": until,
        }
        created = conditional_write(
            self._client.put_item,
            _failure,
            TableName=self._table,
            Item=to_dynamodb(fresh),
            ConditionExpression="attribute_not_exists(pk) OR #received < :received",
            ExpressionAttributeNames={"#received": "received"},
            ExpressionAttributeValues={":received": {"S": moment(request.received)}},
        )
        if created:
            return Transaction.from_item(fresh)
        leased = self._update(
            request,
            {"leased": until, "turn": turn},
            "#state IN (:checking, :reporting) AND #turn <= :turn AND #leased < :now",
            {
                ":checking": {"S": State.CHECKING},
                ":reporting": {"S": State.REPORTING},
                ":now": {"S": moment(now)},
            },
        )
        present = self._get(request.key)
        if present is None:
            raise Busy
        transaction = Transaction.from_item(present)
        if leased:
            return transaction
        is_open = transaction.state in _OPEN and transaction.received == request.received
        if is_open and transaction.turn <= turn:
            raise Busy
        return None

    def checked(self, request: Request, verdict: Verdict) -> None:
        """Keep what the check found; reporting follows."""
        self._archive.replace_document(request.key.checked, verdict.document())
        self._update(
            request,
            {
                "state": State.REPORTING.value,
                "checked": moment(verdict.checked),
                "failures": len(verdict.failures),
            },
        )

    def wait(self, request: Request, turn: int, problem: str | None) -> None:
        """Give the lease back until the next turn, whose message is on its way already."""
        self._update(request, {"turn": turn, "leased": _NEVER_LEASED, "problem": problem or ""})

    def end(self, request: Request, state: State, problem: str | None = None) -> None:
        """Note how a transaction ended."""
        self._update(
            request,
            {
                "state": state.value,
                "ended": moment(self._clock()),
                "leased": _NEVER_LEASED,
                "problem": problem or "",
            },
        )

    # Looking

    def find(self, key: TransactionKey) -> Transaction | None:
        """Return a transaction; None while its request has not been looked at."""
        item = self._get(key)
        return None if item is None else Transaction.from_item(item)

    def all(self) -> Iterator[Transaction]:
        """Return every transaction that has been looked at, by requester."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": _PARTITION}},
        )
        try:
            for page in pages:
                for item in page["Items"]:
                    yield Transaction.from_item(from_dynamodb(item))
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from error

    def lost(self, since: datetime) -> Iterator[tuple[TransactionKey, datetime]]:
        """Yield what only the bucket has, with when it was last asked for, if not before `since`.

        A table that is new knows of none. One that was asked for just now may be among them, and
        may be started again like them.
        """
        known = {transaction.key for transaction in self.all()}
        for listed in self._archive.listing(COMMITMENTS_REQUESTED):
            key = TransactionKey.parse(listed.key)
            if key is None or key in known or listed.modified < since:
                continue
            # An object that was copied from another bucket is younger than its request.
            received = self.request(key).received
            if received >= since:
                yield key, received

    def _get(self, key: TransactionKey) -> Item | None:
        try:
            answer = self._client.get_item(
                TableName=self._table,
                Key={"pk": {"S": _PARTITION}, "sk": {"S": str(key)}},
                ConsistentRead=True,
            )
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from error
        return from_dynamodb(answer["Item"]) if "Item" in answer else None

    def _update(
        self,
        request: Request,
        values: Item,
        condition: str = "attribute_exists(pk)",
        more: Mapping[str, Any] | None = None,
    ) -> bool:
        """Set attributes of the item unless it was asked again since; False when it was."""
        names = {*values, "received", "state", "leased", "turn"}
        expression = f"#received = :received AND {condition}"
        return conditional_write(
            self._client.update_item,
            _failure,
            TableName=self._table,
            Key={"pk": {"S": _PARTITION}, "sk": {"S": str(request.key)}},
            UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in values),
            ConditionExpression=expression,
            ExpressionAttributeNames={
                f"#{name}": name for name in names if name in values or f"#{name}" in expression
            },
            ExpressionAttributeValues={
                **{f":{name}": value for name, value in to_dynamodb(values).items()},
                ":received": {"S": moment(request.received)},
                **(more or {}),
            },
        )


def _moment(item: Item, name: str) -> datetime | None:
    return datetime.fromisoformat(str(item[name])) if item.get(name) else None


def _failure(error: ClientError | BotoCoreError) -> StoreUnavailable:
    return StoreUnavailable(f"DynamoDB refused or did not answer: {error_code(error)}")
