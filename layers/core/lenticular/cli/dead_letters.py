"""`lenticular dead-letters`: what functions could not do."""

import click

from . import printing, stores


@click.group()
def dead_letters() -> None:
    """List, show or replay what functions could not do; LENTICULAR_STACK says where."""


@dead_letters.command("list")
@printing.as_json
def list_dead_letters(*, as_json: bool) -> None:
    """Count the messages and the dead letters of each queue."""
    rows = (
        {"queue": queue.name, "waiting": queue.waiting, "dead_letters": queue.dead}
        for queue in stores.dead_letters().all()
    )
    printing.print_rows(rows, as_json=as_json)


@dead_letters.command("show")
@click.argument("queue")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Most letters that are shown.",
)
@printing.as_json
def show_dead_letters(queue: str, *, limit: int, as_json: bool) -> None:
    """Print dead letters of QUEUE: when sent, how often tried, of what."""
    printing.print_rows(
        (
            {
                "sent": letter.sent,
                "received": letter.received,
                "message_id": letter.message_id,
                "about": letter.about,
            }
            for letter in stores.dead_letters().show(queue, limit)
        ),
        as_json=as_json,
    )


@dead_letters.command("replay")
@click.argument("queue")
def replay_dead_letters(queue: str) -> None:
    """Send the dead letters of QUEUE back to it. `list` prints the names of queues."""
    click.echo(f"{stores.dead_letters().replay(queue)} messages sent back to {queue}")
