"""`lenticular settings`."""

import click

from lenticular.settings import settings_table


@click.command()
def settings() -> None:
    """Print every setting of the gateway as a Markdown table."""
    click.echo(settings_table())
