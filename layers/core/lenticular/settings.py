"""Every setting of the node, in one place: its environment variable, default, meaning and check.

Nothing else in the project reads the environment. `from_environment` reports every problem at
once, so that a person mends them in one go. Settings of AWS itself (`AWS_DEFAULT_REGION`,
`AWS_ENDPOINT_URL`, credentials) are boto3's own and are not repeated here.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

from .errors import SettingsError
from .identifiers import is_ae_title, is_uid

Access = Literal["open", "known-aet", "known-aet-and-address"]
Duplicates = Literal["keep-both", "keep-first"]

_MIB: Final = 1 << 20


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


def _directory(raw: str) -> Path:
    path = Path(raw)
    if not path.is_dir():
        raise ValueError(f"must be an existing directory, and {raw!r} is not")
    return path


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


class _FromEnvironment:
    """The reading shared by the settings of the gateway and of the functions."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read and check every setting, or raise `SettingsError` naming every problem.

        An empty variable counts as not set, as `Environment:` in a template writes it.
        """
        values: dict[str, object] = {}
        problems: list[str] = []
        for setting in fields(cast("Any", cls)):
            variable = setting.metadata["variable"]
            raw = environment.get(variable, "")
            if not raw:
                if setting.default is MISSING:
                    problems.append(f"{variable} is not set: {setting.metadata['meaning']}")
                continue
            try:
                values[setting.name] = setting.metadata["parse"](raw)
            except ValueError as error:
                problems.append(f"{variable} {error}")
        if problems:
            raise SettingsError(problems)
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class _Shared(_FromEnvironment):
    bucket: str = _setting("LENTICULAR_BUCKET", _text, "S3 bucket that holds every instance")
    table: str = _setting("LENTICULAR_TABLE", _text, "DynamoDB table of the index and the nodes")
    log_level: str = _setting(
        "LENTICULAR_LOG_LEVEL",
        _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
        "least severe log line that is written",
        "INFO",
    )


@dataclass(frozen=True, kw_only=True)
class FunctionSettings(_Shared):
    """What each Lambda function reads; template.yaml sets them."""

    duplicates: Duplicates = _setting(
        "LENTICULAR_DUPLICATES",
        _one_of("keep-both", "keep-first"),
        "which content of one SOP Instance UID is shown when several differ: the newest "
        "(`keep-both`) or the first (`keep-first`); the bucket keeps all of them either way",
        "keep-both",
    )


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(_Shared):
    """What the gateway reads. Sizes are bytes, times are seconds."""

    ae_title: str = _setting(
        "LENTICULAR_AE_TITLE", _ae_title, "AE title this node answers to", "LENTICULAR"
    )
    bind: str = _setting("LENTICULAR_BIND", _text, "address to listen on", "0.0.0.0")  # noqa: S104 - a container's own network namespace
    port: int = _setting(
        "LENTICULAR_PORT", _whole(0, 65535), "port to listen on; 0 takes a free one", 11112
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
    max_associations: int = _setting(
        "LENTICULAR_MAX_ASSOCIATIONS",
        _whole(1, 10_000),
        "associations at a time; the next is refused as a transient local limit",
        10,
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
        "time without a message after which an association is released",
        600,
    )
    dimse_seconds: int = _setting(
        "LENTICULAR_DIMSE_SECONDS",
        _whole(1, 3600),
        "time a peer may pause within a message, or take to answer ours",
        60,
    )
    drain_seconds: int = _setting(
        "LENTICULAR_DRAIN_SECONDS",
        _whole(0, 3600),
        "time running associations get to finish after SIGTERM",
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
    scratch_dir: Path | None = _setting(
        "LENTICULAR_SCRATCH_DIR",
        _directory,
        "where scratch files go; default the system's temporary directory",
        None,
    )


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
