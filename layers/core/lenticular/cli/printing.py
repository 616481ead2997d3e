"""Facts on standard output: columns for people, one JSON object a line for programs."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Facts = Mapping[str, object]

#: The option that every command which prints facts has.
as_json: Final = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def print_rows(rows: Iterable[Facts], *, as_json: bool, columns: Sequence[str] = ()) -> None:
    """Print facts that all have the same names; people see `columns` of them, or all.

    Nothing is cut off or wrapped: UIDs are there to be copied. No rows, no heading.
    """
    if as_json:
        for row in rows:
            click.echo(to_json(row))
        return
    shown = list(rows)
    if not shown:
        return
    names = columns or tuple(shown[0])
    lines = [[name.replace("_", " ") for name in names]]
    lines += [[_text(row[name]) for name in names] for row in shown]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [all(isinstance(row[name], int | float) for row in shown) for name in names]
    for line in lines:
        cells = (
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(line, widths, right, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def print_facts(facts: Facts, *, as_json: bool) -> None:
    """Print the facts of one thing, for people a line each."""
    if as_json:
        click.echo(to_json(facts))
        return
    width = max(map(len, facts), default=0) + 2
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<{width}}{_text(value)}".rstrip())


def to_json(facts: Facts) -> str:
    """Write facts as one line of JSON."""
    return json.dumps(facts, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> object:  # noqa: ANN401 - whatever json does not know
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.2f}"
        case str():
            # A terminal obeys what is hidden in a name that some modality sent.
            return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", value)
        case set() | frozenset():
            return " ".join(sorted(map(_text, value)))
        case list() | tuple():
            return " ".join(map(_text, value))
        case _:
            return str(value)
