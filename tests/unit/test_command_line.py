"""The command line as a whole: its help, its exit statuses, its completion, and what it loads."""

import subprocess
import sys

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from lenticular.cli import main, printing
from lenticular.cli.exit_codes import MEANING, ExitCode
from tests.commands import ROOT

COMMANDS = main.list_commands(click.Context(main))

#: They say that it is done, or print a file.
PRINT_NO_FACTS = {
    *("commitments retry", "dead-letters replay", "nodes add", "nodes remove", "nodes import"),
    *("nodes export", "rebuild-index", "settings", "transcode"),
}


def test_the_help_loads_no_command_and_nothing_of_aws() -> None:
    program = (
        "import sys; sys.argv = ['lenticular', '--help']\n"
        "from lenticular.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'boto3', 'botocore', 'pydicom', 'pynetdicom', 'yaml'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "layers/core")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"  {name}" in done.stdout for name in COMMANDS)


def test_the_help_says_what_every_exit_status_means() -> None:
    printed = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert MEANING.keys() == set(ExitCode)
    for code, meaning in MEANING.items():
        assert f"{int(code)} {meaning}" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_speaks_json(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0
    each = command.commands.values() if isinstance(command, click.Group) else [command]
    for single in each:
        assert single.help
        path = " ".join(dict.fromkeys([name, single.name or name]))
        speaks = "as_json" in {parameter.name for parameter in single.params}
        assert speaks != (path in PRINT_NO_FACTS), path


def test_what_a_command_is_for_is_told_in_whole_sentences() -> None:
    for name in COMMANDS:
        told = CliRunner().invoke(main, [name, "--help"], terminal_width=80).output
        assert "..." not in told.partition("\nCommands:")[2], told


def test_commands_are_completed() -> None:
    complete = BashComplete(main, {}, "lenticular", "_LENTICULAR_COMPLETE")
    assert [each.value for each in complete.get_completions([], "rest")] == ["restore"]
    assert [each.value for each in complete.get_completions(["nodes"], "e")] == ["echo", "export"]


def test_a_variable_that_is_no_setting_is_told_and_changes_nothing() -> None:
    environment = {"LENTICULAR_HOTS": "10.0.0.7", "LENTICULAR_XYZZY": "1"}
    done = CliRunner(env=environment).invoke(main, ["settings"])
    assert done.exit_code == 0
    first, second = done.stderr.splitlines()
    assert first.startswith("LENTICULAR_HOTS is set and is no setting")
    assert first.endswith("LENTICULAR_HOST is one")
    assert second.startswith("LENTICULAR_XYZZY is set and is no setting")
    assert "LENTICULAR_BUCKET" in done.stdout


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("send PEER file", "--retries=-1"),
        ("import folder file", "--retries=-1"),
        ("import node PEER", "--retries=-1"),
        ("verify", "--parallel=0"),
        ("procedures list", "--days=99999999999"),
        ("dead-letters show index", "--limit=0"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(command: str, option: str) -> None:
    done = CliRunner().invoke(main, [*command.split(), option])
    assert (done.exit_code, "is not in the range" in done.output) == (2, True)


def test_what_a_peer_said_cannot_command_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    said = "A\x1b[2J\x9b1mB\r\n"
    rows = [{"one": said, "several": [said, said]}]
    printing.print_rows(rows, as_json=False)
    printing.print_facts(rows[0], as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("A\ufffd[2J\ufffd1mB\ufffd\ufffd") == 6
    assert not any(each in shown for each in "\x1b\x9b\r")


def test_a_command_that_does_not_exist_is_told() -> None:
    done = CliRunner().invoke(main, ["nothing"])
    assert (done.exit_code, "No such command 'nothing'" in done.output) == (2, True)
