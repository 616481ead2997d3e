"""Every setting of the node, in one place: its environment variable, default, meaning and check.

Nothing else in the project reads the environment. `from_environment` reports every problem at
once, so that a person mends them in one go. Settings of AWS itself (`AWS_DEFAULT_REGION`,
`AWS_ENDPOINT_URL`, credentials) are boto3's own and are not repeated here.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from .errors import SettingsError
from .identifiers import is_ae_title, is_uid
from .transcoding_policy import TranscodingPolicy

Access = Literal["open", "known-aet", "known-aet-and-address"]
Duplicates = Literal["keep-both", "keep-first"]
TlsProfile = Literal["bcp195", "bcp195-extended"]
IdleEnd = Literal["release", "abort"]
UnknownClasses = Literal["refuse", "accept"]
Validation = Literal["none", "warn", "reject"]
MetricsFormat = Literal["off", "emf"]
CustodyMode = Literal["s3", "spool"]

_log: Final = logging.getLogger(__name__)

_PREFIX: Final = "LENTICULAR_"
_MIB: Final = 1 << 20
_TRANSCODE: Final = "rules that say which internal storage format an instance gets"
_DEFAULT_POLICY: Final = TranscodingPolicy.parse("jpeg-lossless")


def _text(raw: str) -> str:
    if not raw.strip():
        raise ValueError("must not be empty")
    return raw.strip()


def _ae_title(raw: str) -> str:
    if not is_ae_title(raw.strip()):
        raise ValueError("must be 1 to 16 ASCII characters without a backslash")
    return raw.strip()


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        try:
            value = int(raw)
        except ValueError:
            raise ValueError(f"must be a whole number from {low} to {high}") from None
        if not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return raw

    return parse


def _yes_or_no(raw: str) -> bool:
    if raw not in ("true", "false"):
        raise ValueError("must be true or false")
    return raw == "true"


def _port_or_off(low: int) -> Callable[[str], int | None]:
    def parse(raw: str) -> int | None:
        if raw == "off":
            return None
        try:
            return _whole(low, 65535)(raw)
        except ValueError as error:
            raise ValueError(f"{error}, or off") from None

    return parse


def _file(raw: str) -> Path:
    path = Path(raw)
    if not path.is_file():
        raise ValueError(f"must be an existing file, and {raw!r} is not")
    return path


def _file_in_a_directory(raw: str) -> Path:
    path = Path(raw)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"must be a file in an existing directory, and {raw!r} is not")
    return path


def _host_and_port(raw: str) -> tuple[str, int]:
    host, _, port = raw.rpartition(":")
    if not host:
        raise ValueError("must be host:port")
    return host.strip("[]"), _whole(1, 65535)(port)


def _directory(raw: str) -> Path:
    path = Path(raw)
    if not path.is_dir():
        raise ValueError(f"must be an existing directory, and {raw!r} is not")
    return path


def _metric_namespace(raw: str) -> str:
    if not re.fullmatch(r"(?!AWS/)[0-9A-Za-z._/#-]{1,255}", raw):
        raise ValueError("must be 1 to 255 of letters, digits and . _ / # -, not AWS/ first")
    return raw


def _transfer_syntax_policy(raw: str) -> str | tuple[str, ...]:
    if raw in ("prefer-explicit", "first-offered"):
        return raw
    uids = tuple(part.strip() for part in raw.split(","))
    if not all(is_uid(uid) for uid in uids):
        raise ValueError(
            "must be prefer-explicit, first-offered or transfer syntax UIDs joined by commas"
        )
    return uids


def _setting(
    variable: str, parse: Callable[[str], Any], meaning: str, default: object = MISSING
) -> Any:  # noqa: ANN401 - dataclasses.field has no narrower type that a typed field accepts
    metadata = {"variable": variable, "parse": parse, "meaning": meaning}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def _audit_log_group() -> Any:  # noqa: ANN401 - as _setting
    return _setting(
        "LENTICULAR_AUDIT_LOG_GROUP",
        _text,
        "log group of CloudWatch that the audit trail (PS3.15 A.5) goes to; it names patients",
        None,
    )


def _audit_file() -> Any:  # noqa: ANN401 - as _setting
    return _setting(
        "LENTICULAR_AUDIT_FILE",
        _file_in_a_directory,
        "file that the audit trail is appended to, a line of JSON for each message",
        None,
    )


def _audit_syslog() -> Any:  # noqa: ANN401 - as _setting
    return _setting(
        "LENTICULAR_AUDIT_SYSLOG",
        _host_and_port,
        "`host:port` of a repository that gets a copy of the audit trail by syslog over TLS "
        "(PS3.15 A.6)",
        None,
    )


def _audit_syslog_ca() -> Any:  # noqa: ANN401 - as _setting
    return _setting(
        "LENTICULAR_AUDIT_SYSLOG_CA",
        _file,
        "PEM file of who issued the repository's certificate; default whom the system trusts",
        None,
    )


def _tls_profile() -> Any:  # noqa: ANN401 - as _setting
    return _setting(
        "LENTICULAR_TLS_PROFILE",
        _one_of("bcp195", "bcp195-extended"),
        "TLS profile of PS3.15: B.12 (TLS 1.2 and 1.3) or the stricter B.13 (AEAD suites only)",
        "bcp195",
    )


class _FromEnvironment:
    """The reading shared by the settings of the gateway and of the functions."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read and check every setting, or raise `SettingsError` naming every problem.

        An empty variable counts as not set, as `Environment:` in a template writes it.
        """
        values: dict[str, object] = {}
        problems: list[str] = []
        misspelt = {like: variable for variable, like in unknown_variables(environment).items()}
        for setting in fields(cast("Any", cls)):
            variable = setting.metadata["variable"]
            raw = environment.get(variable, "")
            if not raw:
                if setting.default is MISSING:
                    perhaps = f" (but {misspelt[variable]} is)" if variable in misspelt else ""
                    meaning = setting.metadata["meaning"]
                    problems.append(f"{variable} is not set{perhaps}: {meaning}")
                continue
            try:
                values[setting.name] = setting.metadata["parse"](raw)
            except ValueError as error:
                problems.append(f"{variable} {error}")
        problems += cls._contradictions(environment)
        if problems:
            raise SettingsError(problems)
        return cls(**values)

    @classmethod
    def _contradictions(cls, environment: Mapping[str, str]) -> list[str]:
        """Say what is wrong with settings that are each right but do not go together."""
        del environment
        return []


@dataclass(frozen=True, kw_only=True)
class _Shared(_FromEnvironment):
    bucket: str = _setting("LENTICULAR_BUCKET", _text, "S3 bucket that holds every instance")
    table: str = _setting("LENTICULAR_TABLE", _text, "DynamoDB table of the index and the nodes")


@dataclass(frozen=True, kw_only=True)
class IndexPolicySettings(_Shared):
    """What the index function and the commands read: what of several contents is shown."""

    duplicates: Duplicates = _setting(
        "LENTICULAR_DUPLICATES",
        _one_of("keep-both", "keep-first"),
        "which content of one SOP Instance UID is shown when several differ: the newest "
        "(`keep-both`) or the first (`keep-first`); the bucket keeps all of them either way",
        "keep-both",
    )


@dataclass(frozen=True, kw_only=True)
class CommitSettings(_Shared):
    """What the commit function reads; template.yaml sets them."""

    queue: str = _setting(
        "LENTICULAR_COMMIT_QUEUE", _text, "URL of the queue of commitments to be worked on"
    )
    grace_seconds: int = _setting(
        "LENTICULAR_COMMIT_GRACE_SECONDS",
        _whole(0, 86_400),
        "time for which instances that are not in the index yet are waited for",
        600,
    )
    report_hours: int = _setting(
        "LENTICULAR_COMMIT_REPORT_HOURS",
        _whole(0, 8760),
        "time for which a requester that cannot be told is tried again",
        72,
    )
    pause_seconds: int = _setting(
        "LENTICULAR_COMMIT_PAUSE_SECONDS",
        _whole(1, 900),
        "pause before a requester is tried a second time; later pauses grow",
        30,
    )
    answer_seconds: int = _setting(
        "LENTICULAR_COMMIT_ANSWER_SECONDS",
        _whole(1, 60),
        "time a requester has to answer an association request, and a report",
        30,
    )
    tls_secret: str = _setting(
        "LENTICULAR_TLS_SECRET",
        str,
        "ARN of the secret of the gateway's certificate, which requesters that are called by TLS "
        "are shown, too",
        "",
    )
    mutual_tls: Literal["yes", "no"] = _setting(
        "LENTICULAR_MUTUAL_TLS",
        _one_of("yes", "no"),
        "whether the secret's `client_ca` is who issued the certificates of requesters; otherwise "
        "those are trusted whom the system trusts",
        "no",
    )
    tls_profile: TlsProfile = _tls_profile()


@dataclass(frozen=True, kw_only=True)
class ProcedureSettings(_Shared):
    """What the function of performed procedure steps reads; template.yaml sets them."""

    queue: str = _setting(
        "LENTICULAR_PROCEDURES_QUEUE", _text, "URL of the queue of performed procedure steps"
    )
    patience_seconds: int = _setting(
        "LENTICULAR_PROCEDURE_PATIENCE_SECONDS",
        _whole(0, 604_800),
        "time after the end of a procedure step for which what it announced is waited for",
        14_400,
    )


_QUEUE: Final = "URL of the queue of what is to be transcoded"


@dataclass(frozen=True, kw_only=True)
class IndexSettings(IndexPolicySettings):
    """What the index function reads; template.yaml sets them."""

    transcode: TranscodingPolicy = _setting(
        "LENTICULAR_TRANSCODE", TranscodingPolicy.parse, _TRANSCODE, _DEFAULT_POLICY
    )
    transcode_queue: str = _setting("LENTICULAR_TRANSCODE_QUEUE", _text, _QUEUE)


@dataclass(frozen=True, kw_only=True)
class FormSettings(_FromEnvironment):
    """Where commands that may do without ask for forms."""

    transcode_queue: str | None = _setting("LENTICULAR_TRANSCODE_QUEUE", _text, _QUEUE, None)


@dataclass(frozen=True, kw_only=True)
class StackSettings(_FromEnvironment):
    """Where the commands that work on queues find them."""

    stack: str = _setting(
        "LENTICULAR_STACK", _text, "name that the CloudFormation stack was given", "lenticular"
    )


@dataclass(frozen=True, kw_only=True)
class PeerSettings(_FromEnvironment):
    """How commands reach the gateway by DICOM, and what they call themselves."""

    ae_title: str = _setting(
        "LENTICULAR_AE_TITLE", _ae_title, "AE title this node answers to", "LENTICULAR"
    )
    host: str = _setting(
        "LENTICULAR_HOST", _text, "name or address at which commands find the gateway", "127.0.0.1"
    )
    port: int | None = _setting(
        "LENTICULAR_PORT",
        _port_or_off(1),
        "port at which commands find the gateway; `off` where it takes TLS alone",
        11112,
    )
    tls_port: int | None = _setting(
        "LENTICULAR_TLS_PORT",
        _port_or_off(0),
        "port at which commands find the gateway when they speak TLS",
        2762,
    )
    calling_ae_title: str = _setting(
        "LENTICULAR_CALLING_AE_TITLE", _ae_title, "AE title of the commands", "LENTICULAR-CLI"
    )
    calling_tls_ca: Path | None = _setting(
        "LENTICULAR_CALLING_TLS_CA",
        _file,
        "PEM file of who issued the certificates of the peers of commands; default whom the system "
        "trusts",
        None,
    )
    calling_tls_certificate: Path | None = _setting(
        "LENTICULAR_CALLING_TLS_CERTIFICATE",
        _file,
        "PEM file of the certificate that commands show to peers that ask for one",
        None,
    )
    calling_tls_key: Path | None = _setting(
        "LENTICULAR_CALLING_TLS_KEY",
        _file,
        "PEM file of that certificate's private key, without password; default the same file",
        None,
    )

    @classmethod
    def _contradictions(cls, environment: Mapping[str, str]) -> list[str]:
        certificate = environment.get("LENTICULAR_CALLING_TLS_CERTIFICATE")
        if environment.get("LENTICULAR_CALLING_TLS_KEY") and not certificate:
            return [
                "LENTICULAR_CALLING_TLS_KEY is set, but LENTICULAR_CALLING_TLS_CERTIFICATE is not"
            ]
        return []


@dataclass(frozen=True, kw_only=True)
class RetentionSettings(_FromEnvironment):
    """How long what was received is held, and what was deleted is kept."""

    retention_days: int = _setting(
        "LENTICULAR_RETENTION_DAYS",
        _whole(0, 36_525),
        "days after its last instance came for which a study cannot be deleted",
        3_653,
    )
    deleted_days: int = _setting(
        "LENTICULAR_DELETED_DAYS",
        _whole(1, 3_650),
        "days for which a deleted study can be brought back; the template's DeletedDays",
        30,
    )


@dataclass(frozen=True, kw_only=True)
class AuditSettings(_FromEnvironment):
    """Where commands write down what they did with whose studies: the gateway's own places."""

    log_group: str | None = _audit_log_group()
    file: Path | None = _audit_file()
    syslog: tuple[str, int] | None = _audit_syslog()
    syslog_ca: Path | None = _audit_syslog_ca()


@dataclass(frozen=True, kw_only=True)
class TranscodeSettings(_Shared):
    """What the transcode function reads; template.yaml sets them."""

    transcode: TranscodingPolicy = _setting(
        "LENTICULAR_TRANSCODE", TranscodingPolicy.parse, _TRANSCODE, _DEFAULT_POLICY
    )
    retire_original: bool = _setting(
        "LENTICULAR_RETIRE_ORIGINAL",
        _yes_or_no,
        "whether an original goes when a form is proven from which it can be restored",
        default=False,
    )
    forms_class: str = _setting(
        "LENTICULAR_FORMS_CLASS",
        _one_of("STANDARD", "STANDARD_IA", "GLACIER_IR"),
        "storage class of S3 that forms are put into",
    )


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(_Shared):
    """What the gateway reads. Sizes are bytes, times are seconds."""

    log_level: str = _setting(
        "LENTICULAR_LOG_LEVEL",
        _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        "least severe log line that is written",
        "INFO",
    )
    ae_title: str = _setting(
        "LENTICULAR_AE_TITLE", _ae_title, "AE title this node answers to", "LENTICULAR"
    )
    bind: str = _setting("LENTICULAR_BIND", _text, "address to listen on", "0.0.0.0")  # noqa: S104 - a container's own network namespace
    port: int | None = _setting(
        "LENTICULAR_PORT",
        _port_or_off(0),
        "port to listen on; 0 takes a free one, `off` leaves TLS alone",
        11112,
    )
    tls_port: int | None = _setting(
        "LENTICULAR_TLS_PORT",
        _port_or_off(0),
        "port to listen on with TLS (registered: 2762); 0 takes a free one; default none",
        None,
    )
    tls_certificate: Path | None = _setting(
        "LENTICULAR_TLS_CERTIFICATE",
        _file,
        "PEM file of this node's certificate and those that issued it; it may change while we run",
        None,
    )
    tls_key: Path | None = _setting(
        "LENTICULAR_TLS_KEY",
        _file,
        "PEM file of the certificate's private key, without password",
        None,
    )
    tls_client_ca: Path | None = _setting(
        "LENTICULAR_TLS_CLIENT_CA",
        _file,
        "PEM file of who issues our peers' certificates; with it a peer without one is refused",
        None,
    )
    tls_ca: Path | None = _setting(
        "LENTICULAR_TLS_CA",
        _file,
        "PEM file of who issued the certificates of nodes that we call by TLS; default whom the "
        "system trusts",
        None,
    )
    tls_profile: TlsProfile = _tls_profile()
    health_port: int | None = _setting(
        "LENTICULAR_HEALTH_PORT",
        _port_or_off(0),
        "port for `GET /alive` and `GET /ready` over HTTP; 0 takes a free one; default none",
        None,
    )
    nodes_file: Path | None = _setting(
        "LENTICULAR_NODES_FILE", Path, "nodes file that replaces the table's nodes at start", None
    )
    access: Access = _setting(
        "LENTICULAR_ACCESS",
        _one_of("open", "known-aet", "known-aet-and-address"),
        "who may connect: anyone, nodes by AE title, or nodes by AE title from their address",
        "known-aet",
    )
    transfer_syntaxes: str | tuple[str, ...] = _setting(
        "LENTICULAR_TRANSFER_SYNTAXES",
        _transfer_syntax_policy,
        "which offered transfer syntax is taken: `prefer-explicit`, `first-offered`, or UIDs in "
        "order of preference joined by commas",
        "prefer-explicit",
    )
    unknown_classes: UnknownClasses = _setting(
        "LENTICULAR_UNKNOWN_CLASSES",
        _one_of("refuse", "accept"),
        "what becomes of storage classes this version does not know, private ones included",
        "refuse",
    )
    validation: Validation = _setting(
        "LENTICULAR_VALIDATION",
        _one_of("none", "warn", "reject"),
        "what becomes of an instance in which dciodvfy (of dicom3tools, which the image has) "
        "finds errors by its IOD: nothing is looked at, it is stored and its sender warned (B007), "
        "or it is refused (A900) and not stored",
        "none",
    )
    max_associations: int = _setting(
        "LENTICULAR_MAX_ASSOCIATIONS",
        _whole(1, 10_000),
        "associations at a time; the next is refused as a transient local limit",
        10,
    )
    workers: int = _setting(
        "LENTICULAR_WORKERS",
        _whole(1, 64),
        "worker processes that share the ports and the limit of associations, one for each core at "
        "most; 1 is a single process",
        1,
    )
    max_pdu_bytes: int = _setting(
        "LENTICULAR_MAX_PDU_BYTES",
        _whole(4096, 16 * _MIB),
        "longest PDU a peer may send us",
        128 * 1024,
    )
    artim_seconds: int = _setting(
        "LENTICULAR_ARTIM_SECONDS",
        _whole(1, 3600),
        "time a connection has to bring its association request",
        30,
    )
    idle_seconds: int = _setting(
        "LENTICULAR_IDLE_SECONDS",
        _whole(1, 86_400),
        "time without a message after which we end an association",
        600,
    )
    idle_end: IdleEnd = _setting(
        "LENTICULAR_IDLE_END",
        _one_of("release", "abort"),
        "how we end an idle association: by A-RELEASE or by A-ABORT",
        "release",
    )
    dimse_seconds: int = _setting(
        "LENTICULAR_DIMSE_SECONDS",
        _whole(1, 3600),
        "time a peer may pause within a message, or take to answer ours",
        60,
    )
    max_responses: int = _setting(
        "LENTICULAR_MAX_RESPONSES",
        _whole(0, 100_000_000),
        "matches of a C-FIND that are answered; if there are more it ends with status A700; 0 sets "
        "no limit",
        10_000,
    )
    metrics: MetricsFormat = _setting(
        "LENTICULAR_METRICS",
        _one_of("off", "emf"),
        "`emf` writes metrics on stdout, in the embedded metric format of CloudWatch Logs",
        "off",
    )
    metrics_namespace: str = _setting(
        "LENTICULAR_METRICS_NAMESPACE",
        _metric_namespace,
        "namespace of these metrics; each node of an account and region has its own",
        "Lenticular",
    )
    audit_log_group: str | None = _audit_log_group()
    audit_file: Path | None = _audit_file()
    audit_syslog: tuple[str, int] | None = _audit_syslog()
    audit_syslog_ca: Path | None = _audit_syslog_ca()
    drain_seconds: int = _setting(
        "LENTICULAR_DRAIN_SECONDS",
        _whole(0, 3600),
        "time running associations get to finish after SIGTERM, and the spool to be uploaded",
        100,
    )
    retry_seconds: int = _setting(
        "LENTICULAR_RETRY_SECONDS",
        _whole(0, 300),
        "time for which S3 is asked again when it throttles or fails, before the sender of an "
        "instance hears A700 and keeps its copy",
        20,
    )
    memory_bytes: int = _setting(
        "LENTICULAR_MEMORY_BYTES",
        _whole(64 * 1024, 1024 * _MIB),
        "an instance longer than this waits in a scratch file instead of memory",
        16 * _MIB,
    )
    read_ahead_bytes: int = _setting(
        "LENTICULAR_READ_AHEAD_BYTES",
        _whole(_MIB, 1024 * _MIB),
        "how much of the instances it sends one C-MOVE or C-GET holds in memory; an instance that "
        "is longer and has to be converted goes through a scratch file",
        32 * _MIB,
    )
    scratch_dir: Path | None = _setting(
        "LENTICULAR_SCRATCH_DIR",
        _directory,
        "where scratch files go; default the system's temporary directory",
        None,
    )
    custody: CustodyMode = _setting(
        "LENTICULAR_CUSTODY",
        _one_of("s3", "spool"),
        "when a sender hears Success: when S3 has the instance (`s3`), or when a durable disk has "
        "it, from which it goes to S3 (`spool`)",
        "s3",
    )
    spool_dir: Path | None = _setting(
        "LENTICULAR_SPOOL_DIR",
        _directory,
        "directory on a durable disk (EFS, for one) that the spool is in; gateways may share it",
        None,
    )
    spool_bytes: int = _setting(
        "LENTICULAR_SPOOL_BYTES",
        _whole(64 * 1024, 1 << 50),
        "what one gateway process may have in the spool; beyond it senders hear A700",
        10 * 1024 * _MIB,
    )
    spool_uploads: int = _setting(
        "LENTICULAR_SPOOL_UPLOADS",
        _whole(1, 256),
        "instances of the spool that are uploaded at a time",
        16,
    )

    @classmethod
    def _contradictions(cls, environment: Mapping[str, str]) -> list[str]:
        plain = environment.get("LENTICULAR_PORT", "") != "off"
        tls = environment.get("LENTICULAR_TLS_PORT", "") not in ("", "off")
        problems = []
        if tls:
            problems += [
                f"{variable} is not set, but LENTICULAR_TLS_PORT is"
                for variable in ("LENTICULAR_TLS_CERTIFICATE", "LENTICULAR_TLS_KEY")
                if not environment.get(variable)
            ]
        elif environment.get("LENTICULAR_TLS_CERTIFICATE"):
            # Whoever gives a certificate believes that the node speaks TLS.
            problems.append("LENTICULAR_TLS_CERTIFICATE is set, but LENTICULAR_TLS_PORT is not")
        if not plain and not tls:
            problems.append("LENTICULAR_PORT is off and LENTICULAR_TLS_PORT too: set one of them")
        if environment.get("LENTICULAR_AUDIT_SYSLOG_CA") and not environment.get(
            "LENTICULAR_AUDIT_SYSLOG"
        ):
            problems.append("LENTICULAR_AUDIT_SYSLOG_CA is set, but LENTICULAR_AUDIT_SYSLOG is not")
        spools = environment.get("LENTICULAR_CUSTODY") == "spool"
        if spools and not environment.get("LENTICULAR_SPOOL_DIR"):
            problems.append("LENTICULAR_SPOOL_DIR is not set, but LENTICULAR_CUSTODY is spool")
        elif not spools and environment.get("LENTICULAR_SPOOL_DIR"):
            # Whoever gives a directory believes that it is used.
            problems.append("LENTICULAR_SPOOL_DIR is set, but LENTICULAR_CUSTODY is not spool")
        return problems


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return what is set like a setting and is none, with the setting that is most like it.

    What only another process of the node reads is a setting, too: they may share an environment.
    """
    # Compared without what all of them begin with, which would make any two alike.
    known = {
        setting.metadata["variable"].removeprefix(_PREFIX)
        for settings in _subclasses(_FromEnvironment)
        for setting in fields(cast("Any", settings))
    }
    unknown: dict[str, str | None] = {}
    for variable, value in sorted(environment.items()):
        name = variable.removeprefix(_PREFIX)
        if value and name != variable and name not in known:
            like = _most_like(name, sorted(known))
            unknown[variable] = None if like is None else f"{_PREFIX}{like}"
    return unknown


def _most_like(name: str, known: Sequence[str]) -> str | None:
    if longer := [each for each in known if each.startswith(name)]:
        return min(longer, key=len)
    return next(iter(get_close_matches(name, known, n=1)), None)


def _subclasses(of: type[_FromEnvironment]) -> Iterator[type[_FromEnvironment]]:
    for each in of.__subclasses__():
        yield each
        yield from _subclasses(each)


def warn_of_unknown_variables(environment: Mapping[str, str]) -> None:
    """Log in one line what is set like a setting and is none; a process does so when it starts."""
    if unknown := unknown_variables(environment):
        _log.warning("what is set and is no setting is ignored", extra={"most_like": unknown})


def settings_table() -> str:
    """Return every setting as a Markdown table, for the README; a test keeps the two equal."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for setting in fields(GatewaySettings):
        default = "(required)" if setting.default is MISSING else setting.default
        shown = "" if default is None else f"`{default}`" if default != "(required)" else default
        rows.append(
            f"| `{setting.metadata['variable']}` | {shown} | {setting.metadata['meaning']} |"
        )
    return "\n".join(rows)
