"""`lenticular stats`: what the archive holds."""

import click

from lenticular.holdings import DIMENSIONS, Holding, holdings

from . import printing, stores


@click.command()
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(DIMENSIONS),
    default=("modality",),
    help="Count apart by modality (the default), month of study, or sending node; repeatable.",
)
@printing.as_json
def stats(by: tuple[str, ...], *, as_json: bool) -> None:
    """Print studies, instances and bytes: received, in the bucket, and gained by compression.

    Reads the whole table once. Gained is the part of their bytes that instances with a form save;
    it is saved in fact where originals are retired.
    """
    counted = holdings(stores.index(), by)
    rows = [_row(dict(zip(by, kind, strict=True)), holding) for kind, holding in counted.items()]
    total = Holding()
    for holding in counted.values():
        total.add(holding)
    if not as_json:
        rows.append(_row({name: "all" if name == by[0] else "" for name in by}, total))
    printing.print_rows(rows, as_json=as_json)


def _row(kind: dict[str, str], holding: Holding) -> dict[str, object]:
    gained = holding.gained
    return {
        **kind,
        "studies": len(holding.studies),
        "instances": holding.instances,
        "received_bytes": holding.received_bytes,
        "stored_bytes": holding.stored_bytes,
        "gained": None if gained is None else round(gained, 3),
    }
