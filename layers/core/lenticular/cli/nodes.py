"""`lenticular nodes`: the remote nodes of the table, and whether they answer."""

from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from lenticular.errors import OperatorError
from lenticular.nodes import (
    PERMISSIONS,
    Associations,
    Node,
    TlsUse,
    entry_of,
    node_of,
    read_nodes_file,
)
from lenticular.status import Status

from . import printing, stores
from .exit_codes import PeerFailed
from .peers import peer_named
from .tls import TlsOptions, tls_options


@click.group()
def nodes() -> None:
    """List, add, remove, echo, import or export the remote nodes."""


@nodes.command("list")
@printing.as_json
def list_nodes(*, as_json: bool) -> None:
    """Print every node: address, port, what it may, and how it is sent to."""
    printing.print_rows(map(_facts, stores.node_table().all()), as_json=as_json)


@nodes.command("add")
@click.argument("aet")
@click.argument("address")
@click.argument("port", type=int, required=False)
@click.option(
    "--may",
    multiple=True,
    type=click.Choice(PERMISSIONS),
    help="What it may do; repeatable; default everything.",
)
@click.option(
    "--associations",
    type=click.Choice(get_args(Associations)),
    default="one-per-retrieval",
    show_default=True,
    help="How it is sent to.",
)
@click.option(
    "--tls",
    type=click.Choice(get_args(TlsUse)),
    default="none",
    show_default=True,
    help="Whether we call it by TLS; its certificate must be for ADDRESS (host), or need not be.",
)
def add_node(  # noqa: PLR0913 - what there is to know of a node
    aet: str, address: str, port: int | None, *, may: tuple[str, ...], associations: str, tls: str
) -> None:
    """Add the node AET at ADDRESS, or change it.

    Without PORT we never send to it.
    """
    entry = {"aet": aet, "address": address, "port": port, "associations": associations, "tls": tls}
    try:
        node = node_of({**entry, "may": list(may or PERMISSIONS)})
    except ValueError as error:
        raise OperatorError(str(error)) from error
    stores.node_table().put(node)
    click.echo(f"{aet} is a node; the gateway knows within seconds")


@nodes.command("remove")
@click.argument("aet")
def remove_node(aet: str) -> None:
    """Remove the node AET."""
    table = stores.node_table()
    if aet not in {node.aet for node in table.all()}:
        raise OperatorError(f"there is no node {aet!r}")
    table.remove(aet)
    click.echo(f"{aet} is no node any more")


@nodes.command("echo")
@click.argument("aets", metavar="[AET]...", nargs=-1)
@tls_options
@printing.as_json
def echo_nodes(aets: tuple[str, ...], *, tls: TlsOptions, as_json: bool) -> None:
    """Send C-ECHO to nodes, to all that have a port by default.

    Status and milliseconds are printed. AET@address:port is a peer that is no node. The echo goes
    out from this machine, by TLS to a node that is called so.
    """
    from .service_user import echo

    names = aets or [node.aet for node in stores.node_table().all() if node.port is not None]
    if not names:
        click.echo("there is no node with a port, so none was called", err=True)
    rows, failed = [], 0
    for name in names:
        peer = peer_named(name, tls)
        row: dict[str, object] = {
            "aet": peer.aet,
            "address": peer.address,
            "port": peer.port,
            "tls": None,
            "status": None,
            "associate_ms": None,
            "echo_ms": None,
            "problem": None,
        }
        try:
            answer = echo(peer)
        except PeerFailed as error:
            row["problem"] = str(error)
        else:
            row["tls"] = answer.tls
            row["status"] = f"{answer.status:04X}"
            row["associate_ms"] = round(1000 * answer.associate_seconds, 1)
            row["echo_ms"] = round(1000 * answer.echo_seconds, 1)
        failed += row["status"] != f"{Status.SUCCESS:04X}"
        rows.append(row)
    printing.print_rows(rows, as_json=as_json)
    if failed:
        raise PeerFailed(f"{failed} of {len(rows)} did not answer C-ECHO with success")


@nodes.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Remove the nodes that FILE does not name.")
def import_nodes(file: Path, *, replace: bool) -> None:
    """Add or change the nodes of FILE, a nodes file.

    The gateway follows within seconds.
    """
    read = read_nodes_file(file)
    table = stores.node_table()
    if replace:
        table.replace_all(read)
    else:
        for node in read:
            table.put(node)
    click.echo(f"{len(read)} nodes imported")


@nodes.command("export")
def export_nodes() -> None:
    """Print the nodes as a nodes file."""
    import yaml

    entries = [entry_of(node) for node in stores.node_table().all()]
    click.echo(yaml.safe_dump({"nodes": entries}, sort_keys=False, allow_unicode=True), nl=False)


def _facts(node: Node) -> printing.Facts:
    return asdict(node)
