"""Start the gateway: settings, services, server; then serve until told to stop."""

import contextlib
import json
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from os import environ
from types import FrameType
from typing import Final

from lenticular import sop_classes, transfer_syntaxes
from lenticular.archive import Archive
from lenticular.audit import AuditSource
from lenticular.audit_outlets import AuditFile, LogGroup, Outlet
from lenticular.aws import dynamodb_client, logs_client, s3_client
from lenticular.errors import LenticularError, OperatorError
from lenticular.index import Index
from lenticular.nodes import NodeTable, read_nodes_file
from lenticular.settings import GatewaySettings
from lenticular.transactions import Transactions
from lenticular.validation import Validator

from .acceptance import AccessPolicy, Offer
from .association import Limits, Service
from .audit import AuditTrail
from .command_set import CommandField
from .commitment import CommitmentScp
from .custody import Custody
from .find import FindService
from .get import GetService
from .health import Health, StoreLook
from .logs import configure_logging
from .metrics import Metrics
from .move import MoveService
from .negotiation import QueryOption
from .normalized import NormalizedService, Operation
from .ports import Ports
from .procedure_steps import ProcedureSteps
from .retrieval import Memory
from .server import Server, Slots, spare_the_collector
from .spool import Spool
from .storage import StorageService
from .supervisor import FAILED, USAGE_ERROR, Supervisor
from .syslog import Syslog, tls_context
from .tls import Certificates, TlsFiles, expiry
from .verification import VerificationService

_log: Final = logging.getLogger(__name__)

_UNCOMPRESSED: Final = frozenset(
    {
        transfer_syntaxes.IMPLICIT_VR_LITTLE_ENDIAN.uid,
        transfer_syntaxes.EXPLICIT_VR_LITTLE_ENDIAN.uid,
        transfer_syntaxes.EXPLICIT_VR_BIG_ENDIAN.uid,
    }
)
_FIND: Final = (
    sop_classes.PATIENT_ROOT_FIND,
    sop_classes.STUDY_ROOT_FIND,
    sop_classes.PATIENT_STUDY_ONLY_FIND,
)
_MOVE: Final = (
    sop_classes.PATIENT_ROOT_MOVE,
    sop_classes.STUDY_ROOT_MOVE,
    sop_classes.PATIENT_STUDY_ONLY_MOVE,
)
_GET: Final = (
    sop_classes.PATIENT_ROOT_GET,
    sop_classes.STUDY_ROOT_GET,
    sop_classes.PATIENT_STUDY_ONLY_GET,
)
_PROCEDURE_STEP: Final = (
    sop_classes.MODALITY_PERFORMED_PROCEDURE_STEP,
    sop_classes.MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
)
#: Names are matched without case and accents for everyone, which is not the fuzziness meant there.
_QUERY_OPTIONS: Final = frozenset({QueryOption.RELATIONAL, QueryOption.COMBINED_DATE_TIME})
_RETRIEVE_OPTIONS: Final = frozenset({QueryOption.RELATIONAL})


#: By C-GET a node receives as the SCP, so that takes what retrieving takes.
_STORAGE_OFFER: Final = Offer(
    frozenset(transfer_syntaxes.BY_UID), permission="store", scp_permission="move"
)


def offers() -> dict[str, Offer]:
    """Return what the gateway accepts, by abstract syntax."""
    # Deflated Explicit VR belongs to messages with long data sets, but some peers offer nothing
    # else beside Implicit VR, and Verification has no data set at all.
    spoken = _UNCOMPRESSED | {transfer_syntaxes.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.uid}
    return {
        sop_classes.VERIFICATION: Offer(spoken),
        **dict.fromkeys(sop_classes.STORAGE, _STORAGE_OFFER),
        **{uid: Offer(_UNCOMPRESSED, permission="find", options=_QUERY_OPTIONS) for uid in _FIND},
        **{
            uid: Offer(_UNCOMPRESSED, permission="move", options=_RETRIEVE_OPTIONS)
            for uid in (*_MOVE, *_GET)
        },
        # A request for thousands of instances is a long data set, so these may be deflated.
        **{uid: Offer(spoken, permission="mpps") for uid in _PROCEDURE_STEP},
        sop_classes.STORAGE_COMMITMENT_PUSH: Offer(spoken, permission="commit"),
    }


def load_nodes(settings: GatewaySettings) -> None:
    """Make the table's nodes equal to the nodes file, if there is one; raises `LenticularError`."""
    if settings.nodes_file is not None:
        nodes = NodeTable(dynamodb_client(), settings.table)
        nodes.replace_all(read_nodes_file(settings.nodes_file))


def build_metrics(settings: GatewaySettings) -> Metrics | None:
    """Make what writes metrics, if they are wanted."""
    if settings.metrics != "emf":
        return None
    return Metrics(settings.ae_title, settings.metrics_namespace)


def build_spool(settings: GatewaySettings) -> Spool | None:
    """Begin this process's journal, if that is wanted, or raise `OperatorError`."""
    if settings.custody != "spool":
        return None
    assert settings.spool_dir is not None
    return Spool(
        settings.spool_dir,
        # The spool itself tries again, for as long as it takes.
        Custody(settings.bucket, retry_seconds=0, memory_bytes=settings.memory_bytes),
        max_bytes=settings.spool_bytes,
        uploads=settings.spool_uploads,
        memory_bytes=settings.memory_bytes,
    )


def build_audit(settings: GatewaySettings) -> AuditTrail:
    """Make this process's audit trail to where it is wanted, or raise `OperatorError`."""
    outlets: list[Outlet] = []
    if settings.audit_log_group is not None:
        outlets.append(LogGroup(logs_client(), settings.audit_log_group))
    if settings.audit_file is not None:
        outlets.append(AuditFile(settings.audit_file))
    if settings.audit_syslog is not None:
        try:
            context = tls_context(settings.audit_syslog_ca)
        except (OSError, ValueError) as error:
            raise OperatorError(f"LENTICULAR_AUDIT_SYSLOG_CA cannot be used: {error}") from error
        outlets.append(Syslog(*settings.audit_syslog, context))
    return AuditTrail(AuditSource(settings.ae_title, socket.gethostname()), outlets)


def open_ports(settings: GatewaySettings) -> Ports:
    """Listen, or raise `OperatorError`."""
    try:
        return Ports.open(settings.bind, settings.port, settings.tls_port)
    except OSError as error:
        numbers = [str(port) for port in (settings.port, settings.tls_port) if port is not None]
        raise OperatorError(
            f"cannot listen on {settings.bind}, port {' or '.join(numbers)}: {error.strerror}; "
            "stop what uses the port or set another LENTICULAR_PORT or LENTICULAR_TLS_PORT"
        ) from error


def build(  # noqa: PLR0913 - each is there or not, by the settings and the kind of process
    settings: GatewaySettings,
    ports: Ports,
    metrics: Metrics | None = None,
    *,
    spool: Spool | None = None,
    slots: Slots | None = None,
    audit: AuditTrail | None = None,
) -> Server:
    """Connect the services to bucket, table and spool, and the ports to the services.

    A worker process has no ports, and `slots` that it shares. Raises `OperatorError` when AWS is
    not configured or TLS cannot be spoken.
    """
    if audit is not None and not audit.has_outlets:
        audit = None
    dynamodb = dynamodb_client()
    nodes = NodeTable(dynamodb, settings.table)
    custody = Custody(
        settings.bucket,
        retry_seconds=settings.retry_seconds,
        memory_bytes=settings.memory_bytes,
        scratch_dir=settings.scratch_dir,
    )
    index = Index(dynamodb, settings.table)
    archive = Archive(s3_client(), settings.bucket)
    commitment = CommitmentScp(
        Transactions(archive, dynamodb, settings.table),
        nodes.find,
        arriving=(lambda _: ()) if spool is None else spool.arriving,
    )
    memory = Memory(settings.read_ahead_bytes, settings.scratch_dir)
    services: dict[int, Service] = {
        CommandField.C_ECHO_RQ: VerificationService(),
        CommandField.C_STORE_RQ: StorageService(
            custody if spool is None else spool,
            memory_bytes=settings.memory_bytes,
            scratch_dir=settings.scratch_dir,
            validator=None if settings.validation == "none" else Validator(),
            reject_invalid=settings.validation == "reject",
            audit=audit,
        ),
        CommandField.C_FIND_RQ: FindService(
            index,
            settings.ae_title,
            max_responses=settings.max_responses,
            report=None if metrics is None else metrics.query_ended,
            audit=audit,
        ),
        CommandField.C_MOVE_RQ: MoveService(
            index,
            custody,
            nodes.find,
            memory,
            ae_title=settings.ae_title,
            max_pdu_bytes=settings.max_pdu_bytes,
            dimse_seconds=settings.dimse_seconds,
            audit=audit,
        ),
        CommandField.C_GET_RQ: GetService(index, custody, memory, audit),
        CommandField.N_ACTION_RQ: NormalizedService(
            {sop_classes.STORAGE_COMMITMENT_PUSH: Operation("commit", commitment.perform)}
        ),
        **ProcedureSteps(custody, archive).services(),
    }
    acceptance = AccessPolicy(
        ae_title=settings.ae_title,
        access=settings.access,
        find_node=nodes.find,
        offers=offers(),
        transfer_syntax_policy=settings.transfer_syntaxes,
        offer_for_unknown=_STORAGE_OFFER if settings.unknown_classes == "accept" else None,
    )
    limits = Limits(
        max_associations=settings.max_associations,
        max_pdu_bytes=settings.max_pdu_bytes,
        artim_seconds=settings.artim_seconds,
        idle_seconds=settings.idle_seconds,
        idle_end=settings.idle_end,
        dimse_seconds=settings.dimse_seconds,
    )
    return Server(
        ports,
        acceptance=acceptance,
        services=services,
        limits=limits,
        tls_context=_tls_context(settings),
        slots=slots,
        report=None if metrics is None else metrics.association_ended,
        on_refusal=None if audit is None else audit.turned_away,
    )


def _tls_context(settings: GatewaySettings) -> Callable[[], ssl.SSLContext] | None:
    if settings.tls_port is None:
        return None
    assert settings.tls_certificate is not None
    assert settings.tls_key is not None
    certificates = Certificates(
        TlsFiles(
            certificate=settings.tls_certificate,
            key=settings.tls_key,
            client_ca=settings.tls_client_ca,
        ),
        settings.tls_profile,
    )
    return certificates.context


def build_supervisor(settings: GatewaySettings, ports: Ports) -> Supervisor:
    """Start worker processes behind the ports, or raise `LenticularError`."""
    supervisor = Supervisor(
        ports,
        workers=settings.workers,
        command=[sys.executable, "-m", "gateway.worker"],
        max_associations=settings.max_associations,
        artim_seconds=settings.artim_seconds,
    )
    supervisor.start()
    return supervisor


def build_health(
    settings: GatewaySettings, server: Server | Supervisor, spool: Spool | None = None
) -> Health | None:
    """Listen for health checks of `server`, if that is wanted, or raise `OperatorError`."""
    if settings.health_port is None:
        return None
    try:
        return Health(
            settings.bind,
            settings.health_port,
            is_draining=lambda: server.is_draining,
            beat=server.beat,
            look=StoreLook(
                settings.bucket,
                settings.table,
                with_bucket=settings.custody == "s3",
            ),
            trouble=lambda: server.trouble or (spool.shortage() if spool is not None else None),
        )
    except OSError as error:
        raise OperatorError(
            f"cannot listen on {settings.bind}:{settings.health_port}: {error.strerror}; "
            "stop what uses the port or set another LENTICULAR_HEALTH_PORT"
        ) from error


def _ready_line(settings: GatewaySettings, ports: Ports, health: Health | None) -> str:
    """Tell whoever started us where to connect; a port that is off is not in it."""
    host, _ = ports.address if settings.port is not None else ports.tls_address
    ready: dict[str, object] = {"event": "ready", "aet": settings.ae_title, "host": host}
    if settings.port is not None:
        ready["port"] = ports.address[1]
    if settings.tls_port is not None:
        ready["tls_port"] = ports.tls_address[1]
    if health is not None:
        ready["health_port"] = health.address[1]
    return json.dumps(ready)


def gauges(settings: GatewaySettings, spool: Spool | None) -> dict[str, float]:
    """Tell what is to be told from time to time, beside how many associations are open."""
    told = {} if spool is None else spool.gauges()
    if settings.tls_certificate is not None:
        # Whoever replaces the file may be at it just now.
        with contextlib.suppress(OSError, ValueError):
            left = expiry(settings.tls_certificate) - datetime.now(UTC)
            told["CertificateDaysLeft"] = round(left / timedelta(days=1), 2)
    return told


def main() -> int:
    """Run the gateway; return its exit status."""
    try:
        settings = GatewaySettings.from_environment(environ)
        configure_logging(settings.log_level)
        metrics = build_metrics(settings)
        load_nodes(settings)
        ports = open_ports(settings)
        server: Server | Supervisor
        spool: Spool | None = None
        audit = build_audit(settings)
        if settings.workers == 1:
            spool = build_spool(settings)
            server = build(settings, ports, metrics, spool=spool, audit=audit)
        else:
            server = build_supervisor(settings, ports)
        health = build_health(settings, server, spool)
    except LenticularError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the person who started it
        return USAGE_ERROR if isinstance(error, OperatorError) else FAILED

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.request_drain(settings.drain_seconds)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if health is not None:
        health.start()
    if spool is not None:
        spool.start()
    audit.start()
    audit.application_started()
    spare_the_collector()
    # Whoever started us waits for this line.
    print(_ready_line(settings, ports, health), flush=True)  # noqa: T201
    if metrics is not None:
        metrics.start(lambda: server.active_associations, lambda: gauges(settings, spool))
    server.serve()
    if spool is not None:
        assert isinstance(server, Server)
        spool.close(server.drained_by)
    if health is not None:
        health.close()
    audit.application_stopped()
    audit.close()
    if metrics is not None:
        metrics.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
