"""Several worker processes behind one port.

    listening sockets ─▶ Lobby ─ A-ASSOCIATE-RQ ─▶ slot? ─▶ the worker with the fewest associations
                                                    └─ no: A-ASSOCIATE-RJ, local limit exceeded

One process has the ports, everybody who has not asked for an association yet, and the count of
associations, so that the limit is exact. Workers are programs started anew (worker.py), not forks:
the clients for S3 and DynamoDB have threads, which do not survive a fork. They hold no listening
socket and end when the supervisor does, however it did. A worker that ends is replaced, and
others do not notice. See infra/decisions/0008.
"""

import logging
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from lenticular.errors import LenticularError, OperatorError

from .handover import Channel, ChannelClosed, Kind, Packet, pack_arrival
from .lobby import Door, Lobby
from .negotiation import LOCAL_LIMIT_EXCEEDED, TEMPORARY_CONGESTION, Rejected
from .ports import Ports
from .server import turn_away

_log: Final = logging.getLogger(__name__)

#: Exit statuses: of a program that was told the wrong thing, and of any other failure.
USAGE_ERROR: Final = 2
FAILED: Final = 1
#: What a worker may take to start, or to turn its lobby when asked to.
_START_SECONDS: Final = 60.0
_STUCK_SECONDS: Final = 30.0
_PING_SECONDS: Final = 5.0
#: How long what a worker had no room to hear waits before it is said again.
_SAY_AGAIN_SECONDS: Final = 0.05
#: A worker that was ready for longer than this did not end because it was started.
_STEADY_SECONDS: Final = 10.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
#: What a worker may take, when its associations have ended, to end itself.
_END_SECONDS: Final = 20.0


class _Worker:
    """One of the worker processes, which may be started again after it has ended.

    Attributes:
        slots: associations it has, by our count
        turn: when it was last given a connection, in connections
        shortage: why it turns instances away, as it last said
    """

    def __init__(self, number: int, command: Sequence[str]) -> None:
        self.number = number
        self.slots = 0
        self.turn = 0
        self.is_ready = False
        self.shortage = ""
        self.start_due: float | None = None
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._ready_since: float | None = None
        self._quick_ends = 0
        self._ping_due = 0.0
        self._answer_due: float | None = None
        self._unsaid: deque[tuple[Kind, int]] = deque()

    @property
    def is_running(self) -> bool:
        return self._channel is not None

    @property
    def channel(self) -> Channel:
        assert self._channel is not None
        return self._channel

    @property
    def has_unsaid(self) -> bool:
        """Whether it had no room to hear something that is still to be said."""
        return bool(self._unsaid)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; READY or FAILED follows."""
        channel, theirs = Channel.pair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - a command of our own
                    [*self._command, str(self.number), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    # Ctrl-C is for the supervisor, which tells its workers.
                    start_new_session=True,
                )
            except OSError:
                channel.close()
                raise
        self._channel = channel
        self._ready_since = None
        self._answer_due = monotonic() + _START_SECONDS
        self.start_due = None

    def answered(self, shortage: str = "") -> None:
        """Know that it has said READY."""
        self.shortage = shortage
        if not self.is_ready:
            _log.info("worker is ready", extra={"worker": self.number, "pid": self.pid})
            self._ready_since = monotonic()
        self.is_ready = True
        self._answer_due = None
        self._ping_due = monotonic() + _PING_SECONDS

    def look_after(self, now: float) -> float:
        """Ask it for a sign of life, kill it if the last one is overdue; return when to look."""
        if self._answer_due is not None:
            if now < self._answer_due:
                return self._answer_due
            _log.error("worker is stuck", extra={"worker": self.number, "pid": self.pid})
            self.kill()
            self._answer_due = now + _STUCK_SECONDS
        elif now >= self._ping_due:
            self._answer_due = now + _STUCK_SECONDS
            self.tell(Kind.PING)
        return self._answer_due or self._ping_due

    def tell(self, kind: Kind, number: int = 0) -> None:
        """Say something that must not be lost, as soon as it has room to hear it."""
        self._unsaid.append((kind, number))
        self.say_on()

    def say_on(self) -> None:
        """Say what is still to be said, as far as there is room for it.

        A worker that is busy is no worse than that: association requests of 256 KiB that it has not
        read yet leave no room. `look_after` sees to one that stays so.
        """
        while self._unsaid:
            try:
                self.channel.send(*self._unsaid[0])
            except (BrokenPipeError, ConnectionResetError):
                self._unsaid.clear()
                self.kill()
                return
            except OSError:
                return
            self._unsaid.popleft()

    def give(
        self, kind: Kind, sock: socket.socket, address: tuple[str, int], request: bytes = b""
    ) -> bool:
        """Give it a connection; tell whether it took it, so that it is no longer ours."""
        try:
            self.channel.send(kind, body=pack_arrival(address, request), connection=sock)
        except OSError:
            return False
        sock.close()
        return True

    def kill(self) -> None:
        """End it at once; the end of its channel follows."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> int:
        """End it if it has not ended, and return its exit status."""
        assert self._process is not None
        self.channel.close()
        self._channel = None
        self._unsaid.clear()
        self.slots = 0
        self.is_ready = False
        self._process.kill()
        return self._process.wait()

    def start_again_later(self) -> float:
        """Decide how many seconds after its end it is to be started again."""
        pause = self._pause()
        self.start_due = monotonic() + pause
        return pause

    def _pause(self) -> float:
        # One that takes long to start and then fails would be started again without a pause.
        if self._ready_since is not None and monotonic() - self._ready_since > _STEADY_SECONDS:
            self._quick_ends = 0
            return 0.0
        self._quick_ends += 1
        if self._quick_ends == 1:
            return 0.0
        return min(_FIRST_PAUSE_SECONDS * 2.0 ** (self._quick_ends - 2), _LONGEST_PAUSE_SECONDS)


class Supervisor:
    """Has the ports of a node, and workers that serve who comes there."""

    def __init__(  # noqa: PLR0913 - what to listen on, what to start, how much of it
        self,
        ports: Ports,
        *,
        workers: int,
        command: Sequence[str],
        max_associations: int,
        artim_seconds: float,
        on_rejection: Callable[[Rejected], None] | None = None,
    ) -> None:
        """Take over `ports`. `command` starts a worker, given its number and a descriptor.

        `on_rejection` is told of each A-ASSOCIATE-RJ that no worker sends.
        """
        self._ports = ports
        self._max_associations = max_associations
        self._on_rejection = on_rejection
        self._workers = [_Worker(number, command) for number in range(1, workers + 1)]
        doors = []
        if ports.plain is not None:
            doors.append(Door(ports.plain))
        if ports.tls is not None:
            # What TLS knows of a connection cannot be handed over: the worker shakes hands. But
            # who has not said a byte is no matter for a worker yet; load balancers' probes never do
            doors.append(Door(ports.tls, pass_on=self._pass_on))
        self._lobby = Lobby(doors, artim_seconds=artim_seconds, on_request=self._admit)
        self._turn = 0
        self._asking: deque[tuple[_Worker, int]] = deque()
        self._drain_asked_seconds: float | None = None

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
        return self._drain_asked_seconds is not None

    @property
    def active_associations(self) -> int:
        """How many associations hold a slot now, in all workers."""
        return sum(worker.slots for worker in self._workers)

    @property
    def trouble(self) -> str | None:
        """Why it cannot serve, or `None`: one worker is enough."""
        reason = "no worker process is ready"
        for worker in self._workers:
            if worker.is_ready and not worker.shortage:
                return None
            reason = worker.shortage or reason
        return reason

    def beat(self) -> float:
        """Ask the thread that accepts connections to turn; return when it last did, monotonic."""
        self._lobby.wake()
        return self._lobby.turned_at

    def start(self) -> None:
        """Start the workers and return when all can serve.

        Raises `OperatorError` when one says that a setting is wrong, and `LenticularError` when one
        does not start.
        """
        try:
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                _wait_until_ready(worker)
        except OSError as error:
            self._end_workers()
            raise OperatorError(
                f"worker processes cannot be started: {error.strerror}; several need Linux"
            ) from error
        except LenticularError:
            self._end_workers()
            raise
        for worker in self._workers:
            self._listen_to(worker)

    def serve(self) -> None:
        """Serve in this thread until `request_drain`; everything is closed then."""
        while self._drain_asked_seconds is None:
            self._turn_lobby(self._look_after_workers())
        deadline = monotonic() + self._drain_asked_seconds + _END_SECONDS
        _log.info("draining", extra={"associations": self.active_associations})
        self._lobby.shut_door()
        for worker in self._workers:
            if worker.is_ready:
                worker.tell(Kind.DRAIN, int(self._drain_asked_seconds))
            else:
                worker.kill()
        while self._running and (left := deadline - monotonic()) > 0:
            self._turn_lobby(left)
        for worker in self._running:
            _log.error("worker does not end", extra={"worker": worker.number, "pid": worker.pid})
        self._end_workers()
        self._lobby.close()
        _log.info("stopped")

    def request_drain(self, deadline_seconds: float) -> None:
        """Begin to drain and return at once; safe in a signal handler.

        `serve` returns when it is done. A second call cannot shorten the first.
        """
        if self._drain_asked_seconds is None:
            self._drain_asked_seconds = deadline_seconds
            self._lobby.wake()

    @property
    def _running(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.is_running]

    def _end_workers(self) -> None:
        for worker in self._running:
            worker.close()

    def _turn_lobby(self, max_seconds: float) -> None:
        if any(worker.has_unsaid for worker in self._running):
            max_seconds = min(max_seconds, _SAY_AGAIN_SECONDS)
        self._lobby.turn(max_seconds)
        for worker in self._running:
            worker.say_on()
        self._answer_all()

    # Connections

    def _admit(self, sock: socket.socket, address: tuple[str, int], request: bytes) -> None:
        """Hand over a connection that asks for an association, or turn it away."""
        if not self._has_room():
            self._turn_away(sock, address, request, LOCAL_LIMIT_EXCEEDED)
            return
        worker = self._give(Kind.ASSOCIATE, sock, address, request)
        if worker is None:
            self._turn_away(sock, address, request, TEMPORARY_CONGESTION)
            return
        worker.slots += 1

    def _turn_away(
        self, sock: socket.socket, address: tuple[str, int], request: bytes, rejected: Rejected
    ) -> None:
        turn_away(self._lobby, sock, address, request, rejected, self._on_rejection)

    def _pass_on(self, sock: socket.socket, address: tuple[str, int]) -> None:
        if self._give(Kind.HANDSHAKE, sock, address) is None:
            sock.close()

    def _give(
        self, kind: Kind, sock: socket.socket, address: tuple[str, int], request: bytes = b""
    ) -> _Worker | None:
        """Give a connection to the worker with the fewest associations, or to another."""
        able = [worker for worker in self._workers if worker.is_ready]
        # Of equals whose turn is longest ago: a handshake is not in the count yet.
        for worker in sorted(able, key=lambda worker: (worker.slots, worker.turn)):
            if worker.give(kind, sock, address, request):
                self._turn += 1
                worker.turn = self._turn
                return worker
        return None

    def _has_room(self) -> bool:
        if self.active_associations < self._max_associations:
            return True
        # Who released an association may ask for the next before we have looked; its worker has
        # said FREED before it let the peer know.
        for worker in self._running:
            self._hear(worker)
        return self.active_associations < self._max_associations

    # Workers

    def _listen_to(self, worker: _Worker) -> None:
        self._lobby.watch(worker.channel.sock, lambda: self._hear(worker))

    def _hear(self, worker: _Worker) -> None:
        """Take in all that a worker has said."""
        try:
            while worker.is_running and (packet := worker.channel.receive()) is not None:
                self._understand(worker, packet)
        except ChannelClosed:
            self._lobby.unwatch(worker.channel.sock)
            self._ended(worker)

    def _ended(self, worker: _Worker) -> None:
        pid, associations = worker.pid, worker.slots
        status = worker.close()
        if self.is_draining and not status:
            return
        facts = {"worker": worker.number, "pid": pid, "status": status}
        restart_seconds = None if self.is_draining else worker.start_again_later()
        _log.error(
            "worker ended",
            extra={**facts, "associations": associations, "restart_seconds": restart_seconds},
        )

    def _understand(self, worker: _Worker, packet: Packet) -> None:
        if packet.kind is Kind.FREED:
            worker.slots -= 1
        elif packet.kind is Kind.ASK:
            self._asking.append((worker, packet.number))
        elif packet.kind is Kind.READY:
            worker.answered(packet.body.decode())
        elif packet.kind is Kind.FAILED:
            _log.error(
                "worker cannot start",
                extra={"worker": worker.number, "reason": packet.body.decode()},
            )

    def _answer_all(self) -> None:
        """Answer who asked for a slot, in the order they did."""
        while self._asking:
            worker, number = self._asking.popleft()
            if not worker.is_ready:
                continue  # it has ended since
            if self._has_room():
                worker.slots += 1
                worker.tell(Kind.GRANT, number)
            else:
                worker.tell(Kind.REFUSE, number)

    def _look_after_workers(self) -> float:
        """Start workers that are due and ask the others for a sign of life.

        Returns the seconds until the next look.
        """
        now = monotonic()
        due = now + _PING_SECONDS
        for worker in self._workers:
            if worker.start_due is not None and worker.start_due <= now:
                self._start_again(worker)
            if worker.is_running:
                due = min(due, worker.look_after(now))
            elif worker.start_due is not None:
                due = min(due, worker.start_due)
        return max(0.0, due - now)

    def _start_again(self, worker: _Worker) -> None:
        try:
            worker.start()
        except OSError as error:
            _log.error(
                "worker cannot start", extra={"worker": worker.number, "reason": error.strerror}
            )
            worker.start_due = monotonic() + _LONGEST_PAUSE_SECONDS
            return
        self._listen_to(worker)


def _wait_until_ready(worker: _Worker) -> None:
    worker.channel.sock.settimeout(_START_SECONDS)
    try:
        packet = worker.channel.receive(wait=True)
    except ChannelClosed:
        raise LenticularError(
            f"worker {worker.number} ended, or did nothing for {_START_SECONDS:g} s, before it was "
            "ready"
        ) from None
    assert packet is not None
    if packet.kind is Kind.FAILED:
        text = packet.body.decode()
        raise OperatorError(text) if packet.number == USAGE_ERROR else LenticularError(text)
    worker.channel.sock.settimeout(None)
    worker.answered()
