"""Run uv with the package index that pip is set up for: `python infra/run_uv.py ARGUMENTS...`.

uv reads none of pip's configuration. Where a site points pip at its own mirror, this hands the same
mirror to uv. What the caller set for uv itself wins.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

_UV_VARIABLE_OF: Final = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}
_ALWAYS: Final = {
    # As pip does: the best version of all indexes, not of the first that knows the name. Harmless,
    # since every file has to match its hash.
    "UV_INDEX_STRATEGY": "unsafe-best-match",
    # As pip does: trust what the machine trusts.
    "UV_SYSTEM_CERTS": "true",
}
# pip's own order: a variable over the command's section over [global].
_SECTIONS: Final = (":env:", "install", "global")


def pip_settings(listing: str) -> dict[str, str]:
    """Read what `pip config list` prints: option name to value, the strongest section's."""
    found: dict[tuple[str, str], str] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        found[section, option] = str(ast.literal_eval(value))
    return {
        option: found[section, option]
        for section in reversed(_SECTIONS)
        for option in _UV_VARIABLE_OF
        if (section, option) in found
    }


def uv_environment(pip: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` with pip's settings added under the names uv knows."""
    # pip separates several values by white space of any kind, uv by blanks.
    ours = {_UV_VARIABLE_OF[option]: " ".join(value.split()) for option, value in pip.items()}
    return {**_ALWAYS, **ours, **environment}


def main() -> None:
    """Become uv."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    environment = uv_environment(pip_settings(listing), os.environ)
    command = [sys.executable, "-m", "uv", *sys.argv[1:]]
    os.execve(sys.executable, command, environment)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main()
