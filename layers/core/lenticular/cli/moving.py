"""A study moved by C-MOVE, whoever moves it to whomever, as often as it takes."""

from typing import Any

from lenticular.status import MoveStatus

from .exit_codes import PeerFailed
from .find import identifier
from .peers import Peer


def move_study(  # noqa: PLR0913 - what, from and to whom, and how patiently
    source: Peer,
    destination: str,
    study: str,
    retries: int,
    bar: Any,  # noqa: ANN401 - click's own type is private
    *,
    expected: int = 0,
) -> str | None:
    """Have `source` send a study to the AE title `destination`; return what went wrong, if it did.

    A success of no instance is none, nor one of less than the `expected` ones. Everything is sent
    again after a failure: who has an instance already says so, or takes it again, and nothing
    changes by it.
    """
    from .service_user import move

    problem = None
    for _ in range(retries + 1):
        moved = 0
        try:
            for each in move(
                source, destination, identifier("STUDY", [f"StudyInstanceUID={study}"])
            ):
                ended = each
                # The last response need not have counts (PS3.7 9.1.4.1.9).
                if told := each.completed + each.failed + each.warning:
                    moved = each.completed + each.warning
                    bar.length = told + each.remaining
                    bar.update(told - bar.pos)
        except PeerFailed as error:
            problem = str(error)
            continue
        if not ended.is_whole:
            problem = f"{source} ended C-MOVE with {ended.status:04X}{ended.comment}"
            if ended.failed:
                problem += f", {ended.failed} failed"
            if ended.status == MoveStatus.DESTINATION_UNKNOWN:
                problem += f": it does not know {destination} as a destination"
        elif moved < max(expected, 1):
            problem = (
                f"{source} ended C-MOVE well, but sent {moved} of {expected or 'its'} instances"
            )
        else:
            return None
    return problem
