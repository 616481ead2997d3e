"""Requests over an association of pynetdicom's, whose answers come to whoever asked."""

from typing import Any

from pynetdicom.association import Association


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
