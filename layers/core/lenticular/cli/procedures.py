"""`lenticular procedures`: performed procedure steps (MPPS), PS3.4 F."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from lenticular.errors import OperatorError
from lenticular.identifiers import is_uid
from lenticular.index import Index
from lenticular.index_items import UNKNOWN_MONTH, Procedure
from lenticular.procedures import counted_again, newest, record
from lenticular.procedures import missing as missing_of

from . import printing, stores


@click.group()
def procedures() -> None:
    """List performed procedure steps (MPPS), or show one, with what of them has come."""


@procedures.command("list")
@click.option(
    "--days", default=7, show_default=True, help="Those that started so long ago or less."
)
@click.option("--study", default=None, help="Only those of a Study Instance UID, whenever.")
@click.option("--incomplete", is_flag=True, help="Only those of which something has not come.")
@printing.as_json
def list_procedures(*, days: int, study: str | None, incomplete: bool, as_json: bool) -> None:
    """Print state, instances that came of those announced, who, when, and the UIDs."""
    index, archive = stores.index(), stores.archive()
    found = index.procedures(study) if study else _started_within(index, timedelta(days=days))
    if not as_json:
        click.echo(_PROCEDURE_HEADING)
    for procedure in found:
        looked_at = counted_again(archive, index, procedure)
        if not (incomplete and looked_at.is_complete):
            click.echo(_json_line(looked_at) if as_json else _table_line(looked_at))


@procedures.command("show")
@click.argument("uid")
@printing.as_json
def show_procedure(uid: str, *, as_json: bool) -> None:
    """Print the step with the SOP Instance UID UID, and what it announced and has not come."""
    step = newest(stores.archive(), uid) if is_uid(uid) else None
    if step is None:
        raise OperatorError(f"there is no performed procedure step {uid}")
    procedure = record(stores.index(), step)
    missing = sorted(missing_of(stores.index(), step))
    if as_json:
        click.echo(_json_line(procedure, missing=missing))
        return
    for name, value in _described(procedure).items():
        click.echo(f"{name.replace('_', ' '):<22}{value}")
    for each in missing:
        click.echo(f"{'missing':<22}{each}")


def _started_within(index: Index, span: timedelta) -> Iterator[Procedure]:
    """Yield the steps of the months since then, and those that do not say when they started."""
    # Modalities write local time, which may be a day ahead of ours.
    day, last = datetime.now(UTC) - span, datetime.now(UTC) + timedelta(days=1)
    months = []
    while day.strftime("%Y-%m") <= last.strftime("%Y-%m"):
        months.append(day.strftime("%Y-%m"))
        day = day.replace(day=1) + timedelta(days=32)
    since = (datetime.now(UTC) - span).strftime("%Y%m%dT%H%M%S")
    for month in months:
        yield from index.procedures_since(month, since)
    yield from index.procedures_since(UNKNOWN_MONTH, "0")


_PROCEDURE_HEADING: Final = (
    "state         came/announced  AE title          modality  started          ended            "
    "accession         study, step"
)


def _table_line(procedure: Procedure) -> str:
    mark = " !" if procedure.is_final and not procedure.is_complete else ""
    came = f"{procedure.received}/{procedure.announced}{mark}"
    return (
        f"{procedure.state:<12}  {came:<14}  {procedure.calling_ae_title:<16}  "
        f"{procedure.modality:<8}  {procedure.started[:15]:<15}  {procedure.ended[:15]:<15}  "
        f"{','.join(procedure.accession_numbers):<16}  "
        f"{procedure.study_instance_uid}  {procedure.sop_instance_uid}"
    )


def _json_line(procedure: Procedure, **more: object) -> str:
    return json.dumps({**_described(procedure), **more})


def _described(procedure: Procedure) -> dict[str, object]:
    """Return what an operator is told of a step: UIDs and numbers, and no patient."""
    return {
        **{name: value for name, value in asdict(procedure).items() if name not in _OF_THE_WAITING},
        "is_complete": procedure.is_complete,
    }


_OF_THE_WAITING: Final = frozenset({"checks", "next_check", "number"})
