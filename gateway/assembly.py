"""The parts of a gateway process, made by its settings and put together."""

import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from lenticular import sop_classes
from lenticular.archive import Archive
from lenticular.audit import AuditSource
from lenticular.audit_outlets import open_outlets
from lenticular.aws import Patience, dynamodb_client, s3_client
from lenticular.index import Index
from lenticular.nodes import NodeTable
from lenticular.settings import GatewaySettings
from lenticular.tls_calling import CallingFiles
from lenticular.transactions import Transactions
from lenticular.validation import Validator

from .acceptance import AccessPolicy
from .association import Limits, Service
from .audit import AuditTrail
from .command_set import CommandField
from .commitment import CommitmentScp
from .custody import Custody
from .find import FindService
from .get import GetService
from .metrics import Metrics
from .move import MoveService
from .normalized import NormalizedService, Operation
from .offers import STORAGE_OFFER, offers
from .ports import Ports
from .procedure_steps import ProcedureSteps
from .retrieval import Memory
from .server import Server, Slots
from .spool import Spool
from .storage import StorageService
from .tls import Calling, Certificates, TlsFiles
from .verification import VerificationService

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

#: What the table gets to say who somebody is who may come in anyway.
_STRANGERS_PATIENCE_SECONDS: Final = 1.0


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
    outlets = open_outlets(
        settings.audit_log_group,
        settings.audit_file,
        settings.audit_syslog,
        settings.audit_syslog_ca,
    )
    return AuditTrail(AuditSource(settings.ae_title, socket.gethostname()), outlets)


def build_server(  # noqa: PLR0913 - each is there or not, by the settings and the kind of process
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
    # First: what is wrong with its files is told of the port, not of calling nodes by them.
    tls_context = _tls_context(settings)
    dynamodb = dynamodb_client(Patience.PEER)
    nodes = NodeTable(dynamodb, settings.table)
    return Server(
        ports,
        acceptance=AccessPolicy(
            ae_title=settings.ae_title,
            access=settings.access,
            find_node=partial(nodes.find, first_patience_seconds=_STRANGERS_PATIENCE_SECONDS)
            if settings.access == "open"
            else nodes.find,
            offers=offers(),
            transfer_syntax_policy=settings.transfer_syntaxes,
            offer_for_unknown=STORAGE_OFFER if settings.unknown_classes == "accept" else None,
        ),
        services=_services(settings, dynamodb, nodes, metrics=metrics, spool=spool, audit=audit),
        limits=Limits(
            max_associations=settings.max_associations,
            max_pdu_bytes=settings.max_pdu_bytes,
            artim_seconds=settings.artim_seconds,
            idle_seconds=settings.idle_seconds,
            idle_end=settings.idle_end,
            dimse_seconds=settings.dimse_seconds,
        ),
        tls_context=tls_context,
        slots=slots,
        report=None if metrics is None else metrics.association_ended,
        on_refusal=None if audit is None else audit.turned_away,
        on_rejection=None if metrics is None else metrics.association_rejected,
    )


def _services(  # noqa: PLR0913 - what they look into, and who hears of them
    settings: GatewaySettings,
    dynamodb: "DynamoDBClient",
    nodes: NodeTable,
    *,
    metrics: Metrics | None,
    spool: Spool | None,
    audit: AuditTrail | None,
) -> dict[int, Service]:
    """Make what serves each request, by command field."""
    index = Index(dynamodb, settings.table)
    archive = Archive(s3_client(Patience.PEER), settings.bucket)
    custody = Custody(
        settings.bucket,
        retry_seconds=settings.retry_seconds,
        memory_bytes=settings.memory_bytes,
        scratch_dir=settings.scratch_dir,
    )
    memory = Memory(settings.read_ahead_bytes, settings.scratch_dir)
    commitment = CommitmentScp(
        Transactions(archive, dynamodb, settings.table),
        nodes.find,
        arriving=(lambda _: ()) if spool is None else spool.arriving,
    )
    return {
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
            tls_with=_calling(settings).with_node,
            ae_title=settings.ae_title,
            max_pdu_bytes=settings.max_pdu_bytes,
            dimse_seconds=settings.dimse_seconds,
            audit=audit,
        ),
        CommandField.C_GET_RQ: GetService(index, custody, memory, audit),
        CommandField.N_ACTION_RQ: NormalizedService(
            {sop_classes.STORAGE_COMMITMENT_PUSH: Operation("commit", commitment.perform)}
        ),
        **ProcedureSteps(custody, archive, audit).services(),
    }


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


def _calling(settings: GatewaySettings) -> Calling:
    files = CallingFiles(
        authority=settings.tls_ca, certificate=settings.tls_certificate, key=settings.tls_key
    )
    return Calling(files, settings.tls_profile)
