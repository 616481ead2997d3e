"""Modality Performed Procedure Step SCP, PS3.4 annex F: N-CREATE, N-SET and N-GET.

The bucket is the one place where a step's state is. Each request that changes it creates an object
with the next number, on condition that there is none, and is answered when S3 has it:

    N-SET a ── newest is 3 ── create 4 ─────────────────────────────▶ 0000
    N-SET b ── newest is 3 ─────────── create 4? is there ── newest is 4 ── create 5 ─▶ 0000

S3 tells the function of each object, which brings it to the index. Who created, set and read which
step is told to the audit trail (PS3.15 A.5.3.15), unless there is no such step.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Final

from pydicom.uid import generate_uid

from lenticular import audit
from lenticular.archive import RECEIVED, Archive, ProcedureKey, provenance
from lenticular.dicom_json import SPECIFIC_CHARACTER_SET, JsonElement, character_set_terms
from lenticular.errors import StoreUnavailable
from lenticular.procedure_step import Cause, Step, StepRefused, Violation, created, digest
from lenticular.procedures import newest
from lenticular.sop_classes import (
    MODALITY_PERFORMED_PROCEDURE_STEP,
    MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
)
from lenticular.status import ProcedureStepStatus, Status

from .association import Fate, Service
from .audit import AuditTrail
from .command_set import CommandField
from .custody import Custody
from .normalized import Answer, NormalizedService, Operation, Refused, Request
from .wire import Outcome

_PERMISSION: Final = "mpps"

#: PS3.7 annex C and, for the last, PS3.4 table F.7.2-2.
_STATUS_OF: Final[Mapping[Violation, Status]] = {
    Violation.MISSING: Status.MISSING_ATTRIBUTE,
    Violation.EMPTY: Status.MISSING_ATTRIBUTE_VALUE,
    Violation.INVALID: Status.INVALID_ATTRIBUTE_VALUE,
    Violation.FINAL: Status.PROCESSING_FAILURE,
}
_NO_LONGER: Final = "Performed Procedure Step Object may no longer be updated"
_NO_LONGER_ID: Final = 0xA710

#: N-SETs of one step that race; each round one of them has made it.
_MOST_ROUNDS: Final = 50
#: Steps of which we know whether their last request heard its answer.
_REMEMBERED: Final = 1000


class ProcedureSteps:
    """The SCP. Safe to share between threads and between gateways."""

    def __init__(self, custody: Custody, archive: Archive, trail: AuditTrail | None = None) -> None:
        """Keep steps in `custody` and read them from `archive`, which is the same bucket."""
        self._custody = custody
        self._archive = archive
        self._trail = trail
        self._lock = Lock()
        self._answered: OrderedDict[str, tuple[int, Fate]] = OrderedDict()

    def services(self) -> dict[int, Service]:
        """Return what serves which command field."""
        step, retrieve = (
            MODALITY_PERFORMED_PROCEDURE_STEP,
            MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
        )
        # Instances are the same under both classes (F.8.2.1), and N-GET is asked under either.
        get = Operation(_PERMISSION, self._get, also=frozenset({step, retrieve}))
        return {
            CommandField.N_CREATE_RQ: NormalizedService(
                {step: Operation(_PERMISSION, self._create)}
            ),
            CommandField.N_SET_RQ: NormalizedService({step: Operation(_PERMISSION, self._set)}),
            CommandField.N_GET_RQ: NormalizedService({step: get, retrieve: get}),
        }

    def _create(self, request: Request) -> Answer:
        uid = request.sop_instance_uid or generate_uid()
        try:
            step = created(uid, request.elements, _cause(request))
        except StepRefused as refused:
            raise _refusal(refused) from refused
        with self._audited(request, audit.Action.CREATE) as steps:
            steps.append(step)
            if not self._keep(step):
                present = newest(self._archive, uid)
                if present is None or present.number > 1 or not self._is_repeated(request, present):
                    raise Refused(
                        Status.DUPLICATE_SOP_INSTANCE, "there is a step with this UID already"
                    )
        self._remember(request, step)
        request.association.log.info(
            "procedure created", extra={"sop_instance_uid": uid, "state": step.state.value}
        )
        return Answer(sop_instance_uid=uid)

    def _set(self, request: Request) -> Answer:
        with self._audited(request, audit.Action.UPDATE) as steps:
            step = self._changed(request, steps)
            steps.append(step)
        self._remember(request, step)
        return Answer()

    def _changed(self, request: Request, steps: list[Step]) -> Step:
        """Return the state that an N-SET made; `steps` gets those that it was to change."""
        uid = request.sop_instance_uid or ""
        for _ in range(_MOST_ROUNDS):
            present = newest(self._archive, uid)
            if present is None:
                raise Refused(Status.NO_SUCH_SOP_INSTANCE, "there is no step with this UID")
            steps.append(present)
            if present.number > 1 and self._is_repeated(request, present):
                return present
            try:
                step = present.modified(request.elements, _cause(request))
            except StepRefused as refused:
                raise _refusal(refused) from refused
            if step.number > ProcedureKey.MOST:
                raise Refused(Status.RESOURCE_LIMITATION, "the step was changed too often")
            if self._keep(step):
                request.association.log.info(
                    "procedure set", extra={"sop_instance_uid": uid, "state": step.state.value}
                )
                return step
        raise StoreUnavailable("the step is being set by too many at a time")

    def _get(self, request: Request) -> Answer:
        with self._audited(request, audit.Action.READ) as steps:
            step = newest(self._archive, request.sop_instance_uid or "")
            if step is None:
                raise Refused(Status.NO_SUCH_SOP_INSTANCE, "there is no step with this UID")
            steps.append(step)
        # No list asks for all there is, PS3.7 10.1.2.1.5.
        wanted = request.attributes or tuple(step.elements)
        found: dict[int, JsonElement] = {
            tag: step.elements[tag] for tag in wanted if tag in step.elements
        }
        unknown = tuple(tag for tag in wanted if tag not in step.elements)
        return Answer(
            status=(
                ProcedureStepStatus.OPTIONAL_ATTRIBUTES_NOT_SUPPORTED if unknown else Status.SUCCESS
            ),
            elements=found,
            character_set=tuple(character_set_terms(step.elements.get(SPECIFIC_CHARACTER_SET))),
            attributes=unknown,
        )

    @contextmanager
    def _audited(self, request: Request, action: audit.Action) -> Iterator[list[Step]]:
        """Tell the audit trail how it ended, of the last step that is put into the list."""
        steps: list[Step] = []
        outcome = audit.Outcome.MINOR_FAILURE
        try:
            yield steps
            outcome = audit.Outcome.SUCCESS
        finally:
            if self._trail is not None and steps:
                self._trail.procedure(request.association, steps[-1], action, outcome)

    def _keep(self, step: Step) -> bool:
        """Create a state; False when another request has made one of the same number."""
        key = str(ProcedureKey(step.sop_instance_uid, step.number))
        record = step.to_json()
        if self._custody.keep(key, bytearray(record), {"Content-Type": "application/json"}):
            return True
        # A PUT that S3 took and whose answer was lost was sent again, and finds itself.
        return self._archive.read(key) == record

    def _remember(self, request: Request, step: Step) -> None:
        """Note on which association the request that made a state is answered."""
        with self._lock:
            self._answered[step.sop_instance_uid] = step.number, request.association.fate
            self._answered.move_to_end(step.sop_instance_uid)
            if len(self._answered) > _REMEMBERED:
                self._answered.popitem(last=False)

    def _is_repeated(self, request: Request, present: Step) -> bool:
        """Tell whether the request made the state that is there, and its sender may not know.

        Who did not hear the answer sends the same again, on another association. Who released
        its association did hear it, and then the same again is one too many.
        """
        number, fate = self._answered.get(present.sop_instance_uid, (0, Fate()))
        heard = number == present.number and (
            fate is request.association.fate
            or fate.outcome in (Outcome.RELEASED, Outcome.RELEASED_IDLE)
        )
        return (
            not heard
            and present.cause.digest == digest(request.elements)
            and present.cause.calling_ae_title == request.association.peer.calling_aet
        )


def _cause(request: Request) -> Cause:
    peer = request.association.peer
    received = provenance(peer.calling_aet, peer.called_aet)[RECEIVED]
    return Cause(received, peer.calling_aet, digest(request.elements))


def _refusal(refused: StepRefused) -> Refused:
    if refused.violation is Violation.FINAL:
        return Refused(_STATUS_OF[refused.violation], _NO_LONGER, error_id=_NO_LONGER_ID)
    return Refused(_STATUS_OF[refused.violation], str(refused), attributes=refused.tags)
