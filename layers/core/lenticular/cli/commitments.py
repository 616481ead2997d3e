"""`lenticular commitments`: storage commitments, PS3.4 J."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from lenticular.archive import TransactionKey
from lenticular.commitment import Reference, State, Verdict
from lenticular.errors import OperatorError
from lenticular.moments import moment
from lenticular.status import CommitmentFailure
from lenticular.transactions import Transaction

from . import printing, stores


@click.group()
def commitments() -> None:
    """List storage commitments, show one with its result, or start one again."""


_DAYS: Final = click.option(
    "--days",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="With --lost: asked for in so many days; who asked earlier waits no more.",
)


def _since(days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


@commitments.command("list")
@click.option(
    "--state", type=click.Choice([each.value for each in State]), help="Only those in this state."
)
@click.option("--lost", is_flag=True, help="Only those that the table does not know.")
@_DAYS
@printing.as_json
def list_commitments(state: str | None, *, lost: bool, days: int, as_json: bool) -> None:
    """Print every commitment: who asked, how far it is, what keeps it.

    After the loss of the table requests are in the bucket only: --lost lists those.
    """
    if lost:
        found = (
            {
                "requester": key.requester,
                "asked": moment(asked),
                "transaction_uid": key.transaction_uid,
            }
            for key, asked in stores.transactions().lost(_since(days))
        )
        printing.print_rows(found, as_json=as_json)
        return
    rows = (
        _facts(transaction)
        for transaction in stores.transactions().all()
        if state is None or transaction.state == state
    )
    printing.print_rows(rows, as_json=as_json, columns=_SHOWN)


@commitments.command("show")
@click.argument("requester")
@click.argument("transaction_uid")
@printing.as_json
def show_commitment(requester: str, transaction_uid: str, *, as_json: bool) -> None:
    """Print a commitment, and the result of each of its instances."""
    transactions = stores.transactions()
    key = TransactionKey(requester, transaction_uid)
    request, transaction = transactions.request(key), transactions.find(key)
    verdict = transactions.verdict(key)
    instances = [
        {
            "result": result,
            "sop_class_uid": reference.sop_class_uid,
            "sop_instance_uid": reference.sop_instance_uid,
        }
        for reference, result in _results(request.references, verdict)
    ]
    facts = {} if transaction is None else _facts(transaction)
    if as_json:
        printing.print_facts({**facts, "instances": instances}, as_json=True)
        return
    printing.print_facts(facts, as_json=False)
    printing.print_rows(instances, as_json=False, columns=("result", "sop_instance_uid"))


@commitments.command("retry")
@click.argument("requester", required=False)
@click.argument("transaction_uid", required=False)
@click.option(
    "--undelivered", is_flag=True, help="Every one that could not be reported, or REQUESTER's."
)
@click.option(
    "--lost",
    is_flag=True,
    help="Every one that the table does not know, or REQUESTER's: after the loss of the table.",
)
@_DAYS
def retry_commitments(
    requester: str | None, transaction_uid: str | None, *, undelivered: bool, lost: bool, days: int
) -> None:
    """Check a commitment anew, as if its requester asked again."""
    transactions = stores.transactions()
    if [undelivered, lost, transaction_uid is not None].count(True) != 1:
        raise OperatorError(
            "name a requester and a Transaction UID, or say --undelivered or --lost"
        )
    if transaction_uid is not None:
        keys = [TransactionKey(requester or "", transaction_uid)]
    elif lost:
        keys = [key for key, _ in transactions.lost(_since(days))]
    else:
        keys = [each.key for each in transactions.all() if each.state is State.UNDELIVERED]
    keys = [key for key in keys if requester in (None, key.requester)]
    for key in keys:
        transactions.ask_again(key)
    click.echo(f"{len(keys)} commitments started again")


_SHOWN: Final = (
    "received",
    "requester",
    "state",
    "references",
    "failures",
    "transaction_uid",
    "problem",
)


def _facts(transaction: Transaction) -> dict[str, object]:
    return {
        "requester": transaction.key.requester,
        "transaction_uid": transaction.key.transaction_uid,
        "state": transaction.state,
        "received": moment(transaction.received),
        "checked": None if transaction.checked is None else moment(transaction.checked),
        "ended": None if transaction.ended is None else moment(transaction.ended),
        "references": transaction.references,
        "failures": transaction.failures,
        "turns": transaction.turn + 1,
        "problem": transaction.problem,
    }


def _results(
    references: tuple[Reference, ...], verdict: Verdict | None
) -> Iterator[tuple[Reference, str]]:
    """Say of each instance what its requester is told, in words of PS3.3 C.14.1.1."""
    for reference in references:
        reason = None if verdict is None else verdict.failures.get(reference)
        if verdict is None:
            yield reference, "not checked"
        elif reason is None:
            yield reference, "committed"
        else:
            words = CommitmentFailure(reason).name.replace("_", " ").lower()
            yield reference, f"{reason:04X} {words}"
