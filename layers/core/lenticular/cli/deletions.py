"""`lenticular delete`, `restore` and `deletions`: studies that go, and may come back."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from os import environ
from typing import Final

import click

from lenticular.audit_outlets import Outlet, OutletFailed
from lenticular.aws import s3_client, sqs_client
from lenticular.deletion import Deletions, State
from lenticular.errors import OperatorError
from lenticular.identifiers import is_uid
from lenticular.settings import FormSettings, RetentionSettings
from lenticular.transcoding import originals_without_form
from lenticular.transcoding_queue import ask_for_transcoding

from . import printing, stores, trail
from .exit_codes import NotAllIsWell

_UNTOLD: Final = "not in the audit trail yet ({}): `lenticular {}` once it can be written"


@click.command()
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Delete them; without it, only print what would go.")
@click.option("--reason", help="Why, for the record; names no patient.")
@click.option("--despite-retention", is_flag=True, help="Delete what retention still holds, too.")
@trail.no_audit_option
@printing.as_json
def delete(  # noqa: PLR0913 - options of a command
    studies: tuple[str, ...],
    *,
    yes: bool,
    reason: str | None,
    despite_retention: bool,
    no_audit: bool,
    as_json: bool,
) -> None:
    """Print what deleting studies would delete, by Study Instance UID; with --yes, delete it.

    A study is held for LENTICULAR_RETENTION_DAYS after its last instance came. What is deleted can
    be brought back by `lenticular restore` for LENTICULAR_DELETED_DAYS; the bucket's lifecycle
    ends it then, by the template's DeletedDays. A record of it stays in the bucket, and one in the
    audit trail where LENTICULAR_AUDIT_LOG_GROUP or LENTICULAR_AUDIT_FILE says where that is, with a
    copy to LENTICULAR_AUDIT_SYSLOG.

    Waits for who is at work on a study meanwhile, mostly for seconds, after a crash for minutes.
    """
    if yes and not (reason and reason.strip()):
        raise OperatorError("say why, by --reason, for the record that stays")
    _require_uids(studies)
    settings = RetentionSettings.from_environment(environ)
    retention = timedelta(days=settings.retention_days)
    now = datetime.now(UTC)
    outlets = trail.outlets()
    deletions = _deletions(outlets)
    plans = [deletions.plan(study, retention, now) for study in dict.fromkeys(studies)]
    held = [plan for plan in plans if plan.held_until is not None]
    rows = [
        {
            "study_instance_uid": plan.study_instance_uid,
            "instances": plan.instances,
            "objects": len(plan.keys),
            "bytes": plan.size,
            "last_received": plan.last_received[:19],
            "held_until": plan.held_until and plan.held_until.isoformat()[:10],
            "deleted": yes and (despite_retention or not held),
        }
        for plan in plans
    ]
    if yes and held and not despite_retention:
        printing.print_rows(rows, as_json=as_json)
        raise OperatorError(
            f"retention holds {len(held)} of them: nothing was deleted (--despite-retention)"
        )
    untold: list[str] = []
    if yes:
        trail.warn_if_nowhere(outlets, known=no_audit)
        kept = timedelta(days=settings.deleted_days)
        for plan in plans:
            try:
                deletions.delete(plan, by=trail.person(), reason=str(reason), kept=kept, now=now)
            except OutletFailed as error:
                untold.append(str(error))
    printing.print_rows(rows, as_json=as_json)
    if not yes:
        click.echo("nothing was deleted: --yes deletes them", err=True)
    _require_told(untold, "deletions --finish")


@click.command()
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@trail.no_audit_option
@printing.as_json
def restore(studies: tuple[str, ...], *, no_audit: bool, as_json: bool) -> None:
    """Bring back studies that were deleted, by Study Instance UID.

    Forms that could not be made meanwhile are asked for, of LENTICULAR_TRANSCODE_QUEUE.
    """
    _require_uids(studies)
    outlets = trail.outlets()
    trail.warn_if_nowhere(outlets, known=no_audit)
    deletions = _deletions(outlets)
    rows, brought_back, untold, lost = [], list[str](), list[str](), 0
    for record in [deletions.newest(study) for study in dict.fromkeys(studies)]:
        try:
            back = deletions.restore(record, by=trail.person())
        except OutletFailed as error:
            untold.append(str(error))
            continue
        lost += len(record.keys) - back
        brought_back.append(record.study_instance_uid)
        rows.append(
            {
                "study_instance_uid": record.study_instance_uid,
                "objects": len(record.keys),
                "restored": back,
            }
        )
    printing.print_rows(rows, as_json=as_json)
    _ask_for_forms(brought_back)
    _require_told(untold, "restore")
    if lost:
        raise NotAllIsWell(f"{lost} objects are gone: the time to bring them back is over")


@click.command()
@click.option("--finish", is_flag=True, help="Go on with deletions that broke off.")
@trail.no_audit_option
@printing.as_json
def deletions(*, finish: bool, no_audit: bool, as_json: bool) -> None:
    """Print what was deleted, when, by whom and why, and until when it can be brought back."""
    outlets = trail.outlets()
    found = _deletions(outlets)
    rows, untold = [], list[str]()
    for record, so_far in found.all():
        state = so_far
        if finish and state is State.BEGUN:
            trail.warn_if_nowhere(outlets, known=no_audit)
            no_audit = True  # said once is enough
            try:
                found.finish(record)
                state = State.DELETED
            except OutletFailed as error:
                untold.append(str(error))
        elif finish and state in (State.DELETED, State.RESTORED):
            found.forget_patient(record)
        rows.append(
            {
                "study_instance_uid": record.study_instance_uid,
                "moment": record.moment,
                "state": state,
                "objects": len(record.keys),
                "kept_until": record.kept_until[:10],
                "by": record.by,
                "reason": record.reason,
            }
        )
    printing.print_rows(rows, as_json=as_json)
    _require_told(untold, "deletions --finish")


def _deletions(outlets: Sequence[Outlet]) -> Deletions:
    return Deletions(
        s3_client(),
        stores.archive(),
        stores.index(),
        outlets,
        warn=lambda text: click.echo(text, err=True),
    )


def _ask_for_forms(studies: Iterable[str]) -> None:
    """Have made what was not because its original was deleted; what nobody took is told."""
    queue = FormSettings.from_environment(environ).transcode_queue
    if queue is None:  # as where `Transcode` is none, and no original has a form
        return
    archive = stores.archive()
    lacking = [key for study in studies for key in originals_without_form(archive, study)]
    if lacking:
        lacking = ask_for_transcoding(sqs_client(), queue, lacking)
    if lacking:
        click.echo(f"{len(lacking)} originals have no form: `lenticular transcode`", err=True)


def _require_told(untold: list[str], command: str) -> None:
    if untold:
        raise NotAllIsWell(f"{len(untold)} of them are {_UNTOLD.format(untold[0], command)}")


def _require_uids(studies: tuple[str, ...]) -> None:
    for study in studies:
        if not is_uid(study):
            raise OperatorError(f"{study!r} is not a UID")
