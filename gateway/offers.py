"""What the gateway accepts: SOP classes, in which transfer syntaxes, and who may ask for them."""

from dataclasses import dataclass
from typing import Final

from lenticular import sop_classes, transfer_syntaxes

from .negotiation import QueryOption


@dataclass(frozen=True, slots=True)
class Offer:
    """What we accept for one abstract syntax.

    `permission` is what a node needs in its `may` to be the SCU; `None` lets everyone who may
    connect. `scp_permission` is what it needs to be granted the SCP role when it asks, as C-GET
    takes for storage classes; `None` grants it to nobody. `options` are those of extended
    negotiation that we can do.
    """

    transfer_syntaxes: frozenset[str]
    permission: str | None = None
    scp_permission: str | None = None
    options: frozenset[QueryOption] = frozenset()


_UNCOMPRESSED: Final = frozenset(
    {
        transfer_syntaxes.IMPLICIT_VR_LITTLE_ENDIAN.uid,
        transfer_syntaxes.EXPLICIT_VR_LITTLE_ENDIAN.uid,
        transfer_syntaxes.EXPLICIT_VR_BIG_ENDIAN.uid,
    }
)
_PROCEDURE_STEP: Final = (
    sop_classes.MODALITY_PERFORMED_PROCEDURE_STEP,
    sop_classes.MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
)
#: Names are matched without case and accents for everyone, which is not the fuzziness meant there.
_QUERY_OPTIONS: Final = frozenset({QueryOption.RELATIONAL, QueryOption.COMBINED_DATE_TIME})
_RETRIEVE_OPTIONS: Final = frozenset({QueryOption.RELATIONAL})
#: By C-GET a node receives as the SCP, so that takes what retrieving takes.
STORAGE_OFFER: Final = Offer(
    frozenset(transfer_syntaxes.BY_UID), permission="store", scp_permission="move"
)


def offers() -> dict[str, Offer]:
    """Return what the gateway accepts, by abstract syntax."""
    # Deflated Explicit VR belongs to messages with long data sets, but some peers offer nothing
    # else beside Implicit VR, and Verification has no data set at all.
    spoken = _UNCOMPRESSED | {transfer_syntaxes.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN.uid}
    return {
        sop_classes.VERIFICATION: Offer(spoken),
        **dict.fromkeys(sop_classes.STORAGE, STORAGE_OFFER),
        **{
            uid: Offer(_UNCOMPRESSED, permission="find", options=_QUERY_OPTIONS)
            for uid in sop_classes.FIND
        },
        **{
            uid: Offer(_UNCOMPRESSED, permission="move", options=_RETRIEVE_OPTIONS)
            for uid in (*sop_classes.MOVE, *sop_classes.GET)
        },
        # A request for thousands of instances is a long data set, so these may be deflated.
        **{uid: Offer(spoken, permission="mpps") for uid in _PROCEDURE_STEP},
        sop_classes.STORAGE_COMMITMENT_PUSH: Offer(spoken, permission="commit"),
    }
