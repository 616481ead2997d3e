"""`lenticular quarantine`: what could not be placed in the index."""

import contextlib
from dataclasses import asdict
from typing import Final

import click

from lenticular.archive import content_sha256
from lenticular.aws import s3_client
from lenticular.errors import CannotUnderstand, OperatorError
from lenticular.header import read_file_head
from lenticular.index_items import Item
from lenticular.quarantine import retry

from . import printing, stores
from .exit_codes import NotAllIsWell

_HEAD_BYTES: Final = 64 << 10


@click.group(invoke_without_command=True)
@click.pass_context
def quarantine(context: click.Context) -> None:
    """List, show or retry what could not be placed in the index."""
    if context.invoked_subcommand is None:
        context.invoke(list_quarantined)


@quarantine.command("list")
@printing.as_json
def list_quarantined(*, as_json: bool = False) -> None:
    """Print every object that could not be placed in the index, and why."""
    rows = (
        {
            "received": item["received"],
            "calling_ae_title": item["calling_ae_title"],
            "reason": item["reason"],
            "object_key": item["sk"],
        }
        for item in stores.index().quarantined()
    )
    printing.print_rows(rows, as_json=as_json)


@quarantine.command("show")
@click.argument("object_key")
@printing.as_json
def show_quarantined(object_key: str, *, as_json: bool) -> None:
    """Print what is known of an object, and of the patient nothing."""
    item = _listed(object_key)
    stored = stores.archive().head(object_key, _HEAD_BYTES)
    facts: dict[str, object] = {
        "object_key": object_key,
        "reason": item["reason"],
        "received": stored.received,
        "calling_ae_title": stored.calling_ae_title,
        "size": stored.size,
        "sha256": content_sha256(object_key),
    }
    with contextlib.suppress(CannotUnderstand):
        head = read_file_head(stored.head)
        facts |= {
            "sop_class_uid": head.sop_class_uid,
            "sop_instance_uid": head.sop_instance_uid,
            "transfer_syntax_uid": head.transfer_syntax_uid,
        }
    printing.print_facts(facts, as_json=as_json)


@quarantine.command("retry")
@click.argument("object_keys", metavar="[OBJECT_KEY]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every object in quarantine.")
@printing.as_json
def retry_quarantined(object_keys: tuple[str, ...], *, everything: bool, as_json: bool) -> None:
    """Place objects in the index, if that is possible now.

    Of each other one the reason is printed.
    """
    if everything == bool(object_keys):
        raise OperatorError("name objects as `lenticular quarantine list` does, or say --all")
    index, archive, client = stores.index(), stores.archive(), s3_client()
    keys = [str(item["sk"]) for item in index.quarantined()] if everything else object_keys
    for key in object_keys:
        _listed(key)
    outcomes = [retry(client, archive, index, key) for key in keys]
    printing.print_rows(map(asdict, outcomes), as_json=as_json)
    if left := sum(outcome.now is None and not outcome.gone for outcome in outcomes):
        raise NotAllIsWell(f"{left} of {len(outcomes)} stay in quarantine")


def _listed(object_key: str) -> Item:
    item = {item["sk"]: item for item in stores.index().quarantined()}.get(object_key)
    if item is None:
        raise OperatorError(f"{object_key} is not in quarantine: `lenticular quarantine list`")
    return item
