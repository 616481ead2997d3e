"""Storage commitment as values: what is asked, what is answered, and when to try again. PS3.4 J.

A transaction goes through four states, and back to the first when its requester, or an operator,
asks again:

    checking ─▶ reporting ─▶ reported
        │            └─────▶ undelivered     the requester could not be told in time
        └──────────────────▶ undelivered     nor could it be checked

The request is an object of the bucket, because the references of a large study do not fit into an
item of the table; so is what the check found. The item says how far things are.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple

from .archive import TransactionKey
from .moments import moment
from .status import CommitmentFailure

#: More than any study has; a request that is longer is refused as a resource limitation.
MOST_REFERENCES: Final = 20_000
#: N-ACTION's Action Type ID, PS3.4 J.3.2.1.1.
REQUEST_STORAGE_COMMITMENT: Final = 1

_NOT_CHECKED_SECONDS: Final = 60.0
_LONGEST_PAUSE_SECONDS: Final = 900.0


class Reference(NamedTuple):
    """An instance as a request names it."""

    sop_class_uid: str
    sop_instance_uid: str


class State(StrEnum):
    """How far a transaction is."""

    CHECKING = "checking"
    REPORTING = "reporting"
    REPORTED = "reported"
    UNDELIVERED = "undelivered"


class EventType(IntEnum):
    """Event Type ID of the report, PS3.4 J.3.3.1.1."""

    ALL_COMMITTED = 1
    FAILURES_EXIST = 2


@dataclass(frozen=True, slots=True)
class Request:
    """What a peer asked: commit to these instances, once each, in its order.

    `called` is the AE title that it asked, and `received` the moment when it did last. `arriving`
    are keys of objects under these UIDs that were acknowledged by then and not in the bucket yet.
    """

    key: TransactionKey
    called: str
    received: datetime
    references: tuple[Reference, ...]
    arriving: tuple[str, ...] = ()

    def asks_the_same(self, other: "Request") -> bool:
        """Tell whether this is the other request once more, and not a UID used twice."""
        return self.key == other.key and set(self.references) == set(other.references)

    def asked_again(self, received: datetime, arriving: Iterable[str] = ()) -> "Request":
        """Return the request as asked once more, later than before whatever the clocks say."""
        later = max(received, self.received + timedelta(microseconds=1))
        # What was on its way the first time must have come, too.
        either = tuple(dict.fromkeys((*self.arriving, *arriving)))
        return replace(self, received=later, arriving=either)

    def document(self) -> bytes:
        """Write the object that keeps the request."""
        return _document(
            {
                "requester": self.key.requester,
                "transaction_uid": self.key.transaction_uid,
                "called": self.called,
                "received": moment(self.received),
                "references": self.references,
                "arriving": self.arriving,
            }
        )

    @classmethod
    def from_document(cls, document: bytes) -> "Request":
        """Read the object that keeps the request."""
        fields = json.loads(document)
        return cls(
            TransactionKey(fields["requester"], fields["transaction_uid"]),
            fields["called"],
            datetime.fromisoformat(fields["received"]),
            tuple(Reference(*reference) for reference in fields["references"]),
            # Requests that were kept by earlier versions do not say.
            tuple(fields.get("arriving", ())),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check of a request found: every reference that we do not commit to, and why."""

    checked: datetime
    failures: Mapping[Reference, CommitmentFailure]

    @property
    def event_type(self) -> EventType:
        """The event that the requester is told of."""
        return EventType.FAILURES_EXIST if self.failures else EventType.ALL_COMMITTED

    def committed(self, references: Sequence[Reference]) -> list[Reference]:
        """Return those of a request's references that we commit to."""
        return [reference for reference in references if reference not in self.failures]

    def document(self) -> bytes:
        """Write the object that keeps the verdict."""
        return _document(
            {
                "checked": moment(self.checked),
                "failures": [(*reference, reason) for reference, reason in self.failures.items()],
            }
        )

    @classmethod
    def from_document(cls, document: bytes) -> "Verdict":
        """Read the object that keeps the verdict."""
        fields = json.loads(document)
        return cls(
            datetime.fromisoformat(fields["checked"]),
            {
                Reference(sop_class_uid, sop_instance_uid): CommitmentFailure(reason)
                for sop_class_uid, sop_instance_uid, reason in fields["failures"]
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited for instances to be indexed, and for requesters to be reached.

    `first_pause_seconds` is what a requester that could not be told is given at first.
    """

    grace: timedelta
    report: timedelta
    first_pause_seconds: float

    def until_looked_again(self, received: datetime, now: datetime) -> float | None:
        """Return the seconds to wait for instances not indexed yet; None when that is over.

        Each pause is half of the time waited so far, so a hundred looks are not exceeded in days.
        """
        left = (received + self.grace - now).total_seconds()
        if left <= 0:
            return None
        waited = (now - received).total_seconds()
        return min(max(1.0, waited / 2), _NOT_CHECKED_SECONDS, max(1.0, left))

    def until_checked_again(self, received: datetime, now: datetime) -> float | None:
        """Return the seconds to wait for a store that failed; None when that is over."""
        return None if now - received >= self.report else _NOT_CHECKED_SECONDS

    def until_told_again(
        self, received: datetime, checked: datetime, now: datetime
    ) -> float | None:
        """Return the seconds to wait before a requester is told again; None when that is over."""
        if now - received >= self.report:
            return None
        waited = (now - checked).total_seconds()
        # A quarter of an hour is the longest that SQS delays a message.
        return min(max(self.first_pause_seconds, waited / 2), _LONGEST_PAUSE_SECONDS)


def _document(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()
