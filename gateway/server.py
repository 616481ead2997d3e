"""Life cycle of the DIMSE server: listen, admit, drain.

One thread turns the lobby, where connections wait without an association. Each association has a
thread of its own. Draining shuts the door, lets associations finish, then cuts what is left.
"""

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

from .association import Acceptance, Association, Ended, Limits, Service
from .lobby import Door, Lobby
from .negotiation import (
    LOCAL_LIMIT_EXCEEDED,
    TEMPORARY_CONGESTION,
    Rejected,
    encode_rejection,
    titles_in,
)

_log: Final = logging.getLogger(__name__)

#: Room for every modality of a site that comes back after an outage at the same moment.
_BACKLOG: Final = 256
#: What threads of associations that were cut get to notice it.
_CUT_SECONDS: Final = 2.0


class Server:
    """Listens on a plain port, a TLS port or both; each association has a thread of its own."""

    def __init__(  # noqa: PLR0913 - what to listen on, what to serve, how much of it
        self,
        bind: str,
        port: int | None,
        *,
        acceptance: Acceptance,
        services: Mapping[int, Service],
        limits: Limits = Limits(),  # noqa: B008 - frozen
        tls: tuple[int, Callable[[], ssl.SSLContext]] | None = None,
        report: Callable[[Ended], None] | None = None,
        reuse_port: bool = False,
    ) -> None:
        """Listen at once (a client may connect and wait); raises `OSError` when it cannot.

        `port` is the plain one. `tls` is the TLS port and what gives each of its connections a
        context; it is called in the thread that accepts. `services` maps request command fields to
        services. `report` gets what each association did, in the association's thread. Nothing is
        served before `serve` or `start`. With `reuse_port` several processes share the ports.
        """
        self._acceptance = acceptance
        self._services = services
        self._limits = limits
        self._report = report
        wanted: list[tuple[int, Callable[[], ssl.SSLContext] | None]] = []
        if port is not None:
            wanted.append((port, None))
        if tls is not None:
            wanted.append(tls)
        doors: list[Door] = []
        try:
            for number, tls_context in wanted:
                doors.append(Door(_listen(bind, number, reuse_port=reuse_port), tls_context))
        except OSError:
            for door in doors:
                door.listener.close()
            raise
        self._addresses = {door.tls_context is not None: _address(door) for door in doors}
        self._lobby = Lobby(doors, artim_seconds=limits.artim_seconds, on_request=self._admit)
        # Readable once the server drains: associations watch it while they wait for a message.
        self._drain_wake_read, self._drain_wake_write = os.pipe()
        self._drain_asked_seconds: float | None = None
        self._lock = threading.Lock()
        self._slots_taken = 0
        self._running: set[Association] = set()
        self._serving = False
        self._thread: threading.Thread | None = None
        self._all_finished = True
        self._stopped = threading.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens for plain TCP; the port is the real one where 0 was asked."""
        return self._addresses[False]

    @property
    def tls_address(self) -> tuple[str, int]:
        """Where it listens for TLS."""
        return self._addresses[True]

    @property
    def is_draining(self) -> bool:
        """Whether it takes no new association any more."""
        return self._drain_asked_seconds is not None

    @property
    def active_associations(self) -> int:
        """How many associations hold a slot now."""
        return self._slots_taken

    def beat(self) -> float:
        """Ask the thread that accepts connections to turn; return when it last did, monotonic."""
        self._lobby.wake()
        return self._lobby.turned_at

    def serve(self) -> None:
        """Serve in this thread until `request_drain`, `drain` or `close`; everything is closed."""
        self._serving = True
        while self._drain_asked_seconds is None:
            self._lobby.turn(None)
        deadline = monotonic() + self._drain_asked_seconds
        _log.info("draining", extra={"associations": self._slots_taken})
        self._lobby.shut_door()
        os.write(self._drain_wake_write, b"\0")
        self._wait_for_associations(deadline)
        self._all_finished = not self._running
        if self._running:
            self._cut_associations()
            self._wait_for_associations(monotonic() + _CUT_SECONDS)
        self._lobby.close()
        if not self._running:
            # An association that outlives even its cut still watches the pipe.
            os.close(self._drain_wake_read)
            os.close(self._drain_wake_write)
        _log.info("stopped", extra={"all_finished": self._all_finished})
        self._stopped.set()

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._serving = True
        self._thread = threading.Thread(target=self.serve, name="dimse-server", daemon=True)
        self._thread.start()

    def request_drain(self, deadline_seconds: float) -> None:
        """Begin to drain and return at once; safe in a signal handler.

        `serve` returns when it is done. A second call cannot shorten the first.
        """
        if self._drain_asked_seconds is None:
            self._drain_asked_seconds = deadline_seconds
            self._lobby.wake()

    def drain(self, deadline_seconds: float) -> bool:
        """Take no new association, let running ones finish, abort the rest at the deadline.

        Returns whether all finished by themselves. Blocks until `serve` is done.
        """
        self.request_drain(deadline_seconds)
        if not self._serving:
            self.serve()
        self._stopped.wait()
        if self._thread is not None:
            self._thread.join()
        return self._all_finished

    def close(self) -> None:
        """Abort everything and stop."""
        self.drain(0)

    # In the lobby's thread

    def _admit(self, sock: socket.socket, address: tuple[str, int], request: bytes) -> None:
        """Give an association its slot and its thread, or turn it away."""
        with self._lock:
            has_room = self._slots_taken < self._limits.max_associations
            if has_room:
                self._slots_taken += 1
        if not has_room:
            self._turn_away(sock, address, request, LOCAL_LIMIT_EXCEEDED)
            return
        try:
            association = Association(
                sock,
                address,
                acceptance=self._acceptance,
                services=self._services,
                limits=self._limits,
                drain_wake=self._drain_wake_read,
                on_end=self._free_slot,
                report=self._report,
            )
        except OSError:
            # The peer has gone already.
            self._free_slot()
            sock.close()
            return
        thread = threading.Thread(
            target=self._run,
            args=(association, request),
            name=f"association-{association.id}",
            daemon=True,
        )
        with self._lock:
            self._running.add(association)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._running.discard(association)
            self._free_slot()
            self._turn_away(sock, address, request, TEMPORARY_CONGESTION)

    def _turn_away(
        self, sock: socket.socket, address: tuple[str, int], request: bytes, rejected: Rejected
    ) -> None:
        calling_aet, called_aet = titles_in(request)
        _log.warning(
            "association rejected",
            extra={
                "address": address[0],
                "calling_aet": calling_aet,
                "called_aet": called_aet,
                "reason": rejected.why,
            },
        )
        sock.setblocking(False)
        try:
            sock.send(encode_rejection(rejected))
        except OSError:
            sock.close()
            return
        self._lobby.depart(sock)

    def _wait_for_associations(self, deadline: float) -> None:
        while self._running and (left := deadline - monotonic()) > 0:
            self._lobby.turn(left)

    def _cut_associations(self) -> None:
        with self._lock:
            running = list(self._running)
        for association in running:
            association.cut("the gateway stops")

    # In an association's thread

    def _run(self, association: Association, request: bytes) -> None:
        try:
            sock = association.run(request)
            if sock is not None:
                self._lobby.depart(sock)
        finally:
            with self._lock:
                self._running.discard(association)
            self._lobby.wake()

    def _free_slot(self) -> None:
        with self._lock:
            self._slots_taken -= 1


def _listen(bind: str, port: int, *, reuse_port: bool) -> socket.socket:
    return socket.create_server(
        (bind, port),
        family=socket.AF_INET6 if ":" in bind else socket.AF_INET,
        backlog=_BACKLOG,
        reuse_port=reuse_port,
        dualstack_ipv6=bind == "::" and socket.has_dualstack_ipv6(),
    )


def _address(door: Door) -> tuple[str, int]:
    host, port, *_ = door.listener.getsockname()
    return str(host), int(port)
