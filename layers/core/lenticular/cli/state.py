"""What a long command has done already, in a file, so that it goes on where it stopped.

A line of JSON each: first what the command was asked for, then one for each thing it has done, in
the file before the command goes on. A last line that a crash cut off is left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import click

from lenticular.errors import OperatorError

from .disk import naming

Facts = Mapping[str, Any]

#: The option of commands that can be resumed.
state_option: Final = click.option(
    "--state",
    "state_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that remembers what is done; with the same file the command goes on.",
)


class State:
    """What is done, by name. Without a file nothing outlives the command."""

    def __init__(self, path: Path | None, asked: Facts) -> None:
        """Open a file, for `asked` and nothing else, or raise `OperatorError`."""
        self.done: dict[str, Facts] = {}
        self._path = path
        self._asked = dict(asked)
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            whole = self._read(self._path) if self._path.exists() else 0
            self._file = self._path.open("a", encoding="utf-8")
            self._file.truncate(whole)
            if not whole:
                self._write({"asked": self._asked})
        return self

    def _read(self, path: Path) -> int:
        """Read what is done; return how many bytes of the file are whole lines."""
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file):
                try:
                    facts = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    facts = None
                if not isinstance(facts, dict):
                    if line.endswith(b"\n"):
                        raise OperatorError(f"{path} is not a state file: give another name")
                    break
                if number == 0:
                    self._compare(path, facts)
                else:
                    self.done[facts.pop("done")] = facts
                whole += len(line)
        return whole

    def _compare(self, path: Path, facts: dict[str, Any]) -> None:
        if facts.get("asked") != json.loads(json.dumps(self._asked)):
            raise OperatorError(
                f"{path} is of another command, {json.dumps(facts.get('asked'))}: "
                "give another name, or remove it"
            )

    def note(self, name: str, **facts: object) -> None:
        """Remember that something is done."""
        self.done[name] = facts
        self._write({"done": name, **facts})

    def forget(self) -> None:
        """Remove the file: the whole command is done, and the next begins anew."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, facts: Facts) -> None:
        if self._file is not None and self._path is not None:
            with naming(self._path):
                self._file.write(json.dumps(facts) + "\n")
                self._file.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
