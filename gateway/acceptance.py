"""Who may associate with us, and for what: the node's policy as one object.

Whether an association is taken at all depends on the AE titles and the address (`access`); each
presentation context then on what we offer for its abstract syntax, on the node's permissions and on
the transfer syntaxes both sides know.
"""

import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from lenticular.errors import StoreUnavailable
from lenticular.nodes import PERMISSIONS, Node
from lenticular.settings import Access
from lenticular.sop_classes import VIDEO as VIDEO_CLASSES
from lenticular.sop_classes import may_be_storage
from lenticular.transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN
from lenticular.transfer_syntaxes import VIDEO as VIDEO_SYNTAXES

from .negotiation import (
    ADDRESS_NOT_RECOGNIZED,
    CALLED_AET_NOT_RECOGNIZED,
    CALLING_AET_NOT_RECOGNIZED,
    DEFAULT_ROLES,
    Accepted,
    AssociationRequest,
    ContextAnswer,
    ContextResult,
    ProposedContext,
    QueryOption,
    Rejected,
    Roles,
)
from .offers import Offer

#: The policies with a name, as transfer syntaxes to take before the first offered one.
_PREFERRED: Final[Mapping[str, tuple[str, ...]]] = {
    "prefer-explicit": (EXPLICIT_VR_LITTLE_ENDIAN.uid,),
    "first-offered": (),
}

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class AccessPolicy:
    """The acceptance policy: access, permissions, abstract and transfer syntaxes."""

    def __init__(  # noqa: PLR0913 - each is an independent setting of the operator
        self,
        *,
        ae_title: str,
        access: Access,
        find_node: Callable[[str], Node | None],
        offers: Mapping[str, Offer],
        transfer_syntax_policy: str | tuple[str, ...] = "prefer-explicit",
        offer_for_unknown: Offer | None = None,
        permissions_of_unknown_nodes: frozenset[str] = frozenset(PERMISSIONS),
    ) -> None:
        """Decide by `access` and `offers`.

        `find_node` may be slow or raise: the transport then refuses for the moment. But where
        access is `open`, who cannot be looked up (`StoreUnavailable`) is an unknown node.
        `transfer_syntax_policy` is `prefer-explicit`, `first-offered` or UIDs in order of
        preference; where none of those is offered, the first offered that we accept is taken.
        `offer_for_unknown` accepts abstract syntaxes that `offers` does not name and that can be
        storage classes.
        `permissions_of_unknown_nodes` counts with access `open` only.
        """
        self._ae_title = ae_title
        self._access = access
        self._find_node = find_node
        self._offers = offers
        self._offer_for_unknown = offer_for_unknown
        self._permissions_of_unknown_nodes = permissions_of_unknown_nodes
        self._preferred = (
            _PREFERRED[transfer_syntax_policy]
            if isinstance(transfer_syntax_policy, str)
            else transfer_syntax_policy
        )

    def decide(self, request: AssociationRequest) -> Accepted | Rejected:
        """Answer one request."""
        node = self._node(request.calling_aet)
        if self._access != "open":
            if request.called_aet != self._ae_title:
                return CALLED_AET_NOT_RECOGNIZED
            if node is None:
                return CALLING_AET_NOT_RECOGNIZED
            if self._access == "known-aet-and-address" and not is_from(node, request.address):
                return ADDRESS_NOT_RECOGNIZED
        permissions = self._permissions_of_unknown_nodes if node is None else node.may
        roles = {
            uid: _granted(offer, proposed, permissions)
            for uid, proposed in request.roles.items()
            if (offer := self._offer(uid)) is not None
        }
        return Accepted(
            contexts=tuple(
                self._answer(context, permissions, roles.get(context.abstract_syntax))
                for context in request.contexts
            ),
            roles=roles,
            extended={
                uid: _agreed(offer.options, proposed)
                for uid, proposed in request.extended.items()
                if (offer := self._offer(uid)) is not None and offer.options
            },
            permissions=permissions,
        )

    def _node(self, aet: str) -> Node | None:
        try:
            return self._find_node(aet)
        except StoreUnavailable:
            # Under another title anybody may do what strangers may, so nothing is given away.
            if self._access == "open":
                return None
            raise

    def _offer(self, abstract_syntax: str) -> Offer | None:
        offer = self._offers.get(abstract_syntax)
        if offer is None and may_be_storage(abstract_syntax):
            return self._offer_for_unknown
        return offer

    def _answer(
        self, context: ProposedContext, permissions: frozenset[str], roles: Roles | None
    ) -> ContextAnswer:
        offer = self._offer(context.abstract_syntax)
        if offer is None:
            return ContextAnswer(context.context_id, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED)
        granted = roles or _granted(offer, DEFAULT_ROLES, permissions)
        if not (granted.scu or granted.scp):
            return ContextAnswer(context.context_id, ContextResult.USER_REJECTION)
        first: frozenset[str] = frozenset()
        if granted.scp and context.abstract_syntax in VIDEO_CLASSES:
            # By C-GET a video goes as it is or not at all.
            first = VIDEO_SYNTAXES
        chosen = self._choose(context.transfer_syntaxes, offer.transfer_syntaxes, first)
        if chosen is None:
            return ContextAnswer(context.context_id, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED)
        return ContextAnswer(context.context_id, ContextResult.ACCEPTANCE, chosen)

    def _choose(
        self, offered: Sequence[str], accepted: frozenset[str], first: frozenset[str]
    ) -> str | None:
        preferred = (
            *(uid for uid in offered if uid in first),
            *(uid for uid in self._preferred if uid in offered),
        )
        return next((uid for uid in (*preferred, *offered) if uid in accepted), None)


def _granted(offer: Offer, proposed: Roles, permissions: frozenset[str]) -> Roles:
    """Answer a role selection; what is not proposed cannot be granted (PS3.7 D.3.3.4.1)."""
    return Roles(
        scu=proposed.scu and (offer.permission is None or offer.permission in permissions),
        scp=proposed.scp and offer.scp_permission in permissions,
    )


def _agreed(options: frozenset[QueryOption], proposed: bytes) -> bytes:
    """Answer the options of a query class byte by byte: 1 where both sides want it, else 0."""
    # Of bytes that we do not know, the newest option's included, none is agreed on.
    return bytes(
        int(wanted == 1 and position in options) for position, wanted in enumerate(proposed)
    )


def is_from(node: Node, address: str) -> bool:
    """Tell whether a connection from `address` can be this node's; names are resolved now."""
    peer = _ip(address)
    for place in node.addresses:
        if isinstance(place, str):
            if peer in _resolve(place):
                return True
        elif peer in place:
            return True
    return False


def _ip(address: str) -> IpAddress:
    # A socket that listens on IPv6 shows IPv4 peers as ::ffff:a.b.c.d.
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def _resolve(name: str) -> set[IpAddress]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {_ip(str(entry[4][0])) for entry in found}
