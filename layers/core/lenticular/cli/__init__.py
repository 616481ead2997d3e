"""The command line of the operator. Every command works on AWS and offline alike.

A module holds one group of commands, and is imported when one of them is called: what a command
needs (boto3, pydicom, pynetdicom) takes most of a second to load. This package needs click, which
no Lambda layer has, so nothing else imports it.
"""

import sys
from importlib import import_module
from keyword import iskeyword
from os import environ
from typing import Final

import click

from lenticular.errors import LenticularError
from lenticular.settings import unknown_variables

from .exit_codes import MEANING, ExitCode, exit_code, to_be_changed

#: The module of each command, and what `lenticular --help` says of it.
_COMMANDS: Final = {
    "commitments": ("commitments", "List storage commitments, show one, or start one again."),
    "cost": ("cost", "Print what a node costs a month."),
    "dead-letters": ("dead_letters", "List, show or replay what functions could not do."),
    "delete": ("deletions", "Delete studies so that they can be brought back."),
    "deletions": ("deletions", "List what was deleted, or go on with what broke off."),
    "explain": ("find", "Print which way a query goes through the index."),
    "export": ("exports", "Write stored studies into a folder with a DICOMDIR."),
    "find": ("find", "Query this node, or another one (C-FIND)."),
    "get": ("find", "Get a study from this node, or another one (C-GET)."),
    "import": ("imports", "Import a folder, or the studies of another PACS."),
    "nodes": ("nodes", "List, add, remove, echo, import or export the remote nodes."),
    "procedures": ("procedures", "List performed procedure steps (MPPS), or show one."),
    "quarantine": ("quarantine", "List, show or retry what could not be placed in the index."),
    "rebuild-index": ("index", "Rebuild the index from the bucket alone."),
    "restore": ("deletions", "Bring back studies that were deleted."),
    "send": ("send", "Send files, folders or stored studies to a node."),
    "settings": ("settings", "Print every setting of the gateway."),
    "stats": ("stats", "Count studies, instances and bytes."),
    "transcode": ("index", "Have what is stored already transcoded."),
    "verify": ("index", "Hold the bucket against the index and against checksums."),
}


class _Commands(click.Group):
    """Loads commands as they are called, and shows what fails as a sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in order."""
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"{__name__}.{_COMMANDS[cmd_name][0]}")
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(module, f"{name}_" if iskeyword(name) else name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in sorted(_COMMANDS)])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say what exit statuses mean."""
        del ctx
        with formatter.section("Exit status"):
            formatter.write_dl([(str(int(code)), text) for code, text in MEANING.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a failure that we name becomes a sentence and an exit status."""
        for variable, like in unknown_variables(environ).items():
            hint = f"{like} is one" if like else "`lenticular settings` prints those of the gateway"
            click.echo(f"{variable} is set and is no setting, so it is ignored; {hint}", err=True)
        try:
            return super().invoke(ctx)
        except LenticularError as error:
            click.echo("; ".join(filter(None, (str(error), to_be_changed(error)))), err=True)
            sys.exit(exit_code(error))
        except BrokenPipeError:
            raise  # click ends quietly: who read our output wants no more of it
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"{where}{error.strerror or type(error).__name__}", err=True)
            sys.exit(ExitCode.FAILED)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(ExitCode.INTERRUPTED)


@click.group(cls=_Commands)
def main() -> None:
    """Operate a Lenticular node: LENTICULAR_BUCKET and LENTICULAR_TABLE say which."""
