"""The command line of the operator. Every command works on AWS and offline alike."""

import json
import sys
from collections.abc import Iterator, Mapping
from os import environ
from pathlib import Path
from typing import Final

import click

from .archive import Archive, TransactionKey
from .aws import dynamodb_client, s3_client
from .commitment import Reference, State, Verdict, moment
from .errors import LenticularError, OperatorError
from .index import Index
from .indexing import rebuild
from .nodes import NodeTable, read_nodes_file
from .settings import FunctionSettings, settings_table
from .status import CommitmentFailure
from .transactions import Transaction, Transactions

_USAGE_ERROR: Final = 2
_FAILED: Final = 1


class _OneSentence(click.Group):
    """Shows what we name as a failure as a sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; exit 2 for the person's mistakes, 1 for the store's failures."""
        try:
            return super().invoke(ctx)
        except LenticularError as error:
            click.echo(str(error), err=True)
            sys.exit(_USAGE_ERROR if isinstance(error, OperatorError) else _FAILED)


@click.group(cls=_OneSentence)
def main() -> None:
    """Operate a Lenticular node: LENTICULAR_BUCKET and LENTICULAR_TABLE say which."""


@main.group()
def nodes() -> None:
    """List the remote nodes, or load them from a nodes file."""


@nodes.command("load")
@click.argument("file", type=click.Path(path_type=Path))
def load_nodes(file: Path) -> None:
    """Make the table's nodes equal to those of FILE; the gateway follows within seconds."""
    loaded = read_nodes_file(file)
    _node_table(environ).replace_all(loaded)
    click.echo(f"{len(loaded)} nodes loaded")


@nodes.command("list")
def list_nodes() -> None:
    """Print AE title, address, port and permissions of every node."""
    for node in _node_table(environ).all():
        port = "" if node.port is None else str(node.port)
        click.echo(f"{node.aet:<16}  {node.address:<40} {port:>5}  {' '.join(sorted(node.may))}")


@main.command("rebuild-index")
def rebuild_index() -> None:
    """Rebuild the index from the bucket alone; safe to run on a node in use, and to run again."""
    settings = FunctionSettings.from_environment(environ)
    index = Index(
        dynamodb_client(), settings.table, newest_shown=settings.duplicates == "keep-both"
    )
    read = rebuild(Archive(s3_client(), settings.bucket), index)
    click.echo(f"{read} objects read, the index holds what the bucket holds")


@main.command()
def quarantine() -> None:
    """Print every object that could not be placed in the index, and why."""
    settings = FunctionSettings.from_environment(environ)
    for item in Index(dynamodb_client(), settings.table).quarantined():
        click.echo(
            f"{item['received']}  {item['calling_ae_title']:<16}  {item['reason']}  {item['sk']}"
        )


@main.group()
def commitments() -> None:
    """List storage commitments, show one with its result, or start one again."""


@commitments.command("list")
@click.option(
    "--state", type=click.Choice([each.value for each in State]), help="Only those in this state."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_commitments(state: str | None, *, as_json: bool) -> None:
    """Print how far every commitment is, who asked, and what keeps it."""
    for transaction in _transactions(environ).all():
        if state is not None and transaction.state != state:
            continue
        click.echo(json.dumps(_facts(transaction)) if as_json else _line(transaction))


@commitments.command("show")
@click.argument("requester")
@click.argument("transaction_uid")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show_commitment(requester: str, transaction_uid: str, *, as_json: bool) -> None:
    """Print a commitment and, of each instance, whether it is committed to."""
    transactions = _transactions(environ)
    key = TransactionKey(requester, transaction_uid)
    request, transaction = transactions.request(key), transactions.find(key)
    verdict = transactions.verdict(key)
    if as_json:
        facts = {} if transaction is None else _facts(transaction)
        instances = [
            {
                "sop_class_uid": reference.sop_class_uid,
                "sop_instance_uid": reference.sop_instance_uid,
                "result": result,
            }
            for reference, result in _results(request.references, verdict)
        ]
        click.echo(json.dumps({**facts, "instances": instances}))
        return
    if transaction is not None:
        click.echo(_line(transaction))
    for reference, result in _results(request.references, verdict):
        click.echo(f"{result:<36}  {reference.sop_instance_uid}")


@commitments.command("retry")
@click.argument("requester", required=False)
@click.argument("transaction_uid", required=False)
@click.option("--undelivered", is_flag=True, help="Every one that could not be reported.")
def retry_commitments(
    requester: str | None, transaction_uid: str | None, *, undelivered: bool
) -> None:
    """Check a commitment anew and report it, as if its requester asked again."""
    transactions = _transactions(environ)
    if undelivered == (transaction_uid is not None):
        raise OperatorError("name a requester and a Transaction UID, or say --undelivered")
    keys = (
        [each.key for each in transactions.all() if each.state is State.UNDELIVERED]
        if undelivered
        else [TransactionKey(requester or "", transaction_uid or "")]
    )
    for key in keys:
        transactions.ask_again(key)
    click.echo(f"{len(keys)} commitments started again")


def _line(transaction: Transaction) -> str:
    failures = "" if transaction.failures is None else f", {transaction.failures} failed"
    return (
        f"{moment(transaction.received)[:19]}  {transaction.key.requester:<16}  "
        f"{transaction.state:<11}  {transaction.references} instances{failures}  "
        f"{transaction.key.transaction_uid}  {transaction.problem or ''}"
    ).rstrip()


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


@main.command()
def settings() -> None:
    """Print every setting of the gateway as a Markdown table."""
    click.echo(settings_table())


def _transactions(environment: Mapping[str, str]) -> Transactions:
    settings = FunctionSettings.from_environment(environment)
    return Transactions(Archive(s3_client(), settings.bucket), dynamodb_client(), settings.table)


def _node_table(environment: Mapping[str, str]) -> NodeTable:
    table = FunctionSettings.from_environment(environment).table
    return NodeTable(dynamodb_client(), table)


if __name__ == "__main__":
    main(prog_name="lenticular")
