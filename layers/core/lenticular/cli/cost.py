"""`lenticular cost`: the monthly bill, line by line."""

from pathlib import Path
from typing import Any, Final

import click

from . import printing
from .bill import Clinic, bill, read_prices

_DEFAULTS: Final = Clinic(studies_per_day=0, instances=1, mb=1)
_LEVERS_SHOWN: Final = 3


@click.command()
@click.option("--studies-per-day", type=click.FloatRange(min=0, min_open=True), required=True)
@click.option(
    "--instances", type=click.FloatRange(min=1), required=True, help="Instances of a study."
)
@click.option(
    "--mb",
    type=click.FloatRange(min=0, min_open=True),
    required=True,
    help="Megabytes of a study, as received.",
)
@click.option("--years", type=click.IntRange(1, 30), default=3, show_default=True)
@click.option(
    "--retrieved",
    type=click.FloatRange(min=0),
    default=_DEFAULTS.retrieved,
    show_default=True,
    help="How often a study is got back, on average.",
)
@click.option(
    "--retrieved-later",
    type=click.FloatRange(min=0),
    default=_DEFAULTS.retrieved_later,
    show_default=True,
    help="How often a year, once it is in a colder class of S3.",
)
@click.option(
    "--verify-per-year",
    type=click.FloatRange(min=0),
    default=_DEFAULTS.verify_per_year,
    show_default=True,
    help="How often a year `lenticular verify` reads everything; 0.6 for 5 percent each month.",
)
@click.option("--tasks", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--vpn/--no-vpn", default=_DEFAULTS.vpn, show_default=True, help="A VPN of its own.")
@click.option(
    "--endpoints",
    type=click.IntRange(min=0),
    default=_DEFAULTS.endpoints,
    show_default=True,
    help="Interface endpoints; 0 in a VPC that has them.",
)
@click.option("--transcode/--no-transcode", default=_DEFAULTS.transcode, show_default=True)
@click.option("--retire-originals", is_flag=True, help="RetireOriginal=true.")
@click.option(
    "--infrequent-days",
    type=click.IntRange(min=0),
    default=_DEFAULTS.infrequent_days,
    show_default=True,
    help="Days before S3 Standard-IA; 0 for never.",
)
@click.option(
    "--glacier-days",
    type=click.IntRange(min=0),
    default=_DEFAULTS.glacier_days,
    show_default=True,
    help="Days before S3 Glacier Instant Retrieval; 0 for never.",
)
@click.option(
    "--form-ratio",
    type=click.FloatRange(0, 1, min_open=True),
    default=_DEFAULTS.form_ratio,
    show_default=True,
    help="Bytes of a form by those of its original; 1 - gained of `lenticular stats`.",
)
@click.option(
    "--vcpus", type=click.FloatRange(min=0.25), default=_DEFAULTS.vcpus, show_default=True
)
@click.option(
    "--memory-gib", type=click.FloatRange(min=0.5), default=_DEFAULTS.memory_gib, show_default=True
)
@click.option("--dashboard/--no-dashboard", default=_DEFAULTS.dashboard, show_default=True)
@click.option(
    "--free-allowances", is_flag=True, help="Nothing else in the account uses what AWS gives free."
)
@click.option("--kms-key", is_flag=True, help="A key of the clinic's own.")
@click.option(
    "--prices",
    "prices_file",
    type=click.Path(path_type=Path),
    help="Another list of prices, in the form of lenticular/cli/prices.toml.",
)
@printing.as_json
def cost(*, years: int, prices_file: Path | None, as_json: bool, **numbers: Any) -> None:  # noqa: ANN401 - the fields of Clinic
    """Print what a node costs a month in US dollars, on average of each year.

    Reckoned from the requests that an instance was measured to make, and one list of prices of one
    region; without taxes and discounts. Nothing is asked of AWS. With --no-vpn, what the way to the
    clinic asks for data is left out: by Direct Connect it has a price of its own.
    """
    prices = read_prices(prices_file)
    clinic = Clinic(**numbers, data_out=numbers["vpn"])
    reckoned = bill(clinic, prices, years)
    columns = [f"year_{year}" for year in range(1, years + 1)]
    rows: list[dict[str, object]] = [
        {"line": name, **dict(zip(columns, map(_cents, amounts), strict=True))}
        for name, amounts in reckoned.lines.items()
        if any(amounts)
    ]
    rows.append({"line": "total", **dict(zip(columns, map(_cents, reckoned.totals), strict=True))})
    if as_json:
        printing.print_facts(
            {
                "prices": f"{prices['region']} {prices['date']}",
                "lines": rows,
                "gib_out_not_reckoned": 0.0
                if clinic.data_out
                else _cents(clinic.gib_out_per_month),
                "largest": reckoned.largest,
                "would_lower": [
                    {"what": each.what, "saves": _cents(each.saves)} for each in reckoned.levers
                ],
            },
            as_json=True,
        )
        return
    click.echo(f"US dollars a month, {prices['region']}, prices of {prices['date']}")
    printing.print_rows(rows, as_json=False)
    if not clinic.data_out:
        click.echo(
            f"Without {clinic.gib_out_per_month:.0f} GiB a month that go out to the clinic, "
            "by a way that is there already."
        )
    click.echo(
        f"The largest line of the first year is {reckoned.largest}. What would lower the bill:"
    )
    for lever in reckoned.levers[:_LEVERS_SHOWN]:
        click.echo(f"  {_cents(lever.saves):>7.2f}  {lever.what}")


def _cents(amount: float) -> float:
    return round(amount, 2)
