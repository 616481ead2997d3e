"""A worker process: serves the associations that its supervisor hands it.

supervisor.py starts it as `python -m gateway.worker NUMBER DESCRIPTOR`; nobody else does.
"""

import itertools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Final

from lenticular.errors import LenticularError, OperatorError
from lenticular.settings import GatewaySettings

from .abandoned import end
from .assembly import build_audit, build_metrics, build_server, build_spool
from .audit import AuditTrail
from .handover import Channel, ChannelClosed, Kind, Packet, unpack_arrival
from .logs import configure_logging
from .metrics import Metrics
from .ports import Ports
from .server import Server, spare_the_collector
from .spool import Spool
from .supervisor import FAILED, USAGE_ERROR

_log: Final = logging.getLogger(__name__)


class SharedSlots:
    """Slots that the supervisor counts, for all workers together."""

    def __init__(self, channel: Channel) -> None:
        """Ask over `channel`."""
        self._channel = channel
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._asking: dict[int, Callable[[bool], None]] = {}
        #: Slots that associations of this worker have now.
        self.taken = 0

    def ask(self, answer: Callable[[bool], None]) -> None:
        """Ask; `answered` follows."""
        number = next(self._numbers)
        self._asking[number] = answer
        self._channel.send(Kind.ASK, number, wait=True)

    def answered(self, number: int, *, granted: bool) -> None:
        """Let who asked know."""
        answer = self._asking.pop(number)
        if granted:
            self.take()
        answer(granted)

    def take(self) -> None:
        """Know that the supervisor has counted one more."""
        with self._lock:
            self.taken += 1

    def free(self) -> None:
        """Give a slot back; any thread may call it."""
        with self._lock:
            self.taken -= 1
        self._channel.send(Kind.FREED, wait=True)


class _Worker:
    """Does what the supervisor says, in the server's loop."""

    def __init__(
        self,
        channel: Channel,
        slots: SharedSlots,
        server: Server,
        shortage: Callable[[], str | None],
    ) -> None:
        self._channel = channel
        self._slots = slots
        self._server = server
        self._shortage = shortage
        server.watch(channel.sock, self._listen)

    def _listen(self) -> None:
        try:
            while (packet := self._channel.receive()) is not None:
                self._obey(packet)
        except ChannelClosed:
            # Nobody counts our associations any more, and a new supervisor may be about to start.
            _log.error("the supervisor has ended")
            os._exit(FAILED)

    def _obey(self, packet: Packet) -> None:
        if packet.kind in (Kind.ASSOCIATE, Kind.HANDSHAKE) and packet.connection is None:
            _log.error("a connection was lost: no file descriptor is left")
        if packet.kind is Kind.ASSOCIATE:
            self._slots.take()
            if packet.connection is None:
                self._slots.free()
            else:
                self._server.begin(packet.connection, *unpack_arrival(packet.body))
        elif packet.kind is Kind.HANDSHAKE:
            if packet.connection is not None:
                address, _ = unpack_arrival(packet.body)
                self._server.shake_hands(packet.connection, address)
        elif packet.kind in (Kind.GRANT, Kind.REFUSE):
            self._slots.answered(packet.number, granted=packet.kind is Kind.GRANT)
        elif packet.kind is Kind.PING:
            self._channel.send(Kind.READY, body=(self._shortage() or "").encode(), wait=True)
        elif packet.kind is Kind.DRAIN:
            self._server.request_drain(packet.number)


def run(
    descriptor: int,
    build: Callable[[SharedSlots], Server],
    shortage: Callable[[], str | None] = lambda: None,
) -> int:
    """Serve what comes over a descriptor until the supervisor says so; return the exit status.

    `shortage` says, from time to time, why instances would be turned away now.
    """
    # Whoever signals the whole group means the supervisor, and that tells us.
    for ignored in (signal.SIGTERM, signal.SIGINT):
        # Not SIG_IGN, which programs that we start would inherit.
        signal.signal(ignored, lambda _signal, _frame: None)
    # The descriptor itself is left open, so that the supervisor sees the end of this process when
    # it has ended, not when Python tidies up.
    channel = Channel(socket.socket(fileno=os.dup(descriptor)))
    slots = SharedSlots(channel)
    try:
        server = build(slots)
    except LenticularError as error:
        status = USAGE_ERROR if isinstance(error, OperatorError) else FAILED
        channel.send(Kind.FAILED, status, str(error).encode(), wait=True)
        return status
    _Worker(channel, slots, server, shortage)
    spare_the_collector()
    channel.send(Kind.READY, wait=True)
    server.serve()
    return 0


def main() -> int:
    """Run a worker of the gateway; return its exit status."""
    number, descriptor = map(int, sys.argv[1:])
    metrics: Metrics | None = None
    spool: Spool | None = None
    server: Server | None = None
    audit: AuditTrail | None = None

    def build(slots: SharedSlots) -> Server:
        nonlocal metrics, spool, server, audit
        settings = GatewaySettings.from_environment(os.environ)
        configure_logging(settings.log_level, worker=number)
        metrics = build_metrics(settings)
        spool = build_spool(settings)
        audit = build_audit(settings)
        server = build_server(settings, Ports(), metrics, spool=spool, slots=slots, audit=audit)
        audit.start()
        if metrics is not None:
            metrics.start(None, dict if spool is None else spool.gauges)
        if spool is not None:
            spool.start()
        return server

    status = run(descriptor, build, lambda: None if spool is None else spool.shortage())
    if spool is not None and server is not None:
        spool.close(server.drained_by)
    if audit is not None:
        audit.close()
    if metrics is not None:
        metrics.close()
    return status


if __name__ == "__main__":
    end(main())
