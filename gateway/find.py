"""C-FIND SCP, PS3.4 C.4.1: answer an identifier from the index, match by match."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from time import perf_counter
from typing import Final

from lenticular.answers import Match, find, patient_counts, texts
from lenticular.attributes import BY_TAG, Attribute, Level, computed_of_level
from lenticular.dicom_json import JsonElement, character_set_terms
from lenticular.errors import InvalidIdentifier, StoreUnavailable
from lenticular.index import Index, Reading
from lenticular.planner import plan
from lenticular.query import (
    MODEL_OF,
    QUERY_RETRIEVE_LEVEL,
    SPECIFIC_CHARACTER_SET,
    Query,
    model_of,
    read_query,
)
from lenticular.status import FindStatus, Status

from .association import Association
from .audit import AuditTrail
from .command_set import CommandField, CommandSet
from .identifier import IDENTIFIER_MAX_BYTES, read_identifier, write_identifier
from .messages import BufferSink, DataSetSink, Message
from .negotiation import QueryOption

_RETRIEVE_AE_TITLE: Final = 0x00080054
_INSTANCE_AVAILABILITY: Final = 0x00080056
_MODALITIES_IN_STUDY: Final = 0x00080061
_SOP_CLASSES_IN_STUDY: Final = 0x00080062
_PATIENT_RELATED_STUDIES: Final = 0x00201200
_PATIENT_RELATED_SERIES: Final = 0x00201202
_PATIENT_RELATED_INSTANCES: Final = 0x00201204
_STUDY_RELATED_SERIES: Final = 0x00201206
_STUDY_RELATED_INSTANCES: Final = 0x00201208
_SERIES_RELATED_INSTANCES: Final = 0x00201209
_OF_PATIENT: Final = (_PATIENT_RELATED_STUDIES, _PATIENT_RELATED_SERIES, _PATIENT_RELATED_INSTANCES)


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


@dataclass(slots=True)
class _Answering:
    """One query while it is answered."""

    association: Association
    message: Message
    query: Query
    index: Index
    reading: Reading = field(default_factory=Reading)
    matches: int = 0

    def __post_init__(self) -> None:
        self.reading.on_page = self.stop_if_cancelled
        self.index = self.index.noting(self.reading)

    def stop_if_cancelled(self) -> None:
        """Look whether the peer sent C-CANCEL; raise `_Cancelled` if so."""
        if self.association.cancel_requested(self.message.command.message_id or 0):
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
            answering = _Answering(association, message, query, self._index)
            status, comment = self._answer_and_note(answering)
        except InvalidIdentifier as error:
            association.log.info("query refused", extra={"reason": str(error)})
            status, comment = FindStatus.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, str(error)
        finally:
            if self._audit is not None:
                matches = 0 if answering is None else answering.matches
                self._audit.queried(association, message, keys, status, matches)
        _respond(association, message, status, comment=comment)

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
        """Send every match, or raise what keeps us from it."""
        message, query = answering.message, answering.query
        syntax = message.context.transfer_syntax
        character_set = character_set_terms(query.keys.get(SPECIFIC_CHARACTER_SET))
        pending = _pending_status(query)
        for match in find(answering.index, query):
            answering.stop_if_cancelled()
            if answering.matches == self._max_responses > 0:
                raise _TooMany
            elements = self._elements(query, match, answering.index)
            identifier = write_identifier(elements, syntax, character_set)
            _respond(answering.association, message, pending, identifier)
            answering.matches += 1

    def _elements(self, query: Query, match: Match, index: Index) -> dict[int, JsonElement]:
        """Return what was asked of a match, PS3.4 C.4.1.1.3.2: present, or empty when unknown."""
        known = match.elements()
        computed = _computed(query, match, index)
        elements: dict[int, JsonElement] = {
            QUERY_RETRIEVE_LEVEL: {"vr": "CS", "Value": [query.level.query_retrieve_level]},
            _RETRIEVE_AE_TITLE: {"vr": "AE", "Value": [self._ae_title]},
        }
        for tag in query.keys:
            attribute = BY_TAG.get(tag)
            if tag in computed:
                elements[tag] = computed[tag]
            elif attribute is not None and attribute.level <= query.level:
                elements[tag] = known.get(f"{tag:08X}", {"vr": attribute.vr})
        return elements


def _computed(query: Query, match: Match, index: Index) -> dict[int, JsonElement]:
    """Return the computed attributes of a match that were asked for."""
    study = match.study
    values: dict[int, list[str]] = {
        _INSTANCE_AVAILABILITY: ["ONLINE"],
        _MODALITIES_IN_STUDY: texts(study, "modalities"),
        _SOP_CLASSES_IN_STUDY: texts(study, "sop_class_uids"),
        _STUDY_RELATED_SERIES: [str(study["series"])],
        _STUDY_RELATED_INSTANCES: [str(study["instances"])],
    }
    if match.series is not None:
        values[_SERIES_RELATED_INSTANCES] = [str(match.series["instances"])]
    if not query.keys.keys().isdisjoint(_OF_PATIENT):
        # Costs a query of its own, so only for those who ask.
        counts = patient_counts(index, match)
        values |= {tag: [str(count)] for tag, count in zip(_OF_PATIENT, counts, strict=True)}
    return {
        tag: {"vr": attribute.vr, "Value": list(values[tag])}
        for tag, attribute in _computed_up_to(query.level).items()
        if tag in query.keys and tag in values
    }


@cache
def _computed_up_to(level: Level) -> Mapping[int, Attribute]:
    return dict(
        chain.from_iterable(computed_of_level(each).items() for each in Level if each <= level)
    )


def _agreed(association: Association, message: Message, option: QueryOption) -> bool:
    return association.peer.agreed_on(message.context.abstract_syntax, option)


def _pending_status(query: Query) -> FindStatus:
    """Return FF01 when a key is one we neither match nor return, PS3.4 C.4.1.1.4."""
    supported = {*_computed_up_to(query.level), QUERY_RETRIEVE_LEVEL, SPECIFIC_CHARACTER_SET}
    for tag in query.keys:
        attribute = BY_TAG.get(tag)
        if tag not in supported and (attribute is None or attribute.level > query.level):
            return FindStatus.PENDING_OPTIONAL_KEYS_NOT_SUPPORTED
    return FindStatus.PENDING


def _respond(
    association: Association,
    message: Message,
    status: int,
    identifier: bytes | None = None,
    *,
    comment: str | None = None,
) -> None:
    request = message.command
    association.send_response(
        message.context,
        CommandSet(
            CommandField.C_FIND_RSP,
            message_id_being_responded_to=request.message_id,
            affected_sop_class_uid=request.affected_sop_class_uid,
            status=status,
            error_comment=comment or None,
        ),
        identifier,
    )
