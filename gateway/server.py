"""Life cycle of the DIMSE server: listen, admit, drain.

One thread turns the lobby, where connections wait without an association. Each association has a
thread of its own. Draining shuts the door, lets associations finish, then cuts what is left.
"""

import gc
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final, Protocol

from .association import Acceptance, Association, Ended, Limits, Service
from .lobby import Door, Lobby
from .negotiation import (
    LOCAL_LIMIT_EXCEEDED,
    TEMPORARY_CONGESTION,
    Rejected,
    TurnedAway,
    encode_rejection,
    titles_in,
)
from .ports import Ports

_log: Final = logging.getLogger(__name__)

#: What writes get to end before their associations are cut, all together.
_WRITE_PATIENCE_SECONDS: Final = 0.5

#: What threads of associations that were cut get to notice it.
_CUT_SECONDS: Final = 2.0


def spare_the_collector() -> None:
    """Have Python's collector of cycles look no more at what is there now; call it before serving.

    That stays to the end. To look at all of it again takes a tenth of a second, in which every
    association stands still, after every few hundred instances that are retrieved.
    """
    gc.collect()
    gc.freeze()


class Slots(Protocol):
    """How many associations there may be at a time."""

    @property
    def taken(self) -> int:
        """How many of ours there are now."""

    def ask(self, answer: Callable[[bool], None]) -> None:
        """Take a slot if there is one, and let `answer` know whether; in the lobby's thread."""

    def free(self) -> None:
        """Give a slot back; any thread may call it."""


class OwnSlots:
    """Slots of a process that shares them with no other."""

    def __init__(self, limit: int) -> None:
        """Have `limit` slots, all of them free."""
        self._limit = limit
        self._lock = threading.Lock()
        #: Slots that are taken now.
        self.taken = 0

    def ask(self, answer: Callable[[bool], None]) -> None:
        """Let `answer` know at once."""
        with self._lock:
            has_room = self.taken < self._limit
            self.taken += has_room
        answer(has_room)

    def free(self) -> None:
        """Give a slot back; any thread may call it."""
        with self._lock:
            self.taken -= 1


class Server:
    """Accepts connections, or is given them; each association has a thread of its own."""

    def __init__(  # noqa: PLR0913 - what to listen on, what to serve, how much of it
        self,
        ports: Ports,
        *,
        acceptance: Acceptance,
        services: Mapping[int, Service],
        limits: Limits = Limits(),  # noqa: B008 - frozen
        tls_context: Callable[[], ssl.SSLContext] | None = None,
        slots: Slots | None = None,
        report: Callable[[Ended], None] | None = None,
        on_refusal: Callable[[TurnedAway], None] | None = None,
        on_rejection: Callable[[Rejected], None] | None = None,
    ) -> None:
        """Take over `ports`, none where connections come by `begin` and `shake_hands`.

        `tls_context` gives each connection of a TLS port its context; it is called in the thread
        that accepts. `services` maps request command fields to services. `slots` count what
        `limits` allow, unless they are given. `report` gets what each association did, in the
        association's thread, and `on_refusal` who is refused for good and `on_rejection` each
        A-ASSOCIATE-RJ, in any thread. Nothing is served before `serve` or `start`.
        """
        self._ports = ports
        self._acceptance = acceptance
        self._services = services
        self._limits = limits
        self._tls_context = tls_context
        self._report = report
        self._on_refusal = on_refusal
        self._on_rejection = on_rejection
        doors = []
        if ports.plain is not None:
            doors.append(Door(ports.plain))
        if ports.tls is not None:
            assert tls_context is not None
            doors.append(Door(ports.tls, tls_context))
        self._lobby = Lobby(
            doors,
            artim_seconds=limits.artim_seconds,
            on_request=self._admit,
            on_refusal=on_refusal,
        )
        # Readable once the server drains: associations watch it while they wait for a message.
        self._drain_wake_read, self._drain_wake_write = os.pipe()
        #: When associations are cut, as `monotonic` tells time; `None` while it is not draining.
        self.drained_by: float | None = None
        self._slots = slots or OwnSlots(limits.max_associations)
        self._lock = threading.Lock()
        self._running: set[Association] = set()
        self._serving = False
        self._thread: threading.Thread | None = None
        self._all_finished = True
        self._stopped = threading.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens for plain TCP; the port is the real one where 0 was asked."""
        return self._ports.address

    @property
    def tls_address(self) -> tuple[str, int]:
        """Where it listens for TLS."""
        return self._ports.tls_address

    @property
    def is_draining(self) -> bool:
        """Whether it takes no new association any more."""
        return self.drained_by is not None

    @property
    def active_associations(self) -> int:
        """How many associations hold a slot now."""
        return self._slots.taken

    @property
    def trouble(self) -> None:
        """Why it cannot serve; a process that could not would have ended."""
        return

    def beat(self) -> float:
        """Ask the thread that accepts connections to turn; return when it last did, monotonic."""
        self._lobby.wake()
        return self._lobby.turned_at

    def serve(self) -> None:
        """Serve in this thread until `request_drain`, `drain` or `close`; everything is closed."""
        self._serving = True
        try:
            self._serve()
        finally:
            # Whoever waits for the end hears of one that is a mistake of ours, too.
            self._stopped.set()

    def _serve(self) -> None:
        while self.drained_by is None:
            self._lobby.turn(None)
        deadline = self.drained_by
        _log.info("draining", extra={"associations": self._slots.taken})
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

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._serving = True
        self._thread = threading.Thread(target=self.serve, name="dimse-server", daemon=True)
        self._thread.start()

    def request_drain(self, deadline_seconds: float) -> None:
        """Begin to drain and return at once; safe in a signal handler.

        `serve` returns when it is done. A second call cannot shorten the first.
        """
        if self.drained_by is None:
            self.drained_by = monotonic() + deadline_seconds
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

    def watch(self, sock: socket.socket, on_readable: Callable[[], None]) -> None:
        """Have `on_readable` called in the lobby's thread when there is something to read."""
        self._lobby.watch(sock, on_readable)

    def shake_hands(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Take a connection of a TLS port that nothing has been read from."""
        self._lobby.let_in(sock, address, self._tls_context)

    def _admit(self, sock: socket.socket, address: tuple[str, int], request: bytes) -> None:
        """Give an association its slot and its thread, or turn it away."""

        def answer(has_room: bool) -> None:  # noqa: FBT001 - the answer to `ask`
            if has_room:
                self.begin(sock, address, request)
            else:
                self._turn_away(sock, address, request, LOCAL_LIMIT_EXCEEDED)

        self._slots.ask(answer)

    def begin(self, sock: socket.socket, address: tuple[str, int], request: bytes) -> None:
        """Give an association that has its slot a thread."""
        try:
            association = Association(
                sock,
                address,
                acceptance=self._acceptance,
                services=self._services,
                limits=self._limits,
                drain_wake=self._drain_wake_read,
                on_end=self._slots.free,
                report=self._report,
                on_refusal=self._on_refusal,
                on_rejection=self._on_rejection,
            )
        except Exception as error:
            self._slots.free()
            sock.close()
            if not isinstance(error, OSError):  # otherwise the peer has gone already
                raise
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
            self._slots.free()
            self._turn_away(sock, address, request, TEMPORARY_CONGESTION)

    def _turn_away(
        self, sock: socket.socket, address: tuple[str, int], request: bytes, rejected: Rejected
    ) -> None:
        turn_away(self._lobby, sock, address, request, rejected, self._on_rejection)

    def _wait_for_associations(self, deadline: float) -> None:
        while self._running and (left := deadline - monotonic()) > 0:
            self._lobby.turn(left)

    def _cut_associations(self) -> None:
        with self._lock:
            running = list(self._running)
        # One time for all: many peers that do not read must not hold up the end.
        deadline = monotonic() + _WRITE_PATIENCE_SECONDS
        for association in running:
            association.cut("the gateway stops", max(0.0, deadline - monotonic()))

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


def turn_away(  # noqa: PLR0913, PLR0917 - who, with what answer, and who is told
    lobby: Lobby,
    sock: socket.socket,
    address: tuple[str, int],
    request: bytes,
    rejected: Rejected,
    on_rejection: Callable[[Rejected], None] | None,
) -> None:
    """Reject an association request that nobody has looked at."""
    if on_rejection is not None:
        on_rejection(rejected)
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
    lobby.depart(sock)
