"""Commands that the guide shows with their output: the output is written anew from the command.

`python -m infra.shown_output` replaces, in the pages of infra/guide, what follows
`$ lenticular ...` in a code block by what the command prints. A test says when a page is not what
this writes.
"""

import re
import shlex
from pathlib import Path
from typing import Final

from click.testing import CliRunner

from lenticular.cli import main as lenticular

GUIDE: Final = Path(__file__).with_name("guide")
_SHOWN: Final = re.compile(r"```\n\$ lenticular (?P<arguments>.+)\n(?:(?!```).*\n)*```\n")


def written_anew(page: str) -> str:
    """Return a page with the output of each command it shows as it is now."""
    return _SHOWN.sub(_run, page)


def _run(shown: re.Match[str]) -> str:
    arguments = shown["arguments"]
    done = CliRunner().invoke(lenticular, shlex.split(arguments))
    if done.exit_code:
        raise SystemExit(f"lenticular {arguments} ended with {done.exit_code}: {done.output}")
    return f"```\n$ lenticular {arguments}\n{done.output}```\n"


def main() -> None:
    """Write every page anew."""
    for page in GUIDE.glob("*.md"):
        page.write_text(written_anew(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
