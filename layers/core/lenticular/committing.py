"""What the commit function does with one message: a turn of one transaction.

    request's event ─▶ turn 0 ─▶ instance missing? ──────────▶ message of turn 1, delayed
                          └─▶ verdict kept ─▶ not told? ──────▶ message of turn 1, delayed

The message of the next turn is sent before the item says so and before this one is deleted. A crash
in between makes one turn happen twice, never none: the item's turn decides which message is stale.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from .archive import Archive, TransactionKey
from .commitment import Patience, Request, State, Verdict
from .errors import CommitmentUnknown, StoreUnavailable
from .event_report import NotDelivered, Reporter
from .index import Index
from .moments import moment
from .nodes import Node
from .s3_events import object_keys
from .safekeeping import check
from .transactions import Busy, Transactions

_log: Final = logging.getLogger(__name__)
#: When another execution has a transaction, it is looked at again after this.
_BUSY_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Turn:
    """One look at a transaction; `received` says of which asking, None of the latest."""

    key: TransactionKey
    number: int
    received: datetime | None

    def body(self) -> str:
        """Write the message of this turn."""
        assert self.received is not None
        return json.dumps(
            {
                "commitment": self.key.requested,
                "turn": self.number,
                "received": moment(self.received),
            }
        )


def turns(message_body: str) -> list[Turn]:
    """Read a message: the event of a request's object, or what `Turn.body` wrote.

    Raises:
        ValueError: it is neither.
    """
    body = json.loads(message_body)
    if isinstance(body, Mapping) and "commitment" in body:
        key = TransactionKey.parse(str(body["commitment"]))
        if key is None or not isinstance(body.get("turn"), int):
            raise ValueError("the message names no commitment")
        return [Turn(key, body["turn"], datetime.fromisoformat(str(body.get("received"))))]
    keys = [(each, TransactionKey.parse(each)) for each in object_keys(message_body)]
    for object_key, key in keys:
        if key is None:
            raise ValueError(f"the event names {object_key}, which is no request")
    return [Turn(key, 0, None) for _, key in keys if key is not None]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a turn brought about: a verdict, if it was made in this turn, and an end, if it was."""

    request: Request
    verdict: Verdict | None = None
    ended: State | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Committing:
    """Takes transactions further. Safe to share between threads.

    Attributes:
        find_node: returns a node by AE title, read from the table as it is now
        send: puts a message into the commit queue, to be seen after so many seconds
        lease: what a turn may take at most; afterwards another execution may try
    """

    archive: Archive
    index: Index
    transactions: Transactions
    reporter: Reporter
    patience: Patience
    find_node: Callable[[str], Node | None]
    send: Callable[[str, int], None]
    clock: Callable[[], datetime]

    def take(self, turn: Turn, lease: timedelta) -> Progress | None:
        """Do one turn; None when there was nothing to do.

        Raises:
            StoreUnavailable: AWS failed in a way that leaves only to have the message come again.
        """
        try:
            request = self.transactions.request(turn.key)
        except CommitmentUnknown:
            # Somebody removed it since; there is nothing to tell and nobody to ask.
            _log.warning("request is gone", extra=_facts(turn.key))
            return None
        if turn.received not in (None, request.received):
            return None
        try:
            transaction = self.transactions.begin(request, turn.number, lease)
        except Busy:
            # It may have died. A message of our own comes sooner than this one would.
            again = Turn(turn.key, turn.number, request.received)
            self.send(again.body(), _BUSY_SECONDS)
            return None
        if transaction is None:
            return None
        if transaction.state is State.REPORTING:
            verdict = self.transactions.verdict(turn.key)
            if verdict is not None:
                return Progress(request, None, self._report(request, verdict, turn))
        return self._check(request, turn)

    def _check(self, request: Request, turn: Turn) -> Progress:
        waiting = self.patience.until_looked_again(request.received, self.clock())
        try:
            failures = check(
                self.archive,
                self.index,
                request.references,
                wait_for_missing=waiting is not None,
                arriving=request.arriving,
            )
        except StoreUnavailable as error:
            pause = self.patience.until_checked_again(request.received, self.clock())
            return Progress(request, None, self._put_off(request, turn, pause, str(error)))
        if failures is None:
            reason = "not every instance is in the index yet"
            return Progress(request, None, self._put_off(request, turn, waiting, reason))
        verdict = Verdict(self.clock(), failures)
        self.transactions.checked(request, verdict)
        _log.info(
            "commitment checked",
            extra={
                **_facts(request.key),
                "references": len(request.references),
                "failures": len(failures),
            },
        )
        return Progress(request, verdict, self._report(request, verdict, turn))

    def _report(self, request: Request, verdict: Verdict, turn: Turn) -> State | None:
        """Report; return how the transaction ended, None when it is to be tried again."""
        try:
            self.reporter.report(self.find_node(request.key.requester), request, verdict)
        except (NotDelivered, StoreUnavailable) as error:
            pause = self.patience.until_told_again(request.received, verdict.checked, self.clock())
            return self._put_off(request, turn, pause, str(error))
        self.transactions.end(request, State.REPORTED)
        _log.info("commitment reported", extra=_facts(request.key))
        return State.REPORTED

    def _put_off(
        self, request: Request, turn: Turn, pause: float | None, problem: str
    ) -> State | None:
        """Have the next turn come after a pause, or end the transaction when there is none."""
        facts = {**_facts(request.key), "reason": problem}
        if pause is None:
            self.transactions.end(request, State.UNDELIVERED, problem)
            _log.error("commitment given up", extra=facts)
            return State.UNDELIVERED
        following = Turn(turn.key, turn.number + 1, request.received)
        self.send(following.body(), round(pause))
        self.transactions.wait(request, following.number, problem)
        _log.info("commitment put off", extra={**facts, "turn": turn.number, "seconds": pause})
        return None


def _facts(key: TransactionKey) -> dict[str, object]:
    return {"requester": key.requester, "transaction_uid": key.transaction_uid}
