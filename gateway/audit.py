"""The audit trail: who stored, asked for and was sent what, and who was turned away; PS3.15 A.5.

    association ─▶ AuditTrail ─▶ a queue for each outlet ─▶ its thread ─▶ log group, file or syslog

One message tells of an association and a study, not of an instance. Nobody waits here: where an
outlet is slow or away its messages wait, up to `_MAX_WAITING`, and what comes then is lost, counted
and said (`audit messages not written`, for which there is an alarm).

What these messages say of patients is for the outlets alone. Nothing of it may reach a log line.
"""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from lenticular.audit import (
    APPLICATION_START,
    APPLICATION_STOP,
    NODE_AUTHENTICATION,
    Action,
    AuditMessage,
    AuditSource,
    Outcome,
    Participant,
    Study,
)
from lenticular.audit_outlets import Outlet, OutletFailed
from lenticular.dicom_json import JsonElement, values_of
from lenticular.procedure_step import Step
from lenticular.query import QUERY_RETRIEVE_LEVEL
from lenticular.sop_classes import MODALITY_PERFORMED_PROCEDURE_STEP
from lenticular.status import FindStatus, Status

from .association import Association
from .messages import Message
from .negotiation import TurnedAway

_log: Final = logging.getLogger(__name__)

#: Messages of 2 KB or so that wait for an outlet: more than a busy clinic makes in an hour.
_MAX_WAITING: Final = 10_000
_MOST_AT_A_TIME: Final = 500
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
#: An outlet that stays away is said to be away so often.
_SAY_AGAIN_SECONDS: Final = 60.0
#: What is left at the end gets this long to be written.
_FLUSH_SECONDS: Final = 5.0

_PATIENT_ID: Final = 0x00100020
_STUDY_INSTANCE_UID: Final = 0x0020000D
#: What of a query's keys stands beside its XML, so that it can be searched for.
_KEYS: Final[Mapping[str, int]] = {
    "level": QUERY_RETRIEVE_LEVEL,
    "patient": _PATIENT_ID,
    "study": _STUDY_INSTANCE_UID,
}
_ANSWERED: Final = (Status.SUCCESS, FindStatus.CANCELLED)
#: Characters of such a key, most of all of a list of UIDs.
_KEY_CHARACTERS: Final = 4096


class _Way:
    """The way of messages to one outlet: a queue and a thread."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._waiting: queue.Queue[AuditMessage | None] = queue.Queue(_MAX_WAITING)
        self._lost = 0
        self._closing = threading.Event()
        self._close_by = 0.0
        self._said_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"audit-{outlet.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, message: AuditMessage) -> None:
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self._lost += 1

    def request_close(self, close_by: float) -> None:
        self._close_by = close_by
        self._closing.set()
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return  # so there is something to wake up for

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(max(0.0, self._close_by - monotonic()) + 1.0)
        left = sum(each is not None for each in self._drained())
        if left:
            self._lost += left
            self._say("the gateway stops")
        self._outlet.close()

    # In the thread

    def _run(self) -> None:
        while batch := self._next_batch():
            self._send(batch)

    def _next_batch(self) -> list[AuditMessage]:
        """Wait for messages; none when there are no more to come."""
        first = None
        while first is None:
            if self._closing.is_set() and self._waiting.empty():
                return []
            first = self._waiting.get()
        batch = [first]
        gathered_by = monotonic() + self._outlet.gather_seconds
        while len(batch) < _MOST_AT_A_TIME:
            seconds = 0.0 if self._closing.is_set() else gathered_by - monotonic()
            try:
                more = self._waiting.get(block=seconds > 0, timeout=max(seconds, 0.0))
            except queue.Empty:
                break
            if more is not None:
                batch.append(more)
        return batch

    def _send(self, batch: list[AuditMessage]) -> None:
        """Send until the outlet has taken it, or it is time to end."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self._lost += self._outlet.send(batch)
            except OutletFailed as error:
                if self._closing.is_set() and monotonic() + pause >= self._close_by:
                    self._lost += len(batch)
                    self._say(str(error))
                    return
                if self._said_at is None or monotonic() - self._said_at >= _SAY_AGAIN_SECONDS:
                    self._say(str(error), waiting=self._waiting.qsize() + len(batch))
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            except Exception:  # noqa: BLE001 - a mistake of ours must not end the thread
                # It costs these messages, not all that follow.
                self._lost += len(batch)
                _log.exception("audit outlet failed", extra={"outlet": self._outlet.name})
            if self._lost:
                self._say("more came than could wait, or they were refused")
            elif self._said_at is not None:
                _log.info("audit messages are written again", extra={"outlet": self._outlet.name})
            self._said_at = None
            return

    def _say(self, reason: str, **facts: int) -> None:
        lost, self._lost = self._lost, 0
        self._said_at = monotonic()
        _log.error(
            "audit messages not written",
            extra={"outlet": self._outlet.name, "reason": reason, "lost": lost, **facts},
        )

    def _drained(self) -> Iterator[AuditMessage | None]:
        while True:
            try:
                yield self._waiting.get_nowait()
            except queue.Empty:
                return


@dataclass(slots=True)
class Tally:
    """The instances of one association or retrieval by study, action and outcome."""

    patients: dict[str, str] = field(default_factory=dict)
    _counts: dict[tuple[str, Action, Outcome], Counter[str]] = field(default_factory=dict)

    def count(
        self, study_instance_uid: str, sop_class_uid: str, action: Action, outcome: Outcome
    ) -> None:
        """Count an instance."""
        key = study_instance_uid, action, outcome
        counter = self._counts.get(key)
        if counter is None:
            counter = self._counts[key] = Counter()
        counter[sop_class_uid] += 1

    def results(self) -> Iterator[tuple[Study, Action, Outcome]]:
        """Yield what became of each study; A.5.2: what failed is told apart from the rest."""
        for (uid, action, outcome), instances in self._counts.items():
            yield Study(uid, self.patients.get(uid, ""), instances), action, outcome


class AuditTrail:
    """Makes audit messages of what happens and sends them on their way, from `start` to `close`.

    Any thread may tell it of something, and none waits.
    """

    def __init__(self, source: AuditSource, outlets: Sequence[Outlet]) -> None:
        """Tell every outlet, as `source`."""
        self._source = source
        self._ways = [_Way(outlet) for outlet in outlets]
        self._stored: dict[Association, Tally] = {}

    @property
    def has_outlets(self) -> bool:
        """Whether anybody would hear of anything."""
        return bool(self._ways)

    def start(self) -> None:
        """Begin to send."""
        for way in self._ways:
            way.start()

    def close(self) -> None:
        """Send what is left, for some seconds, and stop."""
        close_by = monotonic() + _FLUSH_SECONDS
        for way in self._ways:
            way.request_close(close_by)
        for way in self._ways:
            way.join()

    def _tell(self, message: AuditMessage) -> None:
        for way in self._ways:
            way.put(message)

    def application_started(self) -> None:
        """Tell that the node is there."""
        self._tell(self._source.activity(APPLICATION_START))

    def application_stopped(self) -> None:
        """Tell that the node is no more."""
        self._tell(self._source.activity(APPLICATION_STOP))

    def turned_away(self, refused: TurnedAway) -> None:
        """Tell that a peer was not let in."""
        self._tell(
            self._source.alert(
                NODE_AUTHENTICATION,
                Participant(refused.calling_aet, refused.address),
                refused.reason,
                {"called": refused.called_aet} if refused.called_aet else {},
            )
        )

    # C-STORE

    def study_comes(
        self, association: Association, study_instance_uid: str, patient_id: Callable[[], str]
    ) -> None:
        """Learn whose study an association stores; `patient_id` is asked for once a study."""
        tally = self._stored.get(association)
        if tally is None:
            tally = self._stored[association] = Tally()
            association.at_end.append(lambda: self._stored_by(association))
        if study_instance_uid not in tally.patients:
            tally.patients[study_instance_uid] = patient_id()

    def stored(
        self,
        association: Association,
        study_instance_uid: str,
        sop_class_uid: str,
        action: Action,
        outcome: Outcome,
    ) -> None:
        """Count an instance of a study that `study_comes` was told of."""
        self._stored[association].count(study_instance_uid, sop_class_uid, action, outcome)

    def _stored_by(self, association: Association) -> None:
        peer = participant_of(association)
        for study, action, outcome in self._stored.pop(association).results():
            self._tell(
                self._source.transferred(
                    study,
                    sender=peer,
                    receiver=self._source.itself,
                    requestor=peer,
                    action=action,
                    outcome=outcome,
                )
            )

    # C-MOVE, C-GET

    def transfer_begins(
        self, association: Association, receiver: Participant, patients: Mapping[str, str]
    ) -> None:
        """Tell that studies are about to be sent; `patients` are their Patient IDs by study."""
        asker = participant_of(association)
        for uid, patient_id in patients.items():
            self._tell(self._source.transfer_begins(Study(uid, patient_id), receiver, asker))

    def transferred(self, association: Association, receiver: Participant, sent: Tally) -> None:
        """Tell what of studies was sent, and what could not be."""
        asker = participant_of(association)
        for study, action, outcome in sent.results():
            self._tell(
                self._source.transferred(
                    study,
                    sender=self._source.itself,
                    receiver=receiver,
                    requestor=asker,
                    action=action,
                    outcome=outcome,
                )
            )

    # N-CREATE, N-SET, N-GET of performed procedure steps

    def procedure(
        self, association: Association, step: Step, action: Action, outcome: Outcome
    ) -> None:
        """Tell what somebody did with a step, which is as it was then, and how that ended."""
        for uid in step.study_instance_uids:
            study = Study(
                uid,
                step.patient_id,
                {MODALITY_PERFORMED_PROCEDURE_STEP: 1},
                step.sop_instance_uid,
            )
            facts = {"state": step.state.value}
            asker = participant_of(association)
            self._tell(self._source.procedure(study, asker, action, outcome, facts))

    # C-FIND

    def queried(
        self,
        association: Association,
        message: Message,
        keys: Mapping[int, JsonElement],
        status: int,
        matches: int,
    ) -> None:
        """Tell what somebody asked, how it ended, and how many matches were answered."""
        named = {name: _text(keys.get(tag)) for name, tag in _KEYS.items()}
        self._tell(
            self._source.query(
                participant_of(association),
                sop_class_uid=message.context.abstract_syntax,
                transfer_syntax_uid=message.context.transfer_syntax,
                identifier=message.data or b"",
                outcome=Outcome.SUCCESS if status in _ANSWERED else Outcome.MINOR_FAILURE,
                facts={
                    **{name: text for name, text in named.items() if text},
                    "status": f"{status:04X}",
                    "matches": matches,
                },
            )
        )


def participant_of(association: Association) -> Participant:
    """Return the peer of an association as a participant."""
    return Participant(association.peer.calling_aet, association.peer.address)


def _text(key: JsonElement | None) -> str:
    return "\\".join(str(value) for value in values_of(key) if value)[:_KEY_CHARACTERS]
