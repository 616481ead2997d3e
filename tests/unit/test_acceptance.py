"""The acceptance policy answers each request as its settings say."""

import pytest

from gateway.acceptance import AccessPolicy, is_from
from gateway.negotiation import (
    ADDRESS_NOT_RECOGNIZED,
    CALLED_AET_NOT_RECOGNIZED,
    CALLING_AET_NOT_RECOGNIZED,
    Accepted,
    AssociationRequest,
    ContextAnswer,
    ContextResult,
    ProposedContext,
    QueryOption,
    Rejected,
    Roles,
)
from gateway.offers import Offer
from lenticular.errors import StoreUnavailable
from lenticular.nodes import Node
from lenticular.settings import Access

CT, FIND, UNKNOWN = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.2.2.1", "1.2.3.4"
IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"
ENDOSCOPY, MPEG4 = "1.2.840.10008.5.1.4.1.1.77.1.1.1", "1.2.840.10008.1.2.4.102"
SYNTAXES = frozenset({IMPLICIT, EXPLICIT, JPEG})
OFFERS = {
    CT: Offer(SYNTAXES, permission="store", scp_permission="move"),
    FIND: Offer(SYNTAXES - {JPEG}, permission="find"),
}
SCANNER = Node("SCANNER", "10.0.0.0/24", None, frozenset({"store"}))


def policy(access="known-aet", syntaxes="prefer-explicit", unknown=None) -> AccessPolicy:  # type: ignore[no-untyped-def] # noqa: ANN001
    return AccessPolicy(
        ae_title="LENTICULAR",
        access=access,
        find_node={"SCANNER": SCANNER}.get,
        offers=OFFERS,
        transfer_syntax_policy=syntaxes,
        offer_for_unknown=unknown,
    )


def request(
    *contexts: tuple[str, tuple[str, ...]],
    calling: str = "SCANNER",
    called: str = "LENTICULAR",
    address: str = "10.0.0.7",
    roles: dict[str, Roles] | None = None,
    extended: dict[str, bytes] | None = None,
) -> AssociationRequest:
    return AssociationRequest(
        calling_aet=calling,
        called_aet=called,
        address=address,
        port=50000,
        contexts=tuple(
            ProposedContext(2 * position + 1, abstract, transfers)
            for position, (abstract, transfers) in enumerate(contexts)
        ),
        roles=roles or {},
        extended=extended or {},
    )


def answers(verdict: Accepted | Rejected) -> tuple[ContextAnswer, ...]:
    assert isinstance(verdict, Accepted)
    return verdict.contexts


STRANGER = request(calling="STRANGER")
WRONG_CALLED = request(called="OTHER")
ELSEWHERE = request(address="10.0.1.7")


@pytest.mark.parametrize(
    ("access", "asked", "verdict"),
    [
        ("open", STRANGER, None),
        ("open", WRONG_CALLED, None),
        ("open", ELSEWHERE, None),
        ("known-aet", STRANGER, CALLING_AET_NOT_RECOGNIZED),
        ("known-aet", WRONG_CALLED, CALLED_AET_NOT_RECOGNIZED),
        ("known-aet", ELSEWHERE, None),
        ("known-aet-and-address", STRANGER, CALLING_AET_NOT_RECOGNIZED),
        ("known-aet-and-address", WRONG_CALLED, CALLED_AET_NOT_RECOGNIZED),
        ("known-aet-and-address", ELSEWHERE, ADDRESS_NOT_RECOGNIZED),
        ("known-aet-and-address", request(), None),
    ],
)
def test_who_may_associate_is_a_setting(
    access: str, asked: AssociationRequest, verdict: Rejected | None
) -> None:
    decided = policy(access).decide(asked)
    assert isinstance(decided, Accepted) if verdict is None else decided == verdict


def test_who_cannot_be_looked_up_is_a_stranger_and_comes_in_where_strangers_do() -> None:
    def away(_aet: str) -> Node:
        raise StoreUnavailable("the nodes cannot be read")

    def without_table(access: Access) -> AccessPolicy:
        return AccessPolicy(ae_title="LENTICULAR", access=access, find_node=away, offers=OFFERS)

    decided = without_table("open").decide(request((CT, (EXPLICIT,)), (FIND, (EXPLICIT,))))
    assert {answer.result for answer in answers(decided)} == {ContextResult.ACCEPTANCE}
    closed: tuple[Access, ...] = ("known-aet", "known-aet-and-address")
    for access in closed:
        with pytest.raises(StoreUnavailable):
            without_table(access).decide(request((CT, (EXPLICIT,))))


@pytest.mark.parametrize(
    ("syntaxes", "offered", "taken"),
    [
        ("prefer-explicit", (JPEG, IMPLICIT, EXPLICIT), EXPLICIT),
        ("prefer-explicit", (JPEG, IMPLICIT), JPEG),
        ("prefer-explicit", ("1.2.9", IMPLICIT), IMPLICIT),
        ("first-offered", (IMPLICIT, EXPLICIT), IMPLICIT),
        ("first-offered", ("1.2.9", JPEG, EXPLICIT), JPEG),
        ((JPEG, IMPLICIT), (EXPLICIT, IMPLICIT, JPEG), JPEG),
        ((JPEG, IMPLICIT), (EXPLICIT, IMPLICIT), IMPLICIT),
        ((JPEG,), (EXPLICIT, IMPLICIT), EXPLICIT),
        (("1.2.9",), ("1.2.9", IMPLICIT), IMPLICIT),
    ],
)
def test_which_transfer_syntax_is_taken_is_a_setting(
    syntaxes: str | tuple[str, ...], offered: tuple[str, ...], taken: str
) -> None:
    decided = policy(syntaxes=syntaxes).decide(request((CT, offered)))
    assert answers(decided) == (ContextAnswer(1, ContextResult.ACCEPTANCE, taken),)


def test_each_context_is_answered_for_itself() -> None:
    decided = policy().decide(
        request((CT, (EXPLICIT,)), (FIND, (EXPLICIT,)), (UNKNOWN, (EXPLICIT,)), (CT, ("1.2.9",)))
    )
    assert answers(decided) == (
        ContextAnswer(1, ContextResult.ACCEPTANCE, EXPLICIT),
        ContextAnswer(3, ContextResult.USER_REJECTION),
        ContextAnswer(5, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED),
        ContextAnswer(7, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED),
    )
    assert isinstance(decided, Accepted)
    assert decided.permissions == {"store"}


def test_unknown_classes_are_taken_when_the_operator_says_so() -> None:
    decided = policy(unknown=Offer(SYNTAXES, permission="store")).decide(
        request((UNKNOWN, (IMPLICIT,)))
    )
    assert answers(decided) == (ContextAnswer(1, ContextResult.ACCEPTANCE, IMPLICIT),)


def test_strangers_may_everything_where_access_is_open_and_nodes_what_their_entry_says() -> None:
    stranger = policy("open").decide(request((FIND, (EXPLICIT,)), calling="STRANGER"))
    scanner = policy("open").decide(request((FIND, (EXPLICIT,))))
    assert answers(stranger)[0].result is ContextResult.ACCEPTANCE
    assert answers(scanner)[0].result is ContextResult.USER_REJECTION


@pytest.mark.parametrize(
    ("abstract", "proposed", "granted", "result"),
    [
        (CT, Roles(scu=True, scp=True), Roles(scu=True, scp=True), ContextResult.ACCEPTANCE),
        (CT, Roles(scu=False, scp=True), Roles(scu=False, scp=True), ContextResult.ACCEPTANCE),
        (FIND, Roles(scu=True, scp=True), Roles(scu=True, scp=False), ContextResult.ACCEPTANCE),
        (
            FIND,
            Roles(scu=False, scp=True),
            Roles(scu=False, scp=False),
            ContextResult.USER_REJECTION,
        ),
    ],
)
def test_the_scp_role_is_granted_where_it_is_offered(
    abstract: str, proposed: Roles, granted: Roles, result: ContextResult
) -> None:
    reader = Node("SCANNER", "10.0.0.7", None, frozenset({"store", "find", "move"}))
    access_policy = AccessPolicy(
        ae_title="LENTICULAR", access="open", find_node=lambda _: reader, offers=OFFERS
    )
    decided = access_policy.decide(
        request((abstract, (EXPLICIT,)), roles={abstract: proposed, UNKNOWN: proposed})
    )
    assert isinstance(decided, Accepted)
    assert decided.roles == {abstract: granted}
    assert decided.contexts[0].result is result


@pytest.mark.parametrize(
    ("abstract", "proposed", "taken"),
    [
        (ENDOSCOPY, Roles(scu=False, scp=True), MPEG4),
        (ENDOSCOPY, Roles(scu=True, scp=True), MPEG4),
        (ENDOSCOPY, Roles(scu=True, scp=False), EXPLICIT),
        (CT, Roles(scu=False, scp=True), EXPLICIT),
    ],
)
def test_who_receives_video_is_sent_video(abstract: str, proposed: Roles, taken: str) -> None:
    offer = Offer(SYNTAXES | {MPEG4}, permission="store", scp_permission="move")
    access_policy = AccessPolicy(
        ae_title="LENTICULAR", access="open", find_node=lambda _: None, offers={abstract: offer}
    )
    asked = request((abstract, ("1.2.9", EXPLICIT, MPEG4)), roles={abstract: proposed})
    [answer] = answers(access_policy.decide(asked))
    assert answer.transfer_syntax == taken


@pytest.mark.parametrize(
    ("may", "proposed", "granted"),
    [
        ("move", Roles(scu=False, scp=True), Roles(scu=False, scp=True)),
        ("move", Roles(scu=True, scp=True), Roles(scu=False, scp=True)),
        ("move", Roles(scu=True, scp=False), Roles(scu=False, scp=False)),
        ("move", None, None),
        ("store", Roles(scu=True, scp=True), Roles(scu=True, scp=False)),
        ("store", Roles(scu=False, scp=True), Roles(scu=False, scp=False)),
        ("find", Roles(scu=True, scp=True), Roles(scu=False, scp=False)),
    ],
)
def test_a_node_has_the_roles_that_it_may_and_no_context_without_one(
    may: str, proposed: Roles | None, granted: Roles | None
) -> None:
    node = Node("SCANNER", "10.0.0.7", None, frozenset({may}))
    access_policy = AccessPolicy(
        ae_title="LENTICULAR", access="open", find_node=lambda _: node, offers=OFFERS
    )
    decided = access_policy.decide(
        request((CT, (EXPLICIT,)), roles={} if proposed is None else {CT: proposed})
    )
    assert isinstance(decided, Accepted)
    assert decided.roles.get(CT) == granted
    has_role = granted is not None and (granted.scu or granted.scp)
    assert (decided.contexts[0].result is ContextResult.ACCEPTANCE) is has_role


def test_options_are_agreed_on_byte_by_byte_for_classes_that_have_some() -> None:
    offers = {**OFFERS, FIND: Offer(SYNTAXES, options=frozenset({QueryOption.COMBINED_DATE_TIME}))}
    access_policy = AccessPolicy(
        ae_title="LENTICULAR", access="open", find_node=lambda _: None, offers=offers
    )
    asked = request((FIND, (EXPLICIT,)), extended={FIND: b"\1\1\1\2\1", CT: b"\2", UNKNOWN: b"\1"})
    decided = access_policy.decide(asked)
    assert isinstance(decided, Accepted)
    assert decided.extended == {FIND: b"\0\1\0\0\0"}


@pytest.mark.parametrize(
    ("place", "address", "expected"),
    [
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.8", False),
        ("10.0.0.0/8", "10.255.0.8", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "2001:db8::1", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "10.0.0.7", False),
        ("no-such-host.invalid", "10.0.0.7", False),
    ],
)
def test_an_address_is_an_address_a_network_or_a_name(
    place: str, address: str, expected: bool
) -> None:
    assert is_from(Node("X", place, None, frozenset()), address) is expected
