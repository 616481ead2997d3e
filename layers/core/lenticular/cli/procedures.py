"""`lenticular procedures`: performed procedure steps (MPPS), PS3.4 F."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from lenticular.errors import OperatorError
from lenticular.identifiers import is_uid
from lenticular.index import Index
from lenticular.index_items import Procedure
from lenticular.index_keys import UNKNOWN_MONTH
from lenticular.procedures import counted_again, newest, record
from lenticular.procedures import missing as missing_of

from . import printing, stores


@click.group()
def procedures() -> None:
    """List performed procedure steps (MPPS), or show one, with what of them has come."""


@procedures.command("list")
@click.option(
    "--days",
    type=click.IntRange(0, 36_500),
    default=7,
    show_default=True,
    help="Those that started so long ago or less.",
)
@click.option("--study", default=None, help="Only those of a Study Instance UID, whenever.")
@click.option("--incomplete", is_flag=True, help="Only those of which something has not come.")
@printing.as_json
def list_procedures(*, days: int, study: str | None, incomplete: bool, as_json: bool) -> None:
    """Print steps: state, instances announced and come, who, when, UIDs."""
    index, archive = stores.index(), stores.archive()
    found = index.procedures(study) if study else _started_within(index, timedelta(days=days))
    looked_at = (counted_again(archive, index, procedure) for procedure in found)
    rows = (_facts(each) for each in looked_at if not (incomplete and each.is_complete))
    printing.print_rows(rows, as_json=as_json, columns=_SHOWN)


@procedures.command("show")
@click.argument("uid")
@printing.as_json
def show_procedure(uid: str, *, as_json: bool) -> None:
    """Print the step of this SOP Instance UID, and what has not come."""
    step = newest(stores.archive(), uid) if is_uid(uid) else None
    if step is None:
        raise OperatorError(f"there is no performed procedure step {uid}")
    procedure = record(stores.index(), step)
    missing = sorted(missing_of(stores.index(), step))
    if as_json:
        printing.print_facts({**_facts(procedure), "missing": missing}, as_json=True)
        return
    printing.print_facts(_facts(procedure), as_json=False)
    printing.print_rows([{"missing": each} for each in missing], as_json=False)


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


_SHOWN: Final = (
    "state",
    "received",
    "announced",
    "calling_ae_title",
    "modality",
    "started",
    "ended",
    "accession_numbers",
    "study_instance_uid",
    "sop_instance_uid",
)


def _facts(procedure: Procedure) -> dict[str, object]:
    """Return what an operator is told of a step: UIDs and numbers, and no patient."""
    return {
        **{name: value for name, value in asdict(procedure).items() if name not in _OF_THE_WAITING},
        "is_complete": procedure.is_complete,
    }


_OF_THE_WAITING: Final = frozenset({"checks", "next_check", "number"})
