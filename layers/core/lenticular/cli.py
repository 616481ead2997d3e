"""The command line of the operator. Every command works on AWS and offline alike."""

import json
import sys
from collections.abc import Mapping
from os import environ
from pathlib import Path
from typing import Final

import click

from .archive import Archive
from .aws import dynamodb_client, s3_client
from .errors import InvalidIdentifier, LenticularError, OperatorError
from .index import Index
from .indexing import rebuild
from .nodes import NodeTable, read_nodes_file
from .planner import explain as explain_query
from .query import Model, read_keys, read_query
from .settings import FunctionSettings, settings_table

_USAGE_ERROR: Final = 2
_FAILED: Final = 1
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


def _node_table(environment: Mapping[str, str]) -> NodeTable:
    table = FunctionSettings.from_environment(environment).table
    return NodeTable(dynamodb_client(), table)


if __name__ == "__main__":
    main(prog_name="lenticular")
