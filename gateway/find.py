"""C-FIND SCP, PS3.4 C.4.1: answer an identifier from the index, match by match."""

from collections.abc import Mapping
from itertools import chain
from typing import Final

from lenticular.answers import Match, find, patient_counts, texts
from lenticular.attributes import BY_TAG, Attribute, Level, computed_of_level
from lenticular.dicom_json import JsonElement, character_set_terms
from lenticular.errors import InvalidIdentifier, StoreUnavailable
from lenticular.index import Index
from lenticular.query import (
    MODEL_OF,
    QUERY_RETRIEVE_LEVEL,
    SPECIFIC_CHARACTER_SET,
    Query,
    read_query,
)
from lenticular.status import FindStatus, Status

from .association import Association
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

_COMMENT_CHARACTERS: Final = 64


class FindService:
    """Serves C-FIND."""

    failure_status = FindStatus.UNABLE_TO_PROCESS

    def __init__(self, index: Index, ae_title: str) -> None:
        """Answer from `index`; what is found can be retrieved from `ae_title`."""
        self._index = index
        self._ae_title = ae_title

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
        try:
            keys = read_identifier(message.data or b"", context.transfer_syntax)
            query = read_query(
                MODEL_OF[context.abstract_syntax],
                keys,
                relational=_agreed(association, message, QueryOption.RELATIONAL),
                combined_date_time=_agreed(association, message, QueryOption.COMBINED_DATE_TIME),
            )
            # Keys that are no dates or numbers are found out when matching begins.
            status = self._answer(association, message, query)
        except InvalidIdentifier as error:
            refusal = FindStatus.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS
            _respond(association, message, refusal, comment=str(error))
            return
        except StoreUnavailable as error:
            association.log.warning("query not answered", extra={"reason": str(error)})
            _respond(
                association,
                message,
                FindStatus.OUT_OF_RESOURCES,
                comment="the index is unavailable, ask again later",
            )
            return
        _respond(association, message, status)

    def _answer(
        self, association: Association, message: Message, query: Query
    ) -> Status | FindStatus:
        """Send every match; return the status of the final response."""
        syntax = message.context.transfer_syntax
        character_set = character_set_terms(query.keys.get(SPECIFIC_CHARACTER_SET))
        pending = _pending_status(query)
        for match in find(self._index, query):
            if association.cancel_requested(message.command.message_id or 0):
                return FindStatus.CANCELLED
            identifier = write_identifier(self._elements(query, match), syntax, character_set)
            _respond(association, message, pending, identifier)
        return Status.SUCCESS

    def _elements(self, query: Query, match: Match) -> dict[int, JsonElement]:
        """Return what was asked of a match, PS3.4 C.4.1.1.3.2: present, or empty when unknown."""
        known = match.elements()
        computed = self._computed(query, match)
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

    def _computed(self, query: Query, match: Match) -> dict[int, JsonElement]:
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
            counts = patient_counts(self._index, match)
            values |= {tag: [str(count)] for tag, count in zip(_OF_PATIENT, counts, strict=True)}
        return {
            tag: {"vr": attribute.vr, "Value": list(values[tag])}
            for tag, attribute in _computed_up_to(query.level).items()
            if tag in query.keys and tag in values
        }


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
            error_comment=comment[:_COMMENT_CHARACTERS] if comment else None,
        ),
        identifier,
    )
