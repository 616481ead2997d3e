"""The audit trail as commands write it: as who, and where the environment says it is."""

import getpass
import socket
from os import environ

import click

from lenticular.audit_outlets import Outlet, open_outlets
from lenticular.settings import AuditSettings


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
