"""Start the gateway: settings, services, server; then serve until told to stop."""

import contextlib
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from os import environ
from time import sleep
from types import FrameType
from typing import Final

from lenticular.archive import Archive
from lenticular.aws import Patience, dynamodb_client, error_code, s3_client
from lenticular.deletion import BrokenOff
from lenticular.errors import LenticularError, OperatorError, StoreUnavailable
from lenticular.nodes import Node, NodeTable, read_nodes_file
from lenticular.settings import GatewaySettings, warn_of_unknown_variables

from .abandoned import end
from .assembly import build_audit, build_metrics, build_server, build_spool
from .health import Health, StoreLook
from .logs import configure_logging
from .metrics import Metrics
from .ports import Ports
from .server import Server, spare_the_collector
from .spool import Spool
from .supervisor import FAILED, USAGE_ERROR, Supervisor
from .tls import expiry

_log: Final = logging.getLogger(__name__)

#: No later than processes read the table's nodes anew.
_LOAD_AGAIN_SECONDS: Final = 5.0
#: What DynamoDB says where the table is not away, but there is none of this name.
_NO_TABLE: Final = "ResourceNotFoundException"


def load_nodes(settings: GatewaySettings) -> None:
    """Make the table's nodes equal to the nodes file, if there is one; raises `LenticularError`.

    Where the table is away that is done when it is back: until then nobody can look nodes up
    anyway, but instances can be taken of whom is not to be looked up.
    """
    if settings.nodes_file is None:
        return
    nodes = read_nodes_file(settings.nodes_file)
    table = NodeTable(dynamodb_client(Patience.LOOK), settings.table)
    try:
        table.replace_all(nodes)
    except StoreUnavailable as error:
        if isinstance(error.__cause__, Exception) and error_code(error.__cause__) == _NO_TABLE:
            raise
        _not_loaded(error)
        threading.Thread(target=_keep_loading, args=(table, nodes), daemon=True).start()


def _keep_loading(table: NodeTable, nodes: list[Node]) -> None:
    while True:
        sleep(_LOAD_AGAIN_SECONDS)
        try:
            table.replace_all(nodes)
        except StoreUnavailable as error:
            _not_loaded(error)
        else:
            _log.info("nodes file loaded")
            return


def _not_loaded(error: StoreUnavailable) -> None:
    _log.warning("nodes file not loaded yet", extra={"reason": str(error)})


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


def build_supervisor(
    settings: GatewaySettings, ports: Ports, metrics: Metrics | None
) -> Supervisor:
    """Start worker processes behind the ports, or raise `LenticularError`."""
    supervisor = Supervisor(
        ports,
        workers=settings.workers,
        command=[sys.executable, "-m", "gateway.worker"],
        max_associations=settings.max_associations,
        artim_seconds=settings.artim_seconds,
        on_rejection=None if metrics is None else metrics.association_rejected,
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
                with_table=settings.access != "open",
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


def gauges(
    settings: GatewaySettings, spool: Spool | None, broken_off: Callable[[], int]
) -> dict[str, float]:
    """Tell what is to be told from time to time, beside how many associations are open."""
    told = {} if spool is None else spool.gauges()
    if settings.tls_certificate is not None:
        # Whoever replaces the file may be at it just now.
        with contextlib.suppress(OSError, ValueError):
            left = expiry(settings.tls_certificate) - datetime.now(UTC)
            told["CertificateDaysLeft"] = round(left / timedelta(days=1), 2)
    # Deletions are not this process's, but of all that runs by itself it is what runs always.
    with contextlib.suppress(StoreUnavailable):
        # A metric is paid for from its first value on.
        if count := broken_off():
            told["DeletionsBrokenOff"] = count
    return told


def main() -> int:
    """Run the gateway; return its exit status."""
    try:
        settings = GatewaySettings.from_environment(environ)
        configure_logging(settings.log_level)
        warn_of_unknown_variables(environ)
        metrics = build_metrics(settings)
        load_nodes(settings)
        ports = open_ports(settings)
        server: Server | Supervisor
        spool: Spool | None = None
        audit = build_audit(settings)
        if settings.workers == 1:
            spool = build_spool(settings)
            server = build_server(settings, ports, metrics, spool=spool, audit=audit)
        else:
            server = build_supervisor(settings, ports, metrics)
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
        broken_off = BrokenOff(Archive(s3_client(Patience.LOOK), settings.bucket))
        metrics.start(
            lambda: server.active_associations, lambda: gauges(settings, spool, broken_off)
        )
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
    end(main())
