"""One TCP connection with the DICOM upper layer on it (PS3.8): blocking, one thread.

Theory of operation
===================

What PDUs are made of, and when each may come or go, is in `pdu`. One that the row of its state does
not list is a violation: the peer gets an A-ABORT and the connection ends. Nothing else in the
gateway knows about states.

A `Wire` reads as much as the kernel has into one buffer and parses it in place. Callers get views
of it: `next_pdv` gives the header of the next fragment, `take` its bytes as they come, whether
or not the rest has arrived. So nothing is copied on the way to a sink, and memory is the buffer's
size whatever length fields claim; those are only compared with what was negotiated:

    peer ──▶ kernel ──recv_into──▶ │ PDU │PDV ▓▓▓▓▓▓▓▓▓▓│PDU │PDV ▓▓▓▓▓▓│......│
                                        start ──▲  view         end ──▲

Time is bounded too. Before an association there is ARTIM. Between messages `wait` bounds the
silence. Within a message a peer must bring the rest of it, or `_PROGRESS_BYTES`, in every
`dimse_seconds` that we wait for it: a byte now and then is no progress. The same bounds each write.
Who waits for a peer on behalf of another, as C-MOVE does, looks a few times a second whether that
is still wanted.

Writing gathers the PDUs of a message and hands them to the kernel in one call, or one for each
`_BATCH_BYTES`, uncopied. TCP_NODELAY is on, so nothing waits for an acknowledgement.
"""

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import chain
from time import monotonic
from typing import Final, NoReturn

from lenticular.errors import LenticularError

from .pdu import (
    ASSOCIATE_PDU_MAX_BYTES,
    BY_TYPE,
    COMMAND_FRAGMENT,
    DATA_SET_FRAGMENT,
    FRAGMENT_OVERHEAD,
    LAST_FRAGMENT,
    PDU_HEADER,
    PDV_HEADER,
    PDV_OVERHEAD,
    RECEIVED,
    RELEASE_COLLISION,
    SENT,
    SHORT_PDU_BYTES,
    AbortReason,
    AbortSource,
    Pdu,
    Pdv,
    State,
    abort_pdu,
    p_data_header,
    p_data_pdus,
    release_pdu,
)
from .tls import beneath


class Outcome(Enum):
    """How an association ended."""

    RELEASED = "released"
    RELEASED_IDLE = "released by us, idle"
    ABORTED_BY_PEER = "aborted by peer"
    ABORTED_BY_US = "aborted by us"
    VIOLATION = "aborted by us, protocol violation"
    TIMED_OUT = "aborted by us, time-out"
    CONNECTION_LOST = "connection lost"


class AssociationAborted(LenticularError):
    """The association is gone: the peer or we aborted it, or the connection broke."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        """Say what happened in one sentence and by whom."""
        super().__init__(message)
        self.outcome = outcome


class PeerTimeout(AssociationAborted):
    """The peer did not answer, or paused within a message, for too long."""

    def __init__(self, message: str) -> None:
        """Say what was waited for."""
        super().__init__(message, Outcome.TIMED_OUT)


class ProtocolViolation(AssociationAborted):
    """The peer broke a rule of PS3.7 or PS3.8; it has been sent the A-ABORT."""

    def __init__(self, message: str) -> None:
        """Say which rule."""
        super().__init__(message, Outcome.VIOLATION)


class Interrupted(AssociationAborted):
    """We gave the association up, because nobody wants any more what it is for."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the association is not wanted any more", Outcome.ABORTED_BY_US)


class ConnectionFailed(LenticularError):
    """No TCP connection or TLS session to the peer could be made."""


class AssociationRefused(LenticularError):
    """The peer answered A-ASSOCIATE-RJ."""

    def __init__(self, message: str, result: int, source: int, reason: int) -> None:
        """Keep the peer's own codes, PS3.8 table 9-21."""
        super().__init__(message)
        self.result = result
        self.source = source
        self.reason = reason


#: Anything from 128 KiB to 1 MiB measured the same; idle associations keep what they have touched.
_BUFFER_BYTES: Final = 256 * 1024
#: One write takes at most about this much, so that gigabytes are not gathered in memory.
_BATCH_BYTES: Final = 1024 * 1024
#: Below it, copying a message into one piece takes less than telling the kernel of its pieces.
_JOINED_BYTES: Final = 16 * 1024
#: Linux takes 1,024 pieces in one call (UIO_MAXIOV), POSIX promises 16 and macOS has 1,024 too.
_MOST_GATHERED: Final = 1024
#: Longest PDU we send, also to peers that set no limit; longer ones gain nothing.
_SENT_PDU_MAX_BYTES: Final = 128 * 1024
#: Even a peer that claims to take less must take this: PDUs of a byte would be our own slow-loris.
_SENT_FRAGMENT_MIN_BYTES: Final = 64
#: What a slow peer must at least bring in each `dimse_seconds`.
_PROGRESS_BYTES: Final = 64 * 1024
#: An A-ABORT is a courtesy: it does not wait longer for a peer that does not read.
_ABORT_SECONDS: Final = 1.0
#: How long we wait for a peer before we look whether it is still to be waited for.
LOOK_SECONDS: Final = 0.25
_CLOCKS_DIFFER_SECONDS: Final = 0.05
#: What a peer gets to agree to a release when somebody waits for us to be done with it.
_HURRIED_RELEASE_SECONDS: Final = 2.0

_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    # Below the 60 s after which the shortest middleboxes forget an idle connection.
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 45),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
)


def tune(sock: socket.socket) -> None:
    """Switch Nagle's algorithm off and keep-alive on."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for level, option, value in _KEEP_ALIVE:
        if hasattr(socket, option):
            sock.setsockopt(level, getattr(socket, option), value)


def _bound_each_call(sock: socket.socket, seconds: float) -> None:
    """Let no read or write take longer; it then raises `TimeoutError` or `BlockingIOError`."""
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(seconds)
        return
    # Python's own time-outs poll before each call. The kernel's cost nothing, and each system
    # call spared is one time less that associations wrestle for the interpreter lock.
    sock.settimeout(None)
    timeval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


class Wire:
    """One connection and its association's state. Used by one thread, but for `cut`.

    Every method that touches the network raises `AssociationAborted` when the association is gone.

    Attributes:
        state: where PS3.8 says we are
        bytes_received, bytes_sent: on the connection since it was given to us
    """

    def __init__(  # noqa: PLR0913 - a connection and the limits put on it
        self,
        sock: socket.socket,
        state: State,
        *,
        max_pdu_bytes: int,
        dimse_seconds: float,
        artim_seconds: float,
        wake: int | None = None,
        interrupted: Callable[[], bool] | None = None,
    ) -> None:
        """Take over a connection that is in `state`.

        `wake` is a file descriptor; `wait` returns early once it is readable. `interrupted` is
        asked while the peer keeps us waiting: when it says so the association is aborted, and
        `Interrupted` raised. What it raises itself goes on.
        """
        self.state = state
        self.bytes_received = 0
        self.bytes_sent = 0
        self._sock = sock
        self._is_requestor = state is State.CONNECTED
        self._max_pdu_bytes = max_pdu_bytes
        self._dimse_seconds = dimse_seconds
        self._artim_seconds = artim_seconds
        self._sent_fragment_bytes = _SENT_FRAGMENT_MIN_BYTES
        self._view = memoryview(bytearray(_BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self._pdu_left = 0
        self._progress_bytes = 0
        #: How many seconds the peer may still keep us waiting for the bytes of a message.
        self._progress_left = 0.0
        # Where a reply that was cut short would be continued by an A-ABORT, none is sent.
        self._write_broken = False
        self._write_lock = threading.Lock()
        self._cut_because: str | None = None
        self._wake = wake
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        if wake is not None:
            self._poller.register(wake, select.POLLIN)
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._interrupted = interrupted
        self._call_seconds = dimse_seconds if interrupted is None else LOOK_SECONDS
        _bound_each_call(sock, self._call_seconds)

    @property
    def tls_version(self) -> str | None:
        """The version of TLS that is spoken, such as `TLSv1.3`; `None` on plain TCP."""
        return None if self._tls is None else self._tls.version()

    # Reading

    def wait(self, seconds: float) -> bool:
        """Wait for the peer to begin a message; tell whether it did.

        False also means that `wake` has become readable, which is told once.
        """
        if self._start < self._end or self._pdu_left:
            return True
        if self._interrupted is None:
            return self._wait(seconds)
        deadline = monotonic() + seconds
        while not self._wait(max(0.0, min(LOOK_SECONDS, deadline - monotonic()))):
            if monotonic() >= deadline:
                return False
            self._look()
        return True

    def _wait(self, seconds: float) -> bool:
        if self._tls is not None:
            return self._wait_for_tls(monotonic() + seconds)
        return self._poll(seconds)

    def _look(self) -> None:
        """Look whether the association is still wanted, or raise `Interrupted`."""
        if self._interrupted is not None and self._interrupted():
            self.abort()
            raise Interrupted

    def _waits_on(self, deadline: float) -> bool:
        """Tell whether a call that came back with nothing is to be made again."""
        self._look()
        # Rounded: the kernel's own clock may be a little ahead of ours.
        return monotonic() + _CLOCKS_DIFFER_SECONDS < deadline

    def _poll(self, seconds: float) -> bool:
        ready = [fd for fd, _ in self._poller.poll(seconds * 1000)]
        if self._sock.fileno() in ready:
            return True
        if self._wake is not None and self._wake in ready:
            self._poller.unregister(self._wake)
            self._wake = None
        return False

    def _wait_for_tls(self, deadline: float) -> bool:
        """Wait until the peer has said something, for what TLS says to itself is no message.

        Half a record, a session ticket or new keys make the connection readable, too. And what the
        session has decrypted already does not.
        """
        self._fill_if_ready()
        while self._start == self._end:
            if not self._poll(max(0.0, deadline - monotonic())):
                return False
            self._fill_if_ready()
            if self._start == self._end and monotonic() >= deadline:
                return False
        return True

    def begin_message(self) -> None:
        """Know that a message begins: from now on the peer must make progress with it."""
        self._restart_progress()
        # Peers that leave Nagle's algorithm on (DCMTK as Debian builds it) hold the end of a
        # message back until we acknowledge what came before, which the kernel puts off for 40 ms
        # unless it is told not to. It forgets soon, so it is told for every message.
        if _QUICK_ACK is not None:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def _restart_progress(self) -> None:
        self._progress_bytes = 0
        self._progress_left = self._dimse_seconds

    def next_pdv(self) -> Pdv | None:
        """Read the header of the next fragment; `None` when the peer asks for release instead.

        The fragment before must have been taken whole.
        """
        while not self._pdu_left:
            pdu, self._pdu_left = self._next_pdu()
            if pdu is Pdu.RELEASE_RQ:
                self._skip(self._pdu_left)
                self._pdu_left = 0
                return None
            if self._pdu_left < FRAGMENT_OVERHEAD:
                self.violation(AbortReason.INVALID_PDU_PARAMETER_VALUE, "a P-DATA-TF PDU is empty")
        self._need(FRAGMENT_OVERHEAD)
        length, context_id, control = PDV_HEADER.unpack_from(self._view, self._start)
        self._start += FRAGMENT_OVERHEAD
        length -= PDV_OVERHEAD
        left = self._pdu_left - FRAGMENT_OVERHEAD - length
        if length < 0 or left < 0 or 0 < left < FRAGMENT_OVERHEAD:
            self.violation(
                AbortReason.INVALID_PDU_PARAMETER_VALUE,
                "the length of a PDV does not fit into its PDU",
            )
        self._pdu_left = left
        return Pdv(context_id, control, length)

    def take(self, limit: int) -> memoryview:
        """Return between 1 and `limit` bytes of the fragment, valid until the next call."""
        if self._start == self._end:
            self._fill()
        end = min(self._end, self._start + limit)
        view = self._view[self._start : end]
        self._start = end
        return view

    def peek_fragment(self) -> tuple[Pdv, memoryview] | None:
        """Look, without waiting, at a PDU that holds one whole fragment and nothing else.

        `None` where nothing or anything else has come; it stays where it is. An A-ABORT or a closed
        connection raises `AssociationAborted`. `drop_peeked` removes what was seen.
        """
        self._fill_if_ready()
        if self._pdu_left or self._end - self._start < PDU_HEADER.size:
            return None
        kind, length = PDU_HEADER.unpack_from(self._view, self._start)
        end = self._start + PDU_HEADER.size + length
        if end > self._end:
            return None
        if kind == Pdu.ABORT:
            self._next_pdu()
        if kind != Pdu.P_DATA_TF or length < FRAGMENT_OVERHEAD:
            return None
        fragment = self._start + PDU_HEADER.size + FRAGMENT_OVERHEAD
        pdv_length, context_id, control = PDV_HEADER.unpack_from(
            self._view, self._start + PDU_HEADER.size
        )
        if pdv_length - PDV_OVERHEAD != end - fragment:
            return None
        return Pdv(context_id, control, end - fragment), self._view[fragment:end]

    def drop_peeked(self, pdv: Pdv) -> None:
        """Remove the fragment that `peek_fragment` showed."""
        self._start += PDU_HEADER.size + FRAGMENT_OVERHEAD + pdv.length

    def read_association_answer(self) -> tuple[Pdu, bytes]:
        """Read the whole A-ASSOCIATE-AC or -RJ that answers our request, header included."""
        deadline = monotonic() + self._artim_seconds
        if not self.wait(self._artim_seconds):
            self.time_out("did not answer the association request")
        self._progress_bytes = 0
        self._progress_left = deadline - monotonic()
        pdu, length = self._next_pdu()
        answer = bytearray(PDU_HEADER.pack(pdu, length))
        while length:
            view = self.take(length)
            answer += view
            length -= len(view)
        return pdu, bytes(answer)

    def _next_pdu(self) -> tuple[Pdu, int]:
        """Read a PDU's header, step the state and bound its length."""
        self._need(PDU_HEADER.size)
        kind, length = PDU_HEADER.unpack_from(self._view, self._start)
        self._start += PDU_HEADER.size
        pdu = BY_TYPE.get(kind)
        if pdu is None:
            self.violation(AbortReason.UNRECOGNIZED_PDU, f"PDU type {kind:02X} does not exist")
        following = RECEIVED.get(self.state, {}).get(pdu)
        if following is None:
            self.violation(
                AbortReason.UNEXPECTED_PDU, f"a {pdu.name} PDU came in {self.state.value}"
            )
        if not self._length_is_allowed(pdu, length):
            self.violation(
                AbortReason.INVALID_PDU_PARAMETER_VALUE,
                f"a {pdu.name} PDU says it is {length} bytes long",
            )
        if following is RELEASE_COLLISION and self._is_requestor:
            following = State.COLLISION_REQUESTOR_ANSWERS
        self.state = following
        if pdu is Pdu.ABORT:
            self._need(length)
            source, reason = self._view[self._start + 2], self._view[self._start + 3]
            raise AssociationAborted(
                f"the peer aborted the association (source {source}, reason {reason})",
                Outcome.ABORTED_BY_PEER,
            )
        return pdu, length

    def _length_is_allowed(self, pdu: Pdu, length: int) -> bool:
        if pdu is Pdu.P_DATA_TF:
            return length <= self._max_pdu_bytes
        if pdu in (Pdu.ASSOCIATE_RQ, Pdu.ASSOCIATE_AC):
            return length <= ASSOCIATE_PDU_MAX_BYTES
        return length == SHORT_PDU_BYTES

    def _need(self, count: int) -> None:
        """Have at least `count` bytes in one piece at the start; never more than a header's few."""
        while self._end - self._start < count:
            if len(self._view) - self._start < count:
                left = self._end - self._start
                self._view[:left] = self._view[self._start : self._end]
                self._start, self._end = 0, left
            self._fill()

    def _skip(self, count: int) -> None:
        while count:
            count -= len(self.take(count))

    def _fill(self) -> None:
        """Read what has come, at least a byte; bound the waiting and the dawdling."""
        if self._start == self._end:
            self._start = self._end = 0
        began = monotonic()
        deadline = began + self._dimse_seconds
        while True:
            try:
                count = self._sock.recv_into(self._view[self._end :])
                break
            except (TimeoutError, BlockingIOError):
                if not self._waits_on(deadline):
                    self.time_out("paused within a message")
            except OSError as error:
                self._lost(error)
        # Only what the peer took: who writes to a disk that stalls has not waited for the peer.
        self._progress_left -= monotonic() - began
        self._filled(count)

    def _fill_if_ready(self) -> None:
        """Read what has come, perhaps nothing, without waiting."""
        if self._start == self._end:
            self._start = self._end = 0
        if self._end == len(self._view):
            return
        self._restart_progress()
        try:
            if self._tls is None:
                count = self._sock.recv_into(self._view[self._end :], 0, socket.MSG_DONTWAIT)
            else:
                self._tls.settimeout(0)
                try:
                    count = self._tls.recv_into(self._view[self._end :])
                finally:
                    self._tls.settimeout(self._call_seconds)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._lost(error)
        self._filled(count)

    def _filled(self, count: int) -> None:
        if not count:
            self._lost(None)
        self._end += count
        self.bytes_received += count
        self._progress_bytes += count
        if self._progress_bytes >= _PROGRESS_BYTES:
            self._restart_progress()
        elif self._progress_left < 0:
            self.time_out("was too slow with a message")

    # Writing

    def set_peer_max_pdu(self, max_pdu_bytes: int) -> None:
        """Cut what we send to the peer's limit, PS3.8 D.1; 0 means that it has none."""
        limit = min(max_pdu_bytes or _SENT_PDU_MAX_BYTES, _SENT_PDU_MAX_BYTES)
        # Even, because fragments hold whole elements' bytes for old receivers (PS3.5 7.1.1).
        self._sent_fragment_bytes = max(limit - FRAGMENT_OVERHEAD, _SENT_FRAGMENT_MIN_BYTES) & ~1

    def send_pdu(self, pdu: Pdu, encoded: bytes) -> None:
        """Send an encoded association PDU and step the state."""
        following = SENT[self.state][pdu]
        self._write([encoded])
        self.state = following

    def send_message(
        self,
        context_id: int,
        command: bytes,
        data: bytes | Iterable[bytes | memoryview] | None = None,
    ) -> None:
        """Send a command set and, unless `data` is `None`, its data set.

        The chunks of `data` must not change once given. An exception of the iterable leaves half a
        message on the wire; the association is then aborted and the exception goes on.
        """
        if Pdu.P_DATA_TF not in SENT.get(self.state, {}):
            raise AssociationAborted("the association has ended", Outcome.ABORTED_BY_US)
        if isinstance(data, bytes):
            data = (data,)
        size = self._sent_fragment_bytes
        batch: list[bytes | memoryview] = []
        for pdu in p_data_pdus(context_id, COMMAND_FRAGMENT, (command,), size):
            batch += pdu
        if data is not None:
            batched = 0
            pdus = p_data_pdus(context_id, DATA_SET_FRAGMENT, data, size)
            while True:
                try:
                    following = next(pdus, None)
                except Exception:
                    self.abort()
                    raise
                if following is None:
                    break
                # Whole PDUs, because an A-ABORT may come between two writes.
                batch += following
                batched += size
                if batched >= _BATCH_BYTES:
                    self._write(batch)
                    batch.clear()
                    batched = 0
        self._write(batch)

    def send_messages(self, context_id: int, command: bytes, data_sets: Sequence[bytes]) -> None:
        """Send a message for each of some short data sets, in one call, all of one command set."""
        if Pdu.P_DATA_TF not in SENT.get(self.state, {}):
            raise AssociationAborted("the association has ended", Outcome.ABORTED_BY_US)
        size = self._sent_fragment_bytes
        commands = b"".join(chain(*p_data_pdus(context_id, COMMAND_FRAGMENT, (command,), size)))
        pieces: list[bytes | memoryview] = []
        for data in data_sets:
            pieces.append(commands)
            if len(data) <= size and len(data) % 2 == 0:
                header = p_data_header(context_id, DATA_SET_FRAGMENT | LAST_FRAGMENT, len(data))
                pieces += (header, data)
            else:
                pieces += chain(*p_data_pdus(context_id, DATA_SET_FRAGMENT, (data,), size))
        self._write([b"".join(pieces)])

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write pieces in one call, without joining long ones."""
        length = sum(map(len, pieces))
        if self._tls is not None or length < _JOINED_BYTES or len(pieces) > _MOST_GATHERED:
            pieces = [b"".join(pieces)]
        rest = deque(memoryview(piece) for piece in pieces)
        left = length
        progress_bytes = 0
        deadline = monotonic() + self._dimse_seconds
        with self._write_lock:
            if self._cut_because is not None:  # and nothing follows an A-ABORT
                self._lost(None)
            # For as long as there is something left.
            self._write_broken = True
            while left and monotonic() < deadline:
                try:
                    # OpenSSL tells of a write when it has gone whole: in one piece, a slow peer
                    # would have one deadline for all of it.
                    count = (
                        self._sock.sendmsg(rest)
                        if self._tls is None
                        else self._tls.send(rest[0][:_PROGRESS_BYTES])
                    )
                except (TimeoutError, BlockingIOError):
                    if not self._waits_on(deadline):
                        break
                    continue
                except OSError as error:
                    self._lost(error)
                left -= count
                progress_bytes += count
                _consume(rest, count)
                if progress_bytes >= _PROGRESS_BYTES:
                    progress_bytes = 0
                    deadline = monotonic() + self._dimse_seconds
            self._write_broken = bool(left)
        self.bytes_sent += length - left
        if left:
            self.time_out("does not read what we send")

    # Ending

    def answer_release(self) -> None:
        """Agree to the peer's A-RELEASE-RQ."""
        self.send_pdu(Pdu.RELEASE_RP, release_pdu(Pdu.RELEASE_RP))

    def release(self) -> None:
        """Ask for release and wait for the peer to agree; raise `PeerTimeout` if it does not."""
        seconds = self._artim_seconds
        if self._interrupted is not None and self._interrupted():
            # In order all the same, but soon.
            seconds = min(seconds, _HURRIED_RELEASE_SECONDS)
            self._interrupted = None
        self.send_pdu(Pdu.RELEASE_RQ, release_pdu(Pdu.RELEASE_RQ))
        deadline = monotonic() + seconds
        self._restart_progress()
        self._skip(self._pdu_left)
        self._pdu_left = 0
        while self.state not in (State.CLOSED, State.AWAITING_CLOSE):
            if self.state in (
                State.COLLISION_REQUESTOR_ANSWERS,
                State.COLLISION_ACCEPTOR_ANSWERS,
            ):
                self.answer_release()
                continue
            self.begin_message()
            if not self.wait(max(0.0, deadline - monotonic())):
                self.time_out("did not answer the release request")
            _, length = self._next_pdu()
            self._skip(length)

    def abort(
        self,
        source: AbortSource = AbortSource.SERVICE_USER,
        reason: AbortReason = AbortReason.NOT_SPECIFIED,
    ) -> None:
        """Send an A-ABORT if there is still somebody to send it to; never raises."""
        following = SENT.get(self.state, {}).get(Pdu.ABORT)
        if following is None:
            return
        self.state = following
        if self._write_broken:
            return
        with contextlib.suppress(OSError):
            self._sock.settimeout(_ABORT_SECONDS)
            self._sock.sendall(abort_pdu(source, reason))
            self.bytes_sent += PDU_HEADER.size + SHORT_PDU_BYTES

    def violation(self, reason: AbortReason, rule: str) -> NoReturn:
        """Abort because the peer broke a rule of the upper layer (AA-8)."""
        self.abort(AbortSource.SERVICE_PROVIDER, reason)
        raise ProtocolViolation(rule)

    def message_violation(self, rule: str) -> NoReturn:
        """Abort because the peer broke a rule of PS3.7, which is for the service user to judge."""
        self.abort()
        raise ProtocolViolation(rule)

    def time_out(self, what: str) -> NoReturn:
        """Abort because the peer took too long: `what` completes "the peer ..."."""
        self.abort()
        raise PeerTimeout(f"the peer {what}")

    def cut(self, because: str, patience_seconds: float) -> None:
        """End the association from another thread; its own thread finds it gone.

        A write that runs has `patience_seconds` to end, so that the A-ABORT can follow it, and the
        peer to take what was written before.
        """
        self._cut_because = because
        deadline = monotonic() + patience_seconds
        # A TLS session is not for two threads at once, and half a PDU is no place for an A-ABORT.
        if self._tls is None and self._write_lock.acquire(timeout=patience_seconds):
            try:
                # Its own thread may have closed the connection.
                with contextlib.suppress(OSError, ValueError):
                    room = select.poll()
                    room.register(self._sock, select.POLLOUT)
                    left = max(0.0, deadline - monotonic())
                    if not self._write_broken and room.poll(left * 1000):
                        self._sock.send(
                            abort_pdu(AbortSource.SERVICE_USER, AbortReason.NOT_SPECIFIED),
                            socket.MSG_DONTWAIT,
                        )
            finally:
                self._write_lock.release()
        with contextlib.suppress(OSError):
            # SSLSocket.shutdown would take the session away under its thread's feet.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def detach(self) -> socket.socket | None:
        """Give the connection away if the peer is to close it (Sta13); close it otherwise."""
        if self.state is State.AWAITING_CLOSE and self._cut_because is None:
            return self._sock if self._tls is None else beneath(self._tls)
        self.close()
        return None

    def close(self) -> None:
        """Close the connection."""
        self.state = State.CLOSED
        self._sock.close()

    def _lost(self, error: OSError | None) -> NoReturn:
        self.state = State.CLOSED
        if self._cut_because is not None:
            raise AssociationAborted(self._cut_because, Outcome.ABORTED_BY_US) from error
        how = "closed the connection" if error is None else f"is gone ({error.strerror or error})"
        raise AssociationAborted(f"the peer {how}", Outcome.CONNECTION_LOST) from error


def _consume(pieces: deque[memoryview], count: int) -> None:
    """Take `count` bytes from the front of pieces."""
    while count:
        piece = pieces.popleft()
        if count < len(piece):
            pieces.appendleft(piece[count:])
        count -= min(count, len(piece))
