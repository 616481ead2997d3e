"""From performed procedure steps to the index: what each announced, and what of it has come.

The archive has a step as a run of objects (`archive.ProcedureKey`), written one after the other and
never replaced. The index has an item of it with each of its studies, derived from the newest of
these objects and from the instances of the studies, and right whichever event of which object it
was derived on.
"""

import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from .archive import PROCEDURES, Archive, ProcedureKey, procedure_prefix
from .errors import InstanceMissing, StoreUnavailable
from .index import Index
from .index_items import Procedure
from .moments import moment
from .procedure_step import Step

_log: Final = logging.getLogger(__name__)
#: Races on one item end after a few rounds; more says that something else is wrong.
_MOST_ROUNDS: Final = 20
#: What SQS can delay a message by.
_LONGEST_DELAY_SECONDS: Final = 900


def newest(archive: Archive, sop_instance_uid: str) -> Step | None:
    """Return the state a step is in, None when there is no such step."""
    newest_key = None
    for newest_key in archive.keys(procedure_prefix(sop_instance_uid)):  # noqa: B007 - the last counts
        pass
    return None if newest_key is None else Step.from_json(archive.read(newest_key))


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long, and how often, we look whether what a step announced has come.

    The first look follows the final N-SET after `first_seconds`; each pause is twice the one before
    up to a sixteenth of `patience_seconds`, after which we stop.
    """

    patience_seconds: int
    first_seconds: int = 15

    def pause(self, checks: int) -> int:
        """Return the seconds from one look to the next."""
        longest = min(self.patience_seconds // 16, _LONGEST_DELAY_SECONDS)
        return max(1, min(self.first_seconds << min(checks, 10), longest))


class Watch(Protocol):
    """What a look asks for; each is called before the index says that it was."""

    def look_again(self, sop_instance_uid: str, check: int, seconds: int) -> None:
        """Have `look` called with `check` after some seconds, or raise `StoreUnavailable`."""

    def give_up(self, procedure: Procedure) -> None:
        """Tell an operator that what was announced has not come."""


def look(  # noqa: PLR0913 - where to look, for what, and what to do about it
    archive: Archive,
    index: Index,
    sop_instance_uid: str,
    *,
    waiting: Waiting,
    watch: Watch,
    check: int = 0,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Procedure | None:
    """Make the index hold what the archive has of a step; see to it that it is looked at again.

    `check` is 0 on an event of the archive, and counts the looks that were asked for. A look that
    another one has overtaken asks for nothing:

        event  ── look_again(1), note checks=1 ─────────── (15 s) ── check 1 ── ...
        the same event again ── checks=1 > 0, and check 1 is still to come: nothing to ask for

    A crash between asking and noting asks twice, which the note of whichever comes first ends.

    Raises:
        StoreUnavailable: try again; nothing is lost.
    """
    step = newest(archive, sop_instance_uid)
    if step is None:
        # Objects of steps are never deleted by us; whoever did it wants them gone.
        _log.warning("procedure is gone", extra={"sop_instance_uid": sop_instance_uid})
        return None
    present = now()
    known = record(index, step)
    if not known.is_final or known.is_complete or known.overdue:
        return known
    if known.checks > check and known.next_check > moment(present):
        return known
    waited_until = datetime.fromisoformat(known.since) + timedelta(seconds=waiting.patience_seconds)
    if present >= waited_until:
        watch.give_up(known)
        noted = replace(known, overdue=True, next_check="")
    else:
        pause = min(waiting.pause(check), math.ceil((waited_until - present).total_seconds()))
        watch.look_again(sop_instance_uid, check + 1, pause)
        following = moment(present + timedelta(seconds=pause))
        noted = replace(known, checks=check + 1, next_check=following)
    _note(index, step, noted)
    return noted


def record(index: Index, step: Step) -> Procedure:
    """Write the items of a step with each of its studies and return one of them.

    An item that is of a newer state already stays.
    """
    received = len(step.announced) - len(missing(index, step))
    first: Procedure | None = None
    for study in step.study_instance_uids:
        written = _write(index, study, step, lambda known: replace(known, received=received))
        first = first or written
    assert first is not None, "a step without a study was never accepted"
    return first


def counted_again(archive: Archive, index: Index, procedure: Procedure) -> Procedure:
    """Return a step as it is now, where the item may have been overtaken by what came since."""
    if procedure.received == procedure.announced:
        return procedure
    step = newest(archive, procedure.sop_instance_uid)
    return procedure if step is None else record(index, step)


def missing(index: Index, step: Step) -> frozenset[str]:
    """Return the SOP Instance UIDs that a step announced and none of its studies has."""
    awaited = set(step.announced)
    for study in step.study_instance_uids if awaited else ():
        awaited.difference_update(index.sop_instance_uids(study))
    return frozenset(awaited)


def _note(index: Index, step: Step, noted: Procedure) -> None:
    """Write down with every study how far the waiting is."""
    for study in step.study_instance_uids:
        _write(
            index,
            study,
            step,
            lambda known: replace(
                known,
                received=noted.received,
                checks=noted.checks,
                next_check=noted.next_check,
                overdue=noted.overdue,
            ),
        )


def _write(
    index: Index, study: str, step: Step, change: Callable[[Procedure], Procedure]
) -> Procedure:
    for _ in range(_MOST_ROUNDS):
        present = index.procedure(study, step.sop_instance_uid)
        known = Procedure.from_item(present) if present else None
        if known is not None and known.number > step.number:
            return known
        changed = change(
            known if known is not None and known.number == step.number else _procedure(study, step)
        )
        if changed.is_complete:
            changed = replace(changed, overdue=False, next_check="")
        if index.replace(changed.item(), present):
            return changed
    raise StoreUnavailable("the procedure is being written by too many at a time")


def _procedure(study: str, step: Step) -> Procedure:
    return Procedure(
        study_instance_uid=study,
        sop_instance_uid=step.sop_instance_uid,
        number=step.number,
        state=step.state.value,
        since=step.cause.received,
        calling_ae_title=step.cause.calling_ae_title,
        station_ae_title=step.station_ae_title,
        modality=step.modality,
        started=step.started,
        ended=step.ended,
        accession_numbers=step.accession_numbers,
        announced=len(step.announced),
        received=0,
        is_final=step.is_final,
    )


def rebuild(archive: Archive, index: Index) -> int:
    """Make the index hold the steps that the archive has, and no other; return how many.

    Raises:
        StoreUnavailable: stopped half-way; running it again is safe.
    """
    keys = filter(None, map(ProcedureKey.parse, archive.keys(PROCEDURES)))
    there: set[tuple[str, str]] = set()
    read = 0
    for uid, _ in itertools.groupby(keys, lambda key: key.sop_instance_uid):
        read += 1
        try:
            step = newest(archive, uid)
        except InstanceMissing:
            continue
        if step is not None:
            record(index, step)
            there |= {(study, uid) for study in step.study_instance_uids}
    for study in index.every_study_uid():
        for procedure in index.procedures(study):
            if (study, procedure.sop_instance_uid) not in there and (
                newest(archive, procedure.sop_instance_uid) is None
            ):
                present = index.procedure(study, procedure.sop_instance_uid)
                if present is not None:
                    index.remove(present)
    return read
