"""The command line of the operator. Every command works on AWS and offline alike."""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from os import environ
from pathlib import Path
from typing import Final

import click

from . import procedures
from .archive import Archive, TransactionKey
from .aws import dynamodb_client, s3_client, sqs_client
from .commitment import Reference, State, Verdict, moment
from .dead_letters import DeadLetters
from .errors import InvalidIdentifier, LenticularError, OperatorError, StoreUnavailable
from .identifiers import is_uid
from .index import Index
from .index_items import UNKNOWN_MONTH, Procedure
from .indexing import rebuild
from .nodes import NodeTable, read_nodes_file
from .planner import explain as explain_query
from .query import Model, read_keys, read_query
from .settings import FunctionSettings, IndexSettings, StackSettings, settings_table
from .status import CommitmentFailure
from .transactions import Transaction, Transactions
from .transcoding import originals_without_form
from .transcoding_queue import ask_for_transcoding

_USAGE_ERROR: Final = 2
_FAILED: Final = 1
_KEYS_AT_A_TIME: Final = 1000
_MODELS: Final = {
    "patient-root": Model.PATIENT_ROOT,
    "study-root": Model.STUDY_ROOT,
    "patient-study-only": Model.PATIENT_STUDY_ONLY,
}


class _OneSentence(click.Group):
    """Shows what we name as a failure as a sentence, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; exit 2 for the person's mistakes, 1 for the store's failures."""
        try:
            return super().invoke(ctx)
        except LenticularError as error:
            click.echo(str(error), err=True)
            theirs = isinstance(error, OperatorError | InvalidIdentifier)
            sys.exit(_USAGE_ERROR if theirs else _FAILED)


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
    """Print AE title, address, port, associations and permissions of every node."""
    for node in _node_table(environ).all():
        port = "" if node.port is None else str(node.port)
        may = " ".join(sorted(node.may))
        click.echo(f"{node.aet:<16}  {node.address:<40} {port:>5}  {node.associations:<17}  {may}")


@main.command("rebuild-index")
def rebuild_index() -> None:
    """Rebuild the index from the bucket alone; safe to run on a node in use, and to run again."""
    settings = FunctionSettings.from_environment(environ)
    index = Index(
        dynamodb_client(), settings.table, newest_shown=settings.duplicates == "keep-both"
    )
    archive = Archive(s3_client(), settings.bucket)
    read = rebuild(archive, index)
    steps = procedures.rebuild(archive, index)
    click.echo(f"{read} objects and {steps} procedures read, the index holds what the bucket holds")


@main.command("transcode")
def transcode_stored() -> None:
    """Have what is stored already transcoded, as LENTICULAR_TRANSCODE_QUEUE's function is told.

    Asks for each original that has neither a form nor a reason why not; safe to run again.
    """
    settings = IndexSettings.from_environment(environ)
    asked, failed = 0, 0
    keys = originals_without_form(Archive(s3_client(), settings.bucket))
    while some := list(itertools.islice(keys, _KEYS_AT_A_TIME)):
        failed += len(ask_for_transcoding(sqs_client(), settings.transcode_queue, some))
        asked += len(some)
    if failed:
        raise StoreUnavailable(f"{failed} of {asked} originals were not asked for: run it again")
    click.echo(f"{asked} originals are to be transcoded")


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


@main.group("procedures")
def performed() -> None:
    """List performed procedure steps (MPPS), or show one, with what of them has come."""


@performed.command("list")
@click.option(
    "--days", default=7, show_default=True, help="Those that started so long ago or less."
)
@click.option("--study", default=None, help="Only those of a Study Instance UID, whenever.")
@click.option("--incomplete", is_flag=True, help="Only those of which something has not come.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_procedures(*, days: int, study: str | None, incomplete: bool, as_json: bool) -> None:
    """Print state, instances that came of those announced, who, when, and the UIDs."""
    index, archive = _index(), _archive()
    found = index.procedures(study) if study else _started_within(index, timedelta(days=days))
    if not as_json:
        click.echo(_PROCEDURE_HEADING)
    for procedure in found:
        looked_at = procedures.counted_again(archive, index, procedure)
        if not (incomplete and looked_at.is_complete):
            click.echo(_json_line(looked_at) if as_json else _table_line(looked_at))


@performed.command("show")
@click.argument("uid")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show_procedure(uid: str, *, as_json: bool) -> None:
    """Print the step with the SOP Instance UID UID, and what it announced and has not come."""
    step = procedures.newest(_archive(), uid) if is_uid(uid) else None
    if step is None:
        raise OperatorError(f"there is no performed procedure step {uid}")
    procedure = procedures.record(_index(), step)
    missing = sorted(procedures.missing(_index(), step))
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


@main.group("dead-letters")
def letters() -> None:
    """List what functions could not do, or have it tried again; LENTICULAR_STACK says where."""


@letters.command("list")
def list_dead_letters() -> None:
    """Print how many messages of each queue wait, and how many are dead letters."""
    for queue in _dead_letter_queues().all():
        click.echo(f"{queue.name:<16}  {queue.waiting:>8} waiting  {queue.dead:>8} dead letters")


@letters.command("replay")
@click.argument("queue")
def replay_dead_letters(queue: str) -> None:
    """Send the dead letters of QUEUE, a name that `list` prints, back to it."""
    click.echo(f"{_dead_letter_queues().replay(queue)} messages sent back to {queue}")


def _dead_letter_queues() -> DeadLetters:
    return DeadLetters(sqs_client(), StackSettings.from_environment(environ).stack)


@main.command()
@click.option("-k", "--key", "keys", multiple=True, metavar="KEY[=VALUE]", help="as of findscu -k")
@click.option("--model", type=click.Choice(list(_MODELS)), default="study-root")
@click.option("--level", default="STUDY", show_default=True, help="PATIENT, STUDY, SERIES or IMAGE")
@click.option("--relational", is_flag=True, help="as if relational queries were negotiated")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def explain(
    keys: tuple[str, ...],
    model: str,
    level: str,
    relational: bool,  # noqa: FBT001 - as click passes it
    as_json: bool,  # noqa: FBT001
) -> None:
    """Print which way a C-FIND with these keys goes through the index; nothing is read."""
    identifier = read_keys((f"QueryRetrieveLevel={level}", *keys))
    explained = explain_query(read_query(_MODELS[model], identifier, relational=relational))
    if as_json:
        click.echo(json.dumps(explained, ensure_ascii=False))
        return
    click.echo(f"plan  {explained['plan']}")
    by = explained["by"]
    assert isinstance(by, dict)
    for name, value in by.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        click.echo(f"by    {name.replace('_', ' ')}: {shown or 'open'}")
    then = explained["then"]
    assert isinstance(then, list)
    for each in then:
        click.echo(f"then  {each}")


@main.command()
def settings() -> None:
    """Print every setting of the gateway as a Markdown table."""
    click.echo(settings_table())


def _transactions(environment: Mapping[str, str]) -> Transactions:
    settings = FunctionSettings.from_environment(environment)
    return Transactions(Archive(s3_client(), settings.bucket), dynamodb_client(), settings.table)


def _archive() -> Archive:
    return Archive(s3_client(), FunctionSettings.from_environment(environ).bucket)


def _index() -> Index:
    return Index(dynamodb_client(), FunctionSettings.from_environment(environ).table)


def _node_table(environment: Mapping[str, str]) -> NodeTable:
    table = FunctionSettings.from_environment(environment).table
    return NodeTable(dynamodb_client(), table)


if __name__ == "__main__":
    main(prog_name="lenticular")
