"""What association PDUs say: proposals, answers and refusals (PS3.8 9.3.2 to 9.3.4, PS3.7 D.3.3).

pynetdicom encodes and decodes the PDUs and their items; here they become plain values and back.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_items import (
    AbstractSyntaxSubItem,
    ApplicationContextItem,
    AsynchronousOperationsWindowSubItem,
    ImplementationClassUIDSubItem,
    ImplementationVersionNameSubItem,
    MaximumLengthSubItem,
    PresentationContextItemAC,
    PresentationContextItemRQ,
    SCP_SCU_RoleSelectionSubItem,
    SOPClassExtendedNegotiationSubItem,
    TransferSyntaxSubItem,
    UserIdentitySubItemRQ,
    UserInformationItem,
)

from lenticular import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from lenticular.errors import SenderError
from lenticular.transfer_syntaxes import IMPLICIT_VR_LITTLE_ENDIAN

#: PS3.7 A.2.1; there is only this one.
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
#: Bit 0 of the protocol version, PS3.8 9.3.2.
PROTOCOL_VERSION: Final = 0x0001
#: All the odd numbers of a byte, PS3.8 9.3.2.2.
MAX_CONTEXTS: Final = 128

#: What we take a peer to accept that does not say; the smallest that is common.
_UNSTATED_MAX_PDU_BYTES: Final = 16 * 1024


class MalformedPdu(SenderError):
    """An association PDU cannot be read."""


class ContextResult(IntEnum):
    """Answer to one proposed presentation context, PS3.8 table 9-18."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class QueryOption(IntEnum):
    """Where an option stands in the application information of a query class, PS3.4 C.5.1.1.

    Relational retrieval of the retrieve classes stands first too, C.5.2.1 and C.5.3.1.
    """

    RELATIONAL = 0
    COMBINED_DATE_TIME = 1
    FUZZY_PERSON_NAMES = 2
    TIMEZONE_ADJUSTMENT = 3


class RejectResult(IntEnum):
    """PS3.8 table 9-21."""

    PERMANENT = 1
    TRANSIENT = 2


class RejectSource(IntEnum):
    """PS3.8 table 9-21."""

    SERVICE_USER = 1
    SERVICE_PROVIDER_ACSE = 2
    SERVICE_PROVIDER_PRESENTATION = 3


@dataclass(frozen=True, slots=True)
class Roles:
    """Roles of the *requestor* for one SOP class, PS3.7 D.3.3.4."""

    scu: bool
    scp: bool


#: Without negotiation the requestor is SCU and the acceptor SCP (PS3.7 D.3.3.4).
DEFAULT_ROLES: Final = Roles(scu=True, scp=False)


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """PS3.7 D.3.3.7; never logged."""

    type: int
    response_requested: bool
    primary: bytes = field(repr=False)
    secondary: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """One presentation context of an A-ASSOCIATE-RQ, transfer syntaxes in the peer's order."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequest:
    """What a peer asks for, and where it asks from."""

    calling_aet: str
    called_aet: str
    address: str
    port: int
    protocol_version: int = PROTOCOL_VERSION
    application_context: str = APPLICATION_CONTEXT
    contexts: tuple[ProposedContext, ...] = ()
    roles: Mapping[str, Roles] = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    user_identity: UserIdentity | None = None
    async_operations_proposed: bool = False
    max_pdu_bytes: int = _UNSTATED_MAX_PDU_BYTES
    implementation_class_uid: str = ""
    implementation_version_name: str = ""


@dataclass(frozen=True, slots=True)
class ContextAnswer:
    """The acceptor's answer to one proposed context; `transfer_syntax` is empty if refused."""

    context_id: int
    result: ContextResult
    transfer_syntax: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The association is taken.

    One answer for every proposed context. `roles` and `extended` hold what is answered, by SOP
    class; `permissions` is what the services may do for this peer (a node's `may`).
    """

    contexts: tuple[ContextAnswer, ...]
    roles: Mapping[str, Roles] = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    permissions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rejected:
    """The association is refused, PS3.8 9.3.4.

    `why` is for our log and our metrics, not for the peer: one of few texts, none of a peer's.
    """

    result: RejectResult
    source: RejectSource
    reason: int
    why: str


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A peer that was not let in, why, and the AE titles if it came to tell them."""

    address: str
    reason: str
    calling_aet: str = ""
    called_aet: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an A-ASSOCIATE-AC says to us as the requestor."""

    contexts: Mapping[int, ContextAnswer]
    roles: Mapping[str, Roles]
    max_pdu_bytes: int


#: PS3.8 table 9-21: (source, reason) and what it means.
REJECT_REASONS: Final[Mapping[tuple[int, int], str]] = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}

VERSION_NOT_SUPPORTED: Final = Rejected(
    RejectResult.PERMANENT, RejectSource.SERVICE_PROVIDER_ACSE, 2, "protocol version not supported"
)
APPLICATION_CONTEXT_NOT_SUPPORTED: Final = Rejected(
    RejectResult.PERMANENT,
    RejectSource.SERVICE_USER,
    2,
    "application context name not supported",
)
CALLING_AET_NOT_RECOGNIZED: Final = Rejected(
    RejectResult.PERMANENT, RejectSource.SERVICE_USER, 3, "calling AE title not recognized"
)
# To the peer it is the same refusal: which addresses a node has is not for a stranger to find out.
ADDRESS_NOT_RECOGNIZED: Final = Rejected(
    RejectResult.PERMANENT,
    RejectSource.SERVICE_USER,
    3,
    "calling AE title not recognized from this address",
)
CALLED_AET_NOT_RECOGNIZED: Final = Rejected(
    RejectResult.PERMANENT, RejectSource.SERVICE_USER, 7, "called AE title not recognized"
)
TEMPORARY_CONGESTION: Final = Rejected(
    RejectResult.TRANSIENT,
    RejectSource.SERVICE_PROVIDER_PRESENTATION,
    1,
    "temporary congestion",
)
LOCAL_LIMIT_EXCEEDED: Final = Rejected(
    RejectResult.TRANSIENT,
    RejectSource.SERVICE_PROVIDER_PRESENTATION,
    2,
    "local limit exceeded",
)

_ITEM_HEADER: Final = struct.Struct(">BxH")
#: What stands before the items of an A-ASSOCIATE-RQ or -AC, PS3.8 9.3.2 and 9.3.3.
_FIXED_BYTES: Final = 74
_RQ_ITEMS: Final = frozenset({0x10, 0x20, 0x50})
_AC_ITEMS: Final = frozenset({0x10, 0x21, 0x50})
#: Items that hold items: where those start, and which there are. PS3.8 9.3.2, 9.3.3; PS3.7 D.3.3.
_SUB_ITEMS: Final[Mapping[int, tuple[int, frozenset[int]]]] = {
    0x20: (8, frozenset({0x30, 0x40})),
    0x21: (8, frozenset({0x40})),
    0x50: (4, frozenset(range(0x51, 0x5A))),
}
#: 128 contexts with every transfer syntax there is have 6,000, and a role for each SOP class adds
#: a few hundred.
_MAX_ITEMS: Final = 8192


def titles_in(encoded: bytes) -> tuple[str, str]:
    """Read calling and called AE title of an A-ASSOCIATE-RQ without judging the rest."""
    called, calling = encoded[10:26], encoded[26:42]
    return calling.decode("latin-1").strip(" \0"), called.decode("latin-1").strip(" \0")


def decode_request(encoded: bytes, address: str, port: int) -> AssociationRequest:
    """Decode a whole A-ASSOCIATE-RQ, or raise `MalformedPdu`."""
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(_known_items(encoded, _RQ_ITEMS))
        user = pdu.user_information.user_data if pdu.user_information else []
        contexts = tuple(
            ProposedContext(
                int(item.context_id or 0),
                _uid(item.abstract_syntax),
                tuple(_uid(syntax) for syntax in item.transfer_syntax),
            )
            for item in pdu.presentation_context
        )
        identity = _first(user, UserIdentitySubItemRQ)
        request = AssociationRequest(
            calling_aet=pdu.calling_ae_title,
            called_aet=pdu.called_ae_title,
            address=address,
            port=port,
            protocol_version=pdu.protocol_version,
            application_context=_uid(pdu.application_context_name),
            contexts=contexts,
            roles=_roles(user),
            extended={
                _uid(item.sop_class_uid): item.app_info or b""
                for item in user
                if isinstance(item, SOPClassExtendedNegotiationSubItem)
            },
            user_identity=identity
            and UserIdentity(
                identity.id_type or 0,
                bool(identity.response_requested),
                identity.primary or b"",
                identity.secondary or b"",
            ),
            async_operations_proposed=(
                _first(user, AsynchronousOperationsWindowSubItem) is not None
            ),
            max_pdu_bytes=_max_pdu_bytes(user),
            implementation_class_uid=_implementation_class_uid(user),
            implementation_version_name=_implementation_version_name(user),
        )
    except MalformedPdu:
        raise
    except Exception as error:
        # pynetdicom raises a dozen kinds, from struct.error to RecursionError.
        raise MalformedPdu("the A-ASSOCIATE-RQ cannot be read") from error
    ids = [context.context_id for context in contexts]
    if len(set(ids)) != len(ids) or any(context_id % 2 == 0 for context_id in ids):
        raise MalformedPdu("the presentation context IDs are not distinct odd numbers")
    return request


def encode_acceptance(request: AssociationRequest, accepted: Accepted, max_pdu_bytes: int) -> bytes:
    """Encode the A-ASSOCIATE-AC to `request`, PS3.8 9.3.3."""
    pdu = A_ASSOCIATE_AC()
    # Both titles go back as they came and are not tested.
    pdu.reserved_aet = request.called_aet
    pdu.reserved_aec = request.calling_aet
    pdu.variable_items = [_application_context()]
    for answer in accepted.contexts:
        item = PresentationContextItemAC()
        item.presentation_context_id = answer.context_id
        item.result_reason = int(answer.result)
        item.transfer_syntax_sub_item = [
            _transfer_syntax(answer.transfer_syntax or IMPLICIT_VR_LITTLE_ENDIAN.uid)
        ]
        pdu.variable_items.append(item)
    user = _own_user_information(max_pdu_bytes)
    if request.async_operations_proposed:
        window = AsynchronousOperationsWindowSubItem()
        window.maximum_number_operations_invoked = 1
        window.maximum_number_operations_performed = 1
        user.user_data.append(window)
    user.user_data += [_role_selection(uid, roles) for uid, roles in accepted.roles.items()]
    for uid, information in accepted.extended.items():
        extended = SOPClassExtendedNegotiationSubItem()
        extended.sop_class_uid = UID(uid)
        extended.service_class_application_information = information
        user.user_data.append(extended)
    pdu.variable_items.append(user)
    return pdu.encode()


def encode_rejection(rejected: Rejected) -> bytes:
    """Encode the A-ASSOCIATE-RJ, PS3.8 9.3.4."""
    pdu = A_ASSOCIATE_RJ()
    pdu.result = int(rejected.result)
    pdu.source = int(rejected.source)
    pdu.reason_diagnostic = rejected.reason
    return pdu.encode()


def encode_request(
    *,
    calling_aet: str,
    called_aet: str,
    contexts: Sequence[ProposedContext],
    roles: Mapping[str, Roles],
    max_pdu_bytes: int,
) -> bytes:
    """Encode an A-ASSOCIATE-RQ of ours, PS3.8 9.3.2."""
    pdu = A_ASSOCIATE_RQ()
    pdu.protocol_version = PROTOCOL_VERSION
    pdu.called_ae_title = called_aet
    pdu.calling_ae_title = calling_aet
    pdu.variable_items = [_application_context()]
    for context in contexts:
        item = PresentationContextItemRQ()
        item.presentation_context_id = context.context_id
        abstract = AbstractSyntaxSubItem()
        abstract.abstract_syntax_name = UID(context.abstract_syntax)
        item.abstract_transfer_syntax_sub_items = [
            abstract,
            *(_transfer_syntax(uid) for uid in context.transfer_syntaxes),
        ]
        pdu.variable_items.append(item)
    user = _own_user_information(max_pdu_bytes)
    user.user_data += [_role_selection(uid, asked) for uid, asked in roles.items()]
    pdu.variable_items.append(user)
    return pdu.encode()


def decode_acceptance(encoded: bytes) -> Answer:
    """Decode a whole A-ASSOCIATE-AC, or raise `MalformedPdu`."""
    pdu = A_ASSOCIATE_AC()
    try:
        pdu.decode(_known_items(encoded, _AC_ITEMS))
        user = pdu.user_information.user_data if pdu.user_information else []
        return Answer(
            contexts={
                int(item.context_id or 0): ContextAnswer(
                    int(item.context_id or 0),
                    ContextResult(item.result_reason or 0),
                    _uid(item.transfer_syntax),
                )
                for item in pdu.presentation_context
            },
            roles=_roles(user),
            max_pdu_bytes=_max_pdu_bytes(user),
        )
    except MalformedPdu:
        raise
    except Exception as error:
        raise MalformedPdu("the A-ASSOCIATE-AC cannot be read") from error


def _known_items(encoded: bytes, known: frozenset[int]) -> bytes:
    """Leave out items of types that do not exist (yet), at any place, and refuse too many.

    pynetdicom would stumble over the first and spend seconds on the second.
    """
    items: list[bytes] = []
    count = 0
    for kind, item in _items(encoded[_FIXED_BYTES:]):
        if kind not in known:
            continue
        count += 1
        if kind in _SUB_ITEMS:
            start, known_within = _SUB_ITEMS[kind]
            if len(item) < start:
                raise MalformedPdu("an item is too short")
            kept = [sub for sub_kind, sub in _items(item[start:]) if sub_kind in known_within]
            count += len(kept)
            body = item[_ITEM_HEADER.size : start] + b"".join(kept)
            items.append(_ITEM_HEADER.pack(kind, len(body)) + body)
        else:
            items.append(item)
        if count > _MAX_ITEMS:
            raise MalformedPdu(f"the PDU has more than {_MAX_ITEMS} items")
    return encoded[:_FIXED_BYTES] + b"".join(items)


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(encoded):
        kind, length = _ITEM_HEADER.unpack_from(encoded, offset)
        end = offset + _ITEM_HEADER.size + length
        if end > len(encoded):
            raise MalformedPdu("an item is longer than its PDU")
        yield kind, encoded[offset:end]
        offset = end


def _uid(uid: UID | None) -> str:
    # Trailing spaces and NULs are against PS3.8 F but come.
    return str(uid or "").strip(" \0")


def _first(user: Sequence[Any], kind: type[Any]) -> Any:  # noqa: ANN401 - an instance of `kind`
    return next((item for item in user if isinstance(item, kind)), None)


def _roles(user: Sequence[Any]) -> dict[str, Roles]:
    return {
        _uid(item.sop_class_uid): Roles(scu=bool(item.scu_role), scp=bool(item.scp_role))
        for item in user
        if isinstance(item, SCP_SCU_RoleSelectionSubItem)
    }


def _max_pdu_bytes(user: Sequence[Any]) -> int:
    item = _first(user, MaximumLengthSubItem)
    return _UNSTATED_MAX_PDU_BYTES if item is None else int(item.maximum_length_received)


def _implementation_class_uid(user: Sequence[Any]) -> str:
    item = _first(user, ImplementationClassUIDSubItem)
    return "" if item is None else _uid(item.implementation_class_uid)


def _implementation_version_name(user: Sequence[Any]) -> str:
    item = _first(user, ImplementationVersionNameSubItem)
    return "" if item is None else str(item.implementation_version_name or "").strip(" \0")


def _application_context() -> ApplicationContextItem:
    item = ApplicationContextItem()
    item.application_context_name = UID(APPLICATION_CONTEXT)
    return item


def _transfer_syntax(uid: str) -> TransferSyntaxSubItem:
    item = TransferSyntaxSubItem()
    item.transfer_syntax_name = UID(uid)
    return item


def _own_user_information(max_pdu_bytes: int) -> UserInformationItem:
    length = MaximumLengthSubItem()
    length.maximum_length_received = max_pdu_bytes
    class_uid = ImplementationClassUIDSubItem()
    class_uid.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version_name = ImplementationVersionNameSubItem()
    version_name.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    item = UserInformationItem()
    item.user_data = [length, class_uid, version_name]
    return item


def _role_selection(sop_class_uid: str, roles: Roles) -> SCP_SCU_RoleSelectionSubItem:
    item = SCP_SCU_RoleSelectionSubItem()
    item.sop_class_uid = UID(sop_class_uid)
    item.scu_role = int(roles.scu)
    item.scp_role = int(roles.scp)
    return item
