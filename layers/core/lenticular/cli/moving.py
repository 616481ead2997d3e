"""A study moved by C-MOVE, whoever moves it to whomever, as often as it takes."""

from typing import Any

from .exit_codes import PeerFailed
from .find import identifier
from .peers import Peer


def move_study(source: Peer, destination: str, study: str, retries: int, bar: Any) -> str | None:  # noqa: ANN401 - click's own type is private
    """Have `source` send a study to the AE title `destination`; return what went wrong, if it did.

    Everything is sent again after a failure: who has an instance already says so, or takes it
    again, and nothing changes by it.
    """
    from .service_user import move

    problem = None
    for _ in range(retries + 1):
        try:
            for each in move(
                source, destination, identifier("STUDY", [f"StudyInstanceUID={study}"])
            ):
                ended = each
                bar.length = each.completed + each.failed + each.warning + each.remaining
                bar.update(each.completed + each.failed + each.warning - bar.pos)
        except PeerFailed as error:
            problem = str(error)
            continue
        if ended.is_whole:
            return None
        problem = f"{source} ended C-MOVE with {ended.status:04X}{ended.comment}"
        if ended.failed:
            problem += f", {ended.failed} failed"
    return problem
