"""The tables of the DICOM Conformance Statement, made from those that the node runs on.

Whatever the code has no words for has them here: what a status means, when an association is
rejected, which command uses a service.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from enum import IntEnum
from functools import wraps
from typing import Final, TypeAlias

from pydicom.uid import UID, MediaStorageDirectoryStorage

from gateway.negotiation import (
    ADDRESS_NOT_RECOGNIZED,
    APPLICATION_CONTEXT,
    APPLICATION_CONTEXT_NOT_SUPPORTED,
    CALLED_AET_NOT_RECOGNIZED,
    CALLING_AET_NOT_RECOGNIZED,
    LOCAL_LIMIT_EXCEEDED,
    MAX_CONTEXTS,
    REJECT_REASONS,
    TEMPORARY_CONGESTION,
    VERSION_NOT_SUPPORTED,
    QueryOption,
    Rejected,
)
from gateway.offers import Offer, offers
from lenticular import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from lenticular.attributes import Attribute, Level, computed_of_level, of_level
from lenticular.cli.association_requests import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    MAX_PDU_BYTES,
    SERVICES,
    SUB_OPERATION_SECONDS,
    UNCOMPRESSED,
)
from lenticular.matching import kind_of_matching
from lenticular.query import MODEL_OF
from lenticular.settings import GatewaySettings, PeerSettings
from lenticular.sop_classes import (
    PATIENT_ROOT_FIND,
    PATIENT_STUDY_ONLY_FIND,
    STORAGE,
    STORAGE_COMMITMENT_PUSH,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
    SOPClass,
)
from lenticular.status import (
    CommitmentFailure,
    FindStatus,
    MoveStatus,
    Status,
    StoreStatus,
)
from lenticular.tls import PROFILES
from lenticular.transfer_syntaxes import ALL, BY_UID

Rows: TypeAlias = Iterable[Sequence[object]]

#: The application entity that the operator's commands are, by the default of its title.
COMMANDS: Final = "LENTICULAR-CLI"

_REJECTIONS: Final[Sequence[tuple[Rejected, str]]] = (
    (LOCAL_LIMIT_EXCEEDED, "as many associations are open as are allowed"),
    (TEMPORARY_CONGESTION, "the list of nodes cannot be read, or there is no thread left"),
    (CALLED_AET_NOT_RECOGNIZED, "another AE title was called, unless access is `open`"),
    (CALLING_AET_NOT_RECOGNIZED, "the caller is no node of the list, unless access is `open`"),
    (ADDRESS_NOT_RECOGNIZED, "it calls from another address, with `known-aet-and-address`"),
    (APPLICATION_CONTEXT_NOT_SUPPORTED, "the application context is not DICOM's"),
    (VERSION_NOT_SUPPORTED, "the protocol version is not 1"),
)

_OPTIONS: Final[Mapping[QueryOption, str]] = {
    QueryOption.RELATIONAL: "relational queries or retrieval",
    QueryOption.COMBINED_DATE_TIME: "date and time matched as one",
    QueryOption.FUZZY_PERSON_NAMES: "fuzzy matching of person names",
    QueryOption.TIMEZONE_ADJUSTMENT: "time zone adjustment of queries",
}

#: What each status means here, of the services that have statuses of their own. No mapping: members
#: of different services with one number are equal, and would be one key.
_MEANINGS: Final[Sequence[tuple[IntEnum, str]]] = (
    (StoreStatus.OUT_OF_RESOURCES, "The instance could not be kept, send it again later"),
    (StoreStatus.INTERNAL_ERROR, "Internal error; the instance is not kept"),
    (
        StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
        (
            "SOP class or instance UID of command and data set differ, or the IOD is violated and "
            "`LENTICULAR_VALIDATION` is `reject`"
        ),
    ),
    (
        StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING,
        "Kept; the IOD is violated and `LENTICULAR_VALIDATION` is `warn`",
    ),
    (
        StoreStatus.CANNOT_UNDERSTAND,
        "Kept in quarantine: it cannot be read as what it says it is, or breaks off",
    ),
    (
        Status.SOP_CLASS_NOT_SUPPORTED,
        "The request does not fit the SOP class of its presentation context",
    ),
    (Status.NOT_AUTHORIZED, "The node lacks the permission of table 5-1"),
    (FindStatus.PENDING, "A match"),
    (
        FindStatus.PENDING_OPTIONAL_KEYS_NOT_SUPPORTED,
        "A match; a key that was asked for is neither matched nor returned",
    ),
    (FindStatus.CANCELLED, "C-CANCEL was received"),
    (FindStatus.OUT_OF_RESOURCES, "The index cannot be read, or more match than may be answered"),
    (FindStatus.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, "The identifier breaks a rule of its model"),
    (FindStatus.UNABLE_TO_PROCESS, "Internal error"),
    (MoveStatus.PENDING, "Sub-operations go on"),
    (MoveStatus.CANCELLED, "C-CANCEL was received"),
    (MoveStatus.SUB_OPERATIONS_FAILED, "Some failed or had a warning; the failed ones are listed"),
    (MoveStatus.CANNOT_COUNT_MATCHES, "The index cannot be read"),
    (MoveStatus.CANNOT_PERFORM_SUB_OPERATIONS, "All failed, or the index broke off"),
    (MoveStatus.DESTINATION_UNKNOWN, "The destination is no node with a port"),
    (MoveStatus.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, "The identifier breaks a rule of its model"),
    (MoveStatus.UNABLE_TO_PROCESS, "Internal error"),
)

_OF_EVERY_SERVICE: Final = (Status.SUCCESS, Status.SOP_CLASS_NOT_SUPPORTED, Status.NOT_AUTHORIZED)
_MEANING_OF: Final = {(type(status), status.value): meaning for status, meaning in _MEANINGS}

#: Specific Character Sets that are read and written, PS3.3 tables C.12-2 to C.12-5.
CHARACTER_SETS: Final[Sequence[tuple[str, str]]] = (
    ("ISO_IR 6 (default)", "ASCII"),
    ("ISO_IR 100, ISO 2022 IR 100", "Latin alphabet No. 1"),
    ("ISO_IR 101, ISO 2022 IR 101", "Latin alphabet No. 2"),
    ("ISO_IR 109, ISO 2022 IR 109", "Latin alphabet No. 3"),
    ("ISO_IR 110, ISO 2022 IR 110", "Latin alphabet No. 4"),
    ("ISO_IR 148, ISO 2022 IR 148", "Latin alphabet No. 5"),
    ("ISO_IR 203, ISO 2022 IR 203", "Latin alphabet No. 9"),
    ("ISO_IR 144, ISO 2022 IR 144", "Cyrillic"),
    ("ISO_IR 127, ISO 2022 IR 127", "Arabic"),
    ("ISO_IR 126, ISO 2022 IR 126", "Greek"),
    ("ISO_IR 138, ISO 2022 IR 138", "Hebrew"),
    ("ISO_IR 166, ISO 2022 IR 166", "Thai"),
    ("ISO_IR 13, ISO 2022 IR 13", "Japanese, JIS X 0201"),
    ("ISO 2022 IR 87", "Japanese, JIS X 0208"),
    ("ISO 2022 IR 159", "Japanese, JIS X 0212"),
    ("ISO 2022 IR 149", "Korean, KS X 1001"),
    ("ISO 2022 IR 58", "Simplified Chinese, GB 2312"),
    ("ISO_IR 192", "Unicode in UTF-8"),
    ("GB18030", "Chinese, GB 18030"),
    ("GBK", "Chinese, GBK"),
)

_CONFIGURED: Final[Sequence[tuple[str, str]]] = (
    ("ae_title", "AE title"),
    ("port", "port"),
    ("tls_port", "port with TLS"),
    ("tls_profile", "TLS profile"),
    ("access", "who may associate"),
    ("transfer_syntaxes", "choice among offered transfer syntaxes"),
    ("unknown_classes", "storage classes that are not in table 1-1"),
    ("validation", "validation against the IOD"),
    ("max_associations", "associations at a time"),
    ("max_pdu_bytes", "maximum PDU length received"),
    ("artim_seconds", "ARTIM time-out (s)"),
    ("idle_seconds", "time-out of an idle association (s)"),
    ("idle_end", "how an idle association is ended"),
    ("dimse_seconds", "time-out of DIMSE messages (s)"),
    ("max_responses", "matches that are answered"),
)

#: Which commands use a service, for table 7-5; what is in no command has no row.
_COMMANDS_OF: Final[Mapping[str, str]] = {
    VERIFICATION: "`nodes echo`",
    PATIENT_ROOT_FIND: "`find`",
    STUDY_ROOT_FIND: "`find`, `get`, `import node`",
    PATIENT_STUDY_ONLY_FIND: "`find`",
    STUDY_ROOT_MOVE: "`import node`, `send --study`",
    STUDY_ROOT_GET: "`get`",
}

#: Of tables 7-1 and 7-4.
_OF_EVERY_ENTITY: Final = (
    ("Application Context Name", APPLICATION_CONTEXT),
    ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
    ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
)

_OF_COMMANDS: Final = {setting.name: setting for setting in fields(PeerSettings)}
_SETTINGS: Final = {setting.name: setting for setting in fields(GatewaySettings)}


def _markdown(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _table(*head: str) -> Callable[[Callable[[], Rows]], Callable[[], str]]:
    """Make of a function that yields rows one that returns them in Markdown, below this head."""

    def of_rows(rows: Callable[[], Rows]) -> Callable[[], str]:
        @wraps(rows)
        def in_markdown() -> str:
            return _markdown(head, rows())

        return in_markdown

    return of_rows


@_table("SOP class", "UID", "transfer syntax set", "SCU", "SCP")
def storage_classes() -> Rows:
    """Table 1-1: the storage SOP classes."""
    assert _storage().scp_permission is not None
    for uid, sop_class in STORAGE.items():
        yield _named(sop_class), uid, "UTS", "yes", "yes"


def _named(sop_class: SOPClass) -> str:
    marks = [
        mark
        for mark, holds in (("retired", sop_class.retired), ("private", sop_class.private))
        if holds
    ]
    return sop_class.name + (f" ({', '.join(marks)})" if marks else "")


@_table("transfer syntax", "UID", "note")
def storage_syntaxes() -> Rows:
    """Table 1-2: the transfer syntaxes of storage."""
    offered = _storage().transfer_syntaxes
    for syntax in ALL:
        if syntax.uid in offered:
            notes = [
                note
                for note, holds in (("lossy", syntax.lossy), ("retired", syntax.retired))
                if holds
            ]
            yield syntax.name, syntax.uid, ", ".join(notes)


def _storage() -> Offer:
    """Return what is offered of each storage class: of all the same."""
    return offers()[next(iter(STORAGE))]


def _services() -> dict[str, Offer]:
    """Return what is offered beside storage, by abstract syntax."""
    return {uid: offer for uid, offer in offers().items() if uid not in STORAGE}


@_table("SOP class", "UID", "SCU", "SCP", "transfer syntaxes")
def services_beside_storage() -> Rows:
    """Table 1-3: the services beside storage."""
    for uid, offer in _services().items():
        scu = "yes (N-EVENT-REPORT)" if uid == STORAGE_COMMITMENT_PUSH else "no"
        if uid in SERVICES:
            scu = f"yes ({COMMANDS})"
        yield UID(uid).name, uid, scu, "yes", _names(offer.transfer_syntaxes)


@_table("SOP class", "UID", "role", "by")
def media_services() -> Rows:
    """Table 1-4: the media services."""
    yield "Media Storage Directory Storage", MediaStorageDirectoryStorage, "FSC", COMMANDS
    yield "the storage SOP classes of table 1-1", "", "FSC", COMMANDS


@_table("service", "role", "application entity", "a node needs in its `may`")
def services_by_entity() -> Rows:
    """Table 5-1: which application entity has which service."""
    for uid, offer in _services().items():
        needs = "(nothing)" if offer.permission is None else f"`{offer.permission}`"
        yield UID(uid).name, "SCP", "LENTICULAR", needs
    storage = _storage()
    yield "Storage", "SCP", "LENTICULAR", f"`{storage.permission}`"
    yield "Storage, by C-MOVE", "SCU", "LENTICULAR", "(the asking node `move`)"
    yield "Storage, by C-GET", "SCU", "LENTICULAR", f"`{storage.scp_permission}`"
    yield (
        "Storage Commitment, report",
        "SCP, opens the association",
        "LENTICULAR-COMMIT",
        "`commit`",
    )
    for uid in SERVICES:
        yield UID(uid).name, "SCU", COMMANDS, ""
    yield "Storage, of files", "SCU", COMMANDS, ""
    yield "Storage, by C-GET", "SCP, opens the association", COMMANDS, ""
    yield "Media Storage", "FSC", COMMANDS, ""


@_table("information model", "levels")
def information_models() -> Rows:
    """Table 5-3: the information models of queries."""
    for model in dict.fromkeys(MODEL_OF.values()):
        levels = ", ".join(level.query_retrieve_level for level in model.value)
        yield model.name.replace("_", " ").title(), levels


@_table("attribute", "tag", "VR", "level", "matching", "note")
def keys() -> Rows:
    """Table 5-4: the keys of queries."""
    unique = {"PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"}
    for level in Level:
        for attribute in of_level(level):
            yield *_key(attribute), "U" if attribute.keyword in unique else ""
        for attribute in computed_of_level(level).values():
            yield *_key(attribute), "C"


def _key(attribute: Attribute) -> Sequence[object]:
    group, element = attribute.tag >> 16, attribute.tag & 0xFFFF
    return (
        attribute.keyword,
        f"({group:04X},{element:04X})",
        attribute.vr,
        attribute.level.query_retrieve_level,
        kind_of_matching(attribute.vr, attribute.tag),
    )


def statuses(own: type[IntEnum]) -> str:
    """Tables 5-2, 5-5 and 5-6: the statuses of a service, those of every service among them."""
    rows = [
        (f"{each.value:04X}", _name(each), _MEANING_OF.get((type(each), each.value), ""))
        for each in (*_OF_EVERY_SERVICE, *own)
    ]
    return _markdown(("status", "name", "when"), sorted(rows))


@_table("reason", "name")
def failure_reasons() -> Rows:
    """Table 5-7: why an instance is not committed to."""
    for each in CommitmentFailure:
        yield f"{each.value:04X}", _words(each)


def _name(status: IntEnum) -> str:
    """Name a status with its type (PS3.7 C), which is the whole name of some."""
    types = {0xA: "Failure", 0xB: "Warning", 0xC: "Failure", 0xF: ""}
    kind = types.get(status >> 12, "Failure") if status else ""
    return f"{kind}: {_words(status)}" if kind else _words(status).capitalize()


def _words(each: IntEnum) -> str:
    return each.name.replace("_", " ").lower().replace("sop", "SOP").replace("uid", "UID")


def default_of(name: str) -> object:
    """Return what a setting of the gateway is unless it is set."""
    return _SETTINGS[name].default


@_table("parameter", "variable", "default")
def gateway_parameters() -> Rows:
    """Table 6-1: what of the gateway can be configured."""
    for name, words in _CONFIGURED:
        setting = _SETTINGS[name]
        default = "(none)" if setting.default in (None, MISSING) else setting.default
        yield words, f"`{setting.metadata['variable']}`", default


@_table("parameter", "variable", "default")
def command_parameters() -> Rows:
    """Of section 6: what of the commands can be configured."""
    for setting in _OF_COMMANDS.values():
        default = "(none)" if setting.default in (None, MISSING) else setting.default
        yield setting.metadata["meaning"], f"`{setting.metadata['variable']}`", default


@_table("parameter", "value")
def association_parameters() -> Rows:
    """Table 7-1: how the gateway associates."""
    yield from _OF_EVERY_ENTITY
    yield "Maximum PDU length received", f"{default_of('max_pdu_bytes')}, configurable"
    yield "ARTIM time-out", f"{default_of('artim_seconds')} s, configurable"
    yield "Association idle time-out", f"{default_of('idle_seconds')} s, configurable"
    yield "DIMSE time-out", f"{default_of('dimse_seconds')} s, configurable"
    yield (
        "Associations at a time",
        f"{default_of('max_associations')} for each gateway task, configurable",
    )
    yield "Asynchronous operations", "1 invoked, 1 performed"


@_table("parameter", "value")
def command_association_parameters() -> Rows:
    """Table 7-4: how the commands associate."""
    yield from _OF_EVERY_ENTITY
    yield "Calling AE title", f"{_OF_COMMANDS['calling_ae_title'].default}, configurable"
    yield "Maximum PDU length received", MAX_PDU_BYTES
    yield "Time-out of the connection", f"{CONNECT_SECONDS:.0f} s"
    yield "Time-out of the association request", f"{ANSWER_SECONDS:.0f} s"
    of_retrieval = f"of C-GET and C-MOVE {SUB_OPERATION_SECONDS:.0f} s for each response"
    yield "DIMSE time-out", f"{ANSWER_SECONDS:.0f} s, {of_retrieval}"
    yield "Asynchronous operations", "1 invoked, 1 performed"


@_table("SOP class", "UID", "role", "transfer syntaxes", "commands")
def proposed_contexts() -> Rows:
    """Table 7-5: what the commands propose."""
    either = " or ".join(BY_UID[uid].name for uid in UNCOMPRESSED)
    for uid, syntaxes in SERVICES.items():
        yield UID(uid).name, uid, "SCU", _names(syntaxes), _COMMANDS_OF[uid]
    yield (
        "those of table 1-1",
        "",
        "SCU",
        f"UTS, each in a context of its own; beside {either} the other one",
        "`send`, `import folder`; with `--unknown-classes` other storage classes too",
    )
    yield (
        "those of table 1-1",
        "",
        "SCP",
        _names(UNCOMPRESSED),
        f"`get`: those that the peer says are in the study, {MAX_CONTEXTS - 1} at most",
    )


def _names(syntaxes: Iterable[str]) -> str:
    return ", ".join(sorted(BY_UID[each].name for each in syntaxes))


@_table("result", "source", "reason", "when")
def rejections() -> Rows:
    """Table 7-2: why associations are rejected."""
    for rejected, when in _REJECTIONS:
        yield (
            f"{rejected.result:d} {_words(rejected.result)}",
            f"{rejected.source:d} {_words(rejected.source)}",
            f"{rejected.reason} {REJECT_REASONS[rejected.source, rejected.reason]}",
            when,
        )


@_table("SOP class", *(_OPTIONS[option] for option in QueryOption))
def extended_negotiation() -> Rows:
    """Table 7-3: which options of queries are agreed to."""
    for uid, offer in _services().items():
        if offer.options:
            agreed = ("yes" if option in offer.options else "no" for option in QueryOption)
            yield UID(uid).name, *agreed


@_table("profile", "`LENTICULAR_TLS_PROFILE`", "least version", "TLS 1.2 suites (OpenSSL)")
def tls_profiles() -> Rows:
    """Of section 8: the profiles of TLS."""
    of_standard = {
        "bcp195": "BCP 195 RFC 8996, 9325 TLS (B.12)",
        "bcp195-extended": "Modified BCP 195 RFC 8996, 9325 TLS (B.13)",
    }
    for name, rules in PROFILES.items():
        version = rules.minimum_version.name.replace("TLSv1_", "TLS 1.")
        yield of_standard[name], f"`{name}`", version, f"`{rules.suites}`"


@_table("Specific Character Set", "repertoire")
def character_sets() -> Rows:
    """Annex B: the character sets of queries."""
    yield from CHARACTER_SETS
