"""The audit trail as commands write it: as who, and where the environment says it is."""

import getpass
import socket
from collections.abc import Sequence
from os import environ
from typing import Final

import click

from lenticular.audit_outlets import Outlet, open_outlets
from lenticular.settings import AuditSettings

#: The option of commands that the audit trail is told of.
no_audit_option: Final = click.option(
    "--no-audit", is_flag=True, help="There is no audit trail, and that is known: say nothing."
)


def warn_if_nowhere(outlets: Sequence[Outlet], *, known: bool) -> None:
    """Say that what is done now is written down nowhere, unless that is known."""
    if not outlets and not known:
        click.echo(
            "no audit trail is told of this: LENTICULAR_AUDIT_LOG_GROUP says where one is; "
            "--no-audit if there is none",
            err=True,
        )


def outlets() -> list[Outlet]:
    """Return where the audit trail is, open until the command ends."""
    settings = AuditSettings.from_environment(environ)
    opened = open_outlets(settings.log_group, settings.file, settings.syslog, settings.syslog_ca)
    for outlet in opened:
        click.get_current_context().call_on_close(outlet.close)
    return opened


def person() -> str:
    """Return who runs the command, as user@host."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return socket.gethostname()
