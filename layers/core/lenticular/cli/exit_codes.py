"""What a command's exit status says; scripts rely on it, and `lenticular --help` prints it."""

from enum import IntEnum
from typing import Final

from lenticular.errors import InvalidIdentifier, LenticularError, OperatorError


class ExitCode(IntEnum):
    """The exit statuses of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PEER = 3
    FINDINGS = 4
    INTERRUPTED = 130


MEANING: Final = {
    ExitCode.DONE: "it is done",
    ExitCode.FAILED: "the bucket, the table, a queue or a disk failed: run it again",
    ExitCode.USAGE: "something that was typed, or is set, must be changed",
    ExitCode.PEER: "a DICOM peer could not be reached, refused or failed",
    ExitCode.FINDINGS: "done, but not all is well: what is not is printed",
    ExitCode.INTERRUPTED: "interrupted; what can be resumed says how",
}


class PeerFailed(LenticularError):
    """A DICOM peer could not be reached, refused, or answered with a failure."""


class NotAllIsWell(LenticularError):
    """A command went to its end, and some of what it looked at or did is not as it should be."""


def exit_code(error: LenticularError) -> ExitCode:
    """Return the status of a command that ends with an error."""
    match error:
        case OperatorError() | InvalidIdentifier():
            return ExitCode.USAGE
        case PeerFailed():
            return ExitCode.PEER
        case NotAllIsWell():
            return ExitCode.FINDINGS
        case _:
            return ExitCode.FAILED
