"""Connections without an association: those that have not asked for one yet, those that are over.

A load balancer opens and closes connections all day, a scanner leaves them open, a slow-loris sends
a byte a minute. None of that costs a thread, an association slot or a line in the log: one loop
holds all of them (Sta2 of PS3.8 9.2) until their A-ASSOCIATE-RQ is whole or ARTIM has run out.
Behind a TLS port the handshake comes first, step by step in the same loop and in the same ARTIM.

The same loop keeps connections whose last PDU we have sent (Sta13): closing at once would let
the kernel answer what still arrives with a reset, and the peer might never read our A-ASSOCIATE-RJ
or A-ABORT.
"""

import contextlib
import logging
import selectors
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from lenticular.tls import why

from .negotiation import TurnedAway
from .pdu import (
    ASSOCIATE_PDU_MAX_BYTES,
    PDU_HEADER,
    AbortReason,
    AbortSource,
    Pdu,
    abort_pdu,
)
from .tls import beneath

_log: Final = logging.getLogger(__name__)

#: Connections that wait at a time. The oldest of the address that has most of them leaves for the
#: newest: a flood of silent connections pushes out nobody but itself, however long a modality's
#: request takes from the other end of a VPN.
_MAX_ARRIVALS: Final = 256
_MAX_DEPARTURES: Final = 256
#: What a peer may still send after its end without having read of it.
_DEPARTURE_MAX_BYTES: Final = 4 << 20
#: What an A-ASSOCIATE-RQ has before its items, PS3.8 9.3.2.
_RQ_FIXED_BYTES: Final = 68
_READ_BYTES: Final = 64 * 1024
#: How long to leave the door shut when the process has no file descriptor left.
_EXHAUSTED_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket; behind a TLS port, `tls_context` gives each arrival its context.

    With `pass_on` an arrival is given away, unread, as soon as it has said something.
    """

    listener: socket.socket
    tls_context: Callable[[], ssl.SSLContext] | None = None
    pass_on: Callable[[socket.socket, tuple[str, int]], None] | None = None


@dataclass(slots=True, eq=False)
class _Arrival:
    """A connection whose association request is not whole yet.

    `proceed` goes on with what it has sent; `spoke` is whether it has left a TLS handshake half
    way.
    """

    sock: socket.socket
    address: tuple[str, int]
    deadline: float
    proceed: Callable[["_Arrival"], None]
    request: bytearray = field(default_factory=bytearray)
    spoke: bool = False

    @property
    def missing_bytes(self) -> int:
        if len(self.request) < PDU_HEADER.size:
            return PDU_HEADER.size - len(self.request)
        _, length = PDU_HEADER.unpack_from(self.request)
        return int(PDU_HEADER.size + length - len(self.request))


@dataclass(slots=True, eq=False)
class _Departure:
    """A connection that the peer is to close."""

    sock: socket.socket
    deadline: float
    bytes_left: int = _DEPARTURE_MAX_BYTES


class Lobby:
    """Accepts connections and hands over those whose association request is whole.

    One thread calls `turn` and everything else but `depart` and `wake`, which any thread may call.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        *,
        artim_seconds: float,
        on_request: Callable[[socket.socket, tuple[str, int], bytes], None],
        on_refusal: Callable[[TurnedAway], None] | None = None,
    ) -> None:
        """Watch listening sockets; `on_request` gets a connection, its peer and the whole PDU.

        A connection that came in through a TLS door is an `ssl.SSLSocket` with its session.
        `on_refusal` is told of a peer with which TLS could not be agreed on.
        """
        self._doors = list(doors)
        self._artim_seconds = artim_seconds
        self._on_request = on_request
        self._on_refusal = on_refusal
        # ARTIM is the same for all, so each is in order of its deadlines.
        self._arrivals: dict[socket.socket, _Arrival] = {}
        self._departures: dict[socket.socket, _Departure] = {}
        self._leaving: deque[socket.socket] = deque()
        self._closed = False
        # Sockets and not a pipe: a late `wake` finds a closed socket, never somebody else's file.
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._door_opens = 0.0
        self._crowd_noted = 0.0
        #: When the last turn ended, as `monotonic` tells time.
        self.turned_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        for door in self._doors:
            door.listener.setblocking(False)
        self._open_doors()

    # Any thread

    def wake(self) -> None:
        """Make a running `turn` return; safe in a signal handler."""
        with contextlib.suppress(OSError):  # full of wakes already, or closed
            self._wake_write.send(b"\0")

    def depart(self, sock: socket.socket) -> None:
        """Take a connection that its peer is to close."""
        if self._closed:
            sock.close()
            return
        self._leaving.append(sock)
        self.wake()

    # The lobby's thread

    def watch(self, sock: socket.socket, on_readable: Callable[[], None]) -> None:
        """Have something else looked after in the same loop, until `unwatch` or `close`."""
        self._selector.register(sock, selectors.EVENT_READ, on_readable)

    def unwatch(self, sock: socket.socket) -> None:
        """Look after it no more."""
        self._selector.unregister(sock)

    def turn(self, max_seconds: float | None) -> None:
        """Wait for something to happen, at most `max_seconds`, and see to it."""
        now = monotonic()
        deadlines = [
            deadline - now
            for deadline in (
                next((arrival.deadline for arrival in self._arrivals.values()), None),
                next((departure.deadline for departure in self._departures.values()), None),
                self._door_opens or None,
            )
            if deadline is not None
        ]
        if max_seconds is not None:
            deadlines.append(max_seconds)
        for key, _ in self._selector.select(max(0.0, min(deadlines)) if deadlines else None):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            is_peer = sock in self._arrivals or sock in self._departures
            with self._at_the_cost_of(sock if is_peer else None):
                key.data()
        while self._leaving:
            sock = self._leaving.popleft()
            with self._at_the_cost_of(sock):
                self._begin_departure(sock)
        self.turned_at = monotonic()
        self._expire(self.turned_at)

    def shut_door(self) -> None:
        """Listen no more and let those go who have not asked for an association."""
        if not self._door_opens:
            self._stop_accepting()
        self._door_opens = 0.0
        for door in self._doors:
            door.listener.close()
        self._doors.clear()
        for arrival in list(self._arrivals.values()):
            self._close(arrival.sock)

    def close(self) -> None:
        """Close every connection and the lobby itself."""
        self._closed = True
        self.shut_door()
        for sock in [*self._departures, *self._leaving]:
            self._close(sock)
        self._leaving.clear()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    @contextlib.contextmanager
    def _at_the_cost_of(self, sock: socket.socket | None) -> Iterator[None]:
        """Let a mistake of ours in the block end one connection, if any, and not the gateway."""
        try:
            yield
        except Exception:  # noqa: BLE001 - whatever it is, others are not to pay for it
            _log.exception("connection failed")
            if sock is not None:
                self._close(sock)

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(_READ_BYTES)

    def _open_doors(self) -> None:
        for door in self._doors:
            self._selector.register(
                door.listener, selectors.EVENT_READ, lambda door=door: self._accept(door)
            )

    def _stop_accepting(self) -> None:
        for door in self._doors:
            self._selector.unregister(door.listener)

    def _accept(self, door: Door) -> None:
        """Accept everybody who waits outside."""
        while not self._door_opens:
            try:
                sock, address = door.listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                # Mostly EMFILE. The backlog keeps the rest until associations have ended.
                _log.error("connections cannot be accepted", extra={"reason": error.strerror})
                self._stop_accepting()
                self._door_opens = monotonic() + _EXHAUSTED_SECONDS
                return
            with self._at_the_cost_of(sock):
                self._let_in(door, sock, address[:2])

    def _let_in(self, door: Door, sock: socket.socket, address: tuple[str, int]) -> None:
        if door.pass_on is None:
            self.let_in(sock, address, door.tls_context)
            return
        pass_on = door.pass_on
        self._arrive(sock, address, lambda arrival: self._pass_on(arrival, pass_on))

    def let_in(
        self,
        sock: socket.socket,
        address: tuple[str, int],
        tls_context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """Take a connection that nothing has been read from, as if it had come in by a door."""
        proceed = self._read
        if tls_context is not None:
            sock.setblocking(False)
            context = tls_context()
            try:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:
                sock.close()  # the peer has gone already
                return
            proceed = self._shake_hands
        self._arrive(sock, address, proceed)

    def _arrive(
        self, sock: socket.socket, address: tuple[str, int], proceed: Callable[[_Arrival], None]
    ) -> None:
        sock.setblocking(False)
        if len(self._arrivals) >= _MAX_ARRIVALS:
            self._push_out(self._oldest_of_the_largest_crowd())
        arrival = _Arrival(sock, address, monotonic() + self._artim_seconds, proceed)
        self._arrivals[sock] = arrival
        self._selector.register(sock, selectors.EVENT_READ, lambda: arrival.proceed(arrival))

    def _oldest_of_the_largest_crowd(self) -> _Arrival:
        hosts = Counter(arrival.address[0] for arrival in self._arrivals.values())
        most = max(hosts.values())
        return next(each for each in self._arrivals.values() if hosts[each.address[0]] == most)

    def _pass_on(
        self, arrival: _Arrival, pass_on: Callable[[socket.socket, tuple[str, int]], None]
    ) -> None:
        sock = arrival.sock
        if sock not in self._arrivals:
            return
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if not first:
            self._give_up(arrival, "the peer closed the connection")
            return
        self._forget(sock)
        pass_on(sock, arrival.address)

    def _shake_hands(self, arrival: _Arrival) -> None:
        """Go on with a TLS handshake as far as the peer lets us."""
        sock = arrival.sock
        if sock not in self._arrivals:
            return
        assert isinstance(sock, ssl.SSLSocket)
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            arrival.spoke = True
            awaited = selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            awaited = selectors.EVENT_WRITE
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
            self._give_up(arrival, "the peer closed the connection in the TLS handshake")
            return
        except OSError as error:
            self._refuse_handshake(arrival, why(error))
            return
        else:
            arrival.spoke = False
            arrival.proceed = self._read
            self._await(arrival, selectors.EVENT_READ)
            # The request may have come together with the handshake's end, and then lies in the
            # session, where the selector does not see it.
            self._read(arrival)
            return
        self._await(arrival, awaited)

    def _await(self, arrival: _Arrival, event: int) -> None:
        self._selector.modify(arrival.sock, event, lambda: arrival.proceed(arrival))

    def _refuse_handshake(self, arrival: _Arrival, reason: str) -> None:
        """Part with a peer whose handshake failed; OpenSSL has sent the alert."""
        _log.warning(
            "TLS handshake failed", extra={"address": arrival.address[0], "reason": reason}
        )
        if self._on_refusal is not None:
            self._on_refusal(TurnedAway(arrival.address[0], f"TLS handshake failed: {reason}"))
        self._forget(arrival.sock)
        with contextlib.suppress(OSError):
            # A peer that does not speak TLS does not know an alert, but everybody knows an end.
            socket.socket.shutdown(arrival.sock, socket.SHUT_WR)
        self._begin_departure(arrival.sock)

    def _push_out(self, arrival: _Arrival) -> None:
        # A flood may come in faster than we turn: who is pushed out may have asked already.
        with self._at_the_cost_of(arrival.sock):
            arrival.proceed(arrival)
        if arrival.sock not in self._arrivals:
            return
        now = monotonic()
        if now >= self._crowd_noted + self._artim_seconds:
            self._crowd_noted = now
            _log.warning(
                "too many connections wait without an association request",
                extra={"waiting": len(self._arrivals)},
            )
        self._close(arrival.sock)

    def _read(self, arrival: _Arrival) -> None:
        """Read on in an association request, never past its end, until nothing more is there.

        What a TLS session holds already would wake nobody, so one look is not enough.
        """
        while arrival.sock in self._arrivals:  # not pushed out in this very turn
            try:
                received = arrival.sock.recv(min(arrival.missing_bytes, _READ_BYTES))
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                received = b""
            if not received:
                self._give_up(arrival, "the peer closed the connection")
                return
            arrival.request += received
            if len(arrival.request) == PDU_HEADER.size:
                problem = _problem(arrival.request)
                if problem is not None:
                    self._refuse(arrival, problem)
                    return
            if not arrival.missing_bytes:
                self._forget(arrival.sock)
                self._on_request(arrival.sock, arrival.address, bytes(arrival.request))

    def _give_up(self, arrival: _Arrival, reason: str) -> None:
        # Half a request is worth knowing of; a connection without a byte is a probe.
        _log.log(
            logging.WARNING if arrival.request or arrival.spoke else logging.DEBUG,
            "connection without an association request",
            extra={
                "address": arrival.address[0],
                "reason": reason,
                "bytes_received": len(arrival.request),
            },
        )
        self._close(arrival.sock)

    def _refuse(self, arrival: _Arrival, reason: str) -> None:
        """Answer something that is no association request: AA-1, or AA-2 to an A-ABORT."""
        if arrival.request[0] == Pdu.ABORT:
            self._give_up(arrival, reason)
            return
        _log.warning(
            "connection without an association request",
            extra={"address": arrival.address[0], "reason": reason},
        )
        self._forget(arrival.sock)
        with contextlib.suppress(OSError):
            arrival.sock.send(abort_pdu(AbortSource.SERVICE_USER, AbortReason.NOT_SPECIFIED))
        self._begin_departure(arrival.sock)

    def _begin_departure(self, sock: socket.socket) -> None:
        if len(self._departures) >= _MAX_DEPARTURES:
            self._close(next(iter(self._departures)))
        if isinstance(sock, ssl.SSLSocket):
            sock = beneath(sock)
        sock.setblocking(False)
        departure = _Departure(sock, monotonic() + self._artim_seconds)
        self._departures[sock] = departure
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._drain(departure))

    def _drain(self, departure: _Departure) -> None:
        """Throw away what a peer still sends, until it closes or has sent too much."""
        if departure.sock not in self._departures:
            return
        try:
            received = len(departure.sock.recv(_READ_BYTES))
        except BlockingIOError:
            return
        except OSError:
            received = 0
        departure.bytes_left -= received
        if not received or departure.bytes_left <= 0:
            self._close(departure.sock)

    def _expire(self, now: float) -> None:
        """End what ARTIM has run out for, and open the door again."""
        for arrival in list(self._arrivals.values()):
            if arrival.deadline > now:
                break
            self._give_up(arrival, "ARTIM expired")
        for departure in list(self._departures.values()):
            if departure.deadline > now:
                break
            self._close(departure.sock)
        if self._door_opens and self._door_opens <= now:
            self._door_opens = 0.0
            self._open_doors()

    def _forget(self, sock: socket.socket) -> None:
        if self._arrivals.pop(sock, None) or self._departures.pop(sock, None):
            with contextlib.suppress(KeyError):  # it could not be registered
                self._selector.unregister(sock)

    def _close(self, sock: socket.socket) -> None:
        self._forget(sock)
        sock.close()


def _problem(header: bytearray) -> str | None:
    """Say why a PDU that begins so cannot be an association request."""
    kind, length = PDU_HEADER.unpack_from(header)
    if kind != Pdu.ASSOCIATE_RQ:
        return f"PDU type {kind:02X} came first"
    if not _RQ_FIXED_BYTES <= length <= ASSOCIATE_PDU_MAX_BYTES:
        return f"the A-ASSOCIATE-RQ says it is {length} bytes long"
    return None
