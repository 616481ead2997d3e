"""Associations of pynetdicom's that we ask for: established, or why not, and answers to requests.

Its threads race with each other in two places. `establish` is what to call, and copes with both.
"""

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

_Handlers: TypeAlias = Sequence[tuple[evt.EventType, Callable[[evt.Event], Any]]]

#: Result of a presentation context that is known there and not for us, PS3.8 table 9-18.
_USER_REJECTION: Final = 1
#: What becomes of a call that nobody takes.
UNREACHED: Final = "cannot be reached: is it running, and are its address and port right?"


class NotEstablished(Exception):
    """There is no association; the message goes on from the peer's name."""


class Unanswered(NotEstablished):
    """The peer did not say why there is no association; it may have let us connect."""

    def __init__(self, *, connected: bool) -> None:
        """Say whether there was a connection."""
        super().__init__(
            "ended the connection, or did not answer the association request"
            if connected
            else UNREACHED
        )
        self.connected = connected


def establish(  # noqa: PLR0913 - whom to ask, and for what
    ae: AE,
    address: str,
    port: int,
    *,
    ae_title: str,
    contexts: Sequence[PresentationContext],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: _Handlers = (),
) -> Association:
    """Open an association that has a context at least, or raise `NotEstablished`."""
    connected: list[evt.Event] = []
    refusals: list[A_ASSOCIATE_RJ | A_ABORT_RQ] = []

    def note(event: evt.Event) -> None:
        if isinstance(event.pdu, (A_ASSOCIATE_RJ, A_ABORT_RQ)):
            refusals.append(event.pdu)

    try:
        opened = ae.associate(
            address,
            port,
            contexts=list(contexts),
            ae_title=ae_title,
            # pynetdicom's own takes it for what an AE accepts, and not for what it asks.
            max_pdu=ae.maximum_pdu_size,
            ext_neg=list(roles),
            evt_handlers=[
                (evt.EVT_CONN_OPEN, connected.append),
                (evt.EVT_PDU_RECV, note),
                *handlers,
            ],
        )
    except (socket.gaierror, UnicodeError) as error:
        raise NotEstablished("cannot be reached: no address is known for this name") from error
    if opened.is_established:
        keep_answers(opened)
        return opened
    # By what was received: pynetdicom takes a refusal that comes together with the end of the
    # connection for a connection that never was.
    if refusals:
        raise NotEstablished(_refused(refusals[0], ae_title, ae.ae_title))
    if opened.rejected_contexts:
        names = {UID(str(each.abstract_syntax)).name for each in contexts}
        what = names.pop() if len(names) == 1 else "any of the proposed services"
        if {each.result for each in opened.rejected_contexts} == {_USER_REJECTION}:
            raise NotEstablished(f"does not let {ae.ae_title} use {what}")
        raise NotEstablished(f"does not accept {what}")
    raise Unanswered(connected=bool(connected))


def _refused(refusal: A_ASSOCIATE_RJ | A_ABORT_RQ, called: str, calling: str) -> str:
    if isinstance(refusal, A_ABORT_RQ):
        return "aborted the association"
    reason = refusal.reason_str.replace("recognised", "recognized")
    to_mend = {
        "Called AE title not recognized": f", it is not {called}",
        "Calling AE title not recognized": f", so {calling} has to be a node there, by our address",
    }
    return f"refused the association: {reason[0].lower()}{reason[1:]}{to_mend.get(reason, '')}"


def keep_answers(association: Association) -> None:
    """Let nobody but the `send_*` methods of an association take the answers to them.

    Its thread looks for requests of the peer and stands still while we wait for an answer. It may
    have passed the place where it stands still just before we asked; it then took the answer away,
    and we waited until the time was over.
    """
    get_msg = association.dimse.get_msg
    asking = association._reactor_checkpoint  # noqa: SLF001 - pynetdicom has no other way

    def unless_asked(block: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - as it is there
        if not block and not asking.is_set():
            return None, None
        return get_msg(block)

    association.dimse.get_msg = unless_asked  # type: ignore[method-assign]
