"""C-FIND SCP, PS3.4 C.4.1: answer an identifier from the index, match by match."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from lenticular import sop_classes
from lenticular.answers import find
from lenticular.dicom_json import JsonElement
from lenticular.errors import InvalidIdentifier, StoreUnavailable
from lenticular.index import Index, Reading
from lenticular.planner import plan
from lenticular.query import MODEL_OF, Query, model_of, read_query
from lenticular.status import FindStatus, Status

from .association import Association
from .audit import AuditTrail
from .identifier import IDENTIFIER_MAX_BYTES, is_refused, read_identifier
from .messages import BufferSink, DataSetSink, Message
from .negotiation import QueryOption
from .response_identifier import ResponseIdentifiers, asks_for_more
from .wire import AssociationAborted

#: Responses wait for each other until they are about this long, which saves most calls of the
#: kernel; the first one waits for none, and none waits while the table is read.
_TOGETHER_BYTES: Final = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryEnded:
    """How a query was answered and what it cost; nothing of what it asked for or found."""

    model: str
    level: str
    plan: str
    status: int
    matches: int
    reading: Reading
    seconds: float

    def facts(self) -> dict[str, object]:
        """Return the fields of its log line."""
        return {
            "model": self.model,
            "query_level": self.level,
            "plan": self.plan,
            "status": f"{self.status:04X}",
            "matches": self.matches,
            "items": self.reading.items,
            "pages": self.reading.pages,
            "capacity_units": self.reading.capacity_units,
            "store_milliseconds": round(1000 * self.reading.seconds, 1),
            "milliseconds": round(1000 * self.seconds, 1),
        }


class _Cancelled(Exception):
    """The peer sent C-CANCEL."""


class _TooMany(Exception):
    """More match than may be answered."""


class _Answering:
    """One query while it is answered."""

    def __init__(self, association: Association, message: Message, query: Query) -> None:
        self.matches = 0
        self.reading = Reading(before_page=self.flush, on_page=self._stop_if_cancelled)
        self.association = association
        self.message = message
        self.query = query
        self._pending = message.command.response(
            FindStatus.PENDING_OPTIONAL_KEYS_NOT_SUPPORTED
            if asks_for_more(query)
            else FindStatus.PENDING
        )
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def add(self, identifier: bytes) -> None:
        """Answer a match, now or soon."""
        self._waiting.append(identifier)
        self._waiting_bytes += len(identifier)
        self.matches += 1
        if self.matches == 1 or self._waiting_bytes >= _TOGETHER_BYTES:
            self.flush()
            self._stop_if_cancelled()

    def flush(self) -> None:
        """Send what waits."""
        if self._waiting:
            waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self.association.send_pending(self.message.context, self._pending, waiting)

    def _stop_if_cancelled(self) -> None:
        """Look whether the peer sent C-CANCEL; raise `_Cancelled` if so."""
        if self.association.cancel_requested(self.message.command.message_id):
            raise _Cancelled


class FindService:
    """Serves C-FIND."""

    failure_status = FindStatus.UNABLE_TO_PROCESS

    def __init__(
        self,
        index: Index,
        ae_title: str,
        *,
        max_responses: int = 0,
        report: Callable[[QueryEnded], None] | None = None,
        audit: AuditTrail | None = None,
    ) -> None:
        """Answer from `index`; what is found can be retrieved from `ae_title`.

        `max_responses` is how many matches are answered at most, 0 for all.
        """
        self._index = index
        self._ae_title = ae_title
        self._max_responses = max_responses
        self._report = report
        self._audit = audit

    def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002 - the interface of a service
        """Take the identifier into memory."""
        return BufferSink(IDENTIFIER_MAX_BYTES)

    def handle(
        self,
        association: Association,
        message: Message,
        sink: DataSetSink | None,  # noqa: ARG002 - the identifier is in the message
    ) -> None:
        """Send a pending response for each match, then the final one."""
        if is_refused(association, message, sop_classes.FIND, "find"):
            return
        context = message.context
        keys: Mapping[int, JsonElement] = {}
        answering: _Answering | None = None
        status: Status | FindStatus = FindStatus.UNABLE_TO_PROCESS
        try:
            keys = read_identifier(message.data or b"", context.transfer_syntax)
            query = read_query(
                model_of(context.abstract_syntax),
                keys,
                relational=_agreed(association, message, QueryOption.RELATIONAL),
                combined_date_time=_agreed(association, message, QueryOption.COMBINED_DATE_TIME),
            )
            # Keys that are no dates or numbers are found out when matching begins.
            answering = _Answering(association, message, query)
            status, comment = self._answer_and_note(answering)
        except InvalidIdentifier as error:
            association.log.info("query refused", extra={"reason": str(error)})
            status, comment = FindStatus.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, str(error)
        finally:
            if self._audit is not None:
                matches = 0 if answering is None else answering.matches
                self._audit.queried(association, message, keys, status, matches)
        association.send_response(message.context, message.command.response(status, comment))

    def _answer_and_note(self, answering: _Answering) -> tuple[Status | FindStatus, str | None]:
        """Send every match; return status and comment of the final response, and note the cost."""
        began = perf_counter()
        association, query = answering.association, answering.query
        # Whatever else goes wrong is answered so, see `failure_status`.
        status: Status | FindStatus = FindStatus.UNABLE_TO_PROCESS
        comment = None
        try:
            self._answer(answering)
            status = Status.SUCCESS
        except _Cancelled:
            status = FindStatus.CANCELLED
        except _TooMany:
            association.log.warning("query stopped", extra={"max_responses": self._max_responses})
            status = FindStatus.OUT_OF_RESOURCES
            comment = f"more than {self._max_responses} match, ask for less"
        except StoreUnavailable as error:
            association.log.warning("query not answered", extra={"reason": str(error)})
            status = FindStatus.OUT_OF_RESOURCES
            comment = "the index is unavailable, ask again later"
        except InvalidIdentifier:
            status = FindStatus.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS
            raise
        except AssociationAborted:
            # Nobody is left to be answered, which is no failure of ours.
            status = FindStatus.CANCELLED
            raise
        finally:
            self._note(
                association,
                QueryEnded(
                    model=MODEL_OF[answering.message.context.abstract_syntax].name,
                    level=query.level.query_retrieve_level,
                    plan=plan(query).name,
                    status=status,
                    matches=answering.matches,
                    reading=answering.reading,
                    seconds=perf_counter() - began,
                ),
            )
        return status, comment

    def _note(self, association: Association, ended: QueryEnded) -> None:
        association.log.info("query ended", extra=ended.facts())
        if self._report is not None:
            self._report(ended)

    def _answer(self, answering: _Answering) -> None:
        """Send every match, or raise what keeps us from it; what was found before is sent."""
        index = self._index.noting(answering.reading)
        identifiers = ResponseIdentifiers(
            answering.query,
            index,
            ae_title=self._ae_title,
            transfer_syntax_uid=answering.message.context.transfer_syntax,
        )
        try:
            for match in find(index, answering.query, ae_title=self._ae_title):
                if answering.matches == self._max_responses > 0:
                    raise _TooMany
                answering.add(identifiers.encode(match))
        finally:
            answering.flush()


def _agreed(association: Association, message: Message, option: QueryOption) -> bool:
    return association.peer.agreed_on(message.context.abstract_syntax, option)
