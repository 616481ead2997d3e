"""C-MOVE to DCMTK's storescp as a destination that is called by TLS: who gets a study, who not."""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from lenticular.status import MoveStatus, Status
from tests.cloud.standin import OfflineCloud
from tests.commands import lenticular
from tests.peers import dcmtk
from tests.peers.ct_files import ct_file
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.nodes_file import nodes_file
from tests.peers.pki import Authority, Identity
from tests.ports import free_port

pytestmark = pytest.mark.peers

STUDY = "1.2.826.0.1.90.1"
INSTANCES = 3
#: Each destination, and what its node says of TLS.
DESTINATIONS = {
    "GOOD": "host",
    "PLAIN": "none",
    "ANYHOST": "any-host",
    "ELSEWHERE": "host",
    "STRANGER": "any-host",
    "EXPIRED": "host",
    "REFUSES": "host",
    "NOTLS": "host",
    "TLSALONE": "none",
}


@dataclass(frozen=True)
class Site:
    """A gateway that has a study, where it looks for its destinations, and who trusts whom."""

    gateway: Gateway
    ports: Mapping[str, int]
    authority: Authority
    other: Authority
    ours: Identity


@pytest.fixture(scope="module")
def site(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    authority, other = Authority.create(folder), Authority.create(folder, "other")
    ours = authority.issue("ours")
    ports = {aet: free_port() for aet in DESTINATIONS}
    entries = {aet: {"port": ports[aet], "tls": tls} for aet, tls in DESTINATIONS.items()}
    settings = {
        "LENTICULAR_NODES_FILE": str(nodes_file(folder, entries)),
        "LENTICULAR_TLS_PORT": "0",
        "LENTICULAR_TLS_CERTIFICATE": str(ours.certificate),
        "LENTICULAR_TLS_KEY": str(ours.key),
        "LENTICULAR_TLS_CA": str(authority.certificate),
    }
    with running_gateway(folder / "gateway.log", Stores.in_cloud(cloud), settings) as gateway:
        files = [
            ct_file(folder, STUDY, f"{STUDY}.1", f"{STUDY}.1.{number}", rows=32)
            for number in range(INSTANCES)
        ]
        assert dcmtk.store(gateway, *files) == [0] * INSTANCES
        # No function runs here.
        assert lenticular(gateway.environment(), "rebuild-index").returncode == 0
        yield Site(gateway, ports, authority, other, ours)


def speaking(identity: Identity, trusting: Authority) -> tuple[str, ...]:
    """Let storescp take TLS alone, from whom an authority vouches for."""
    theirs = ("+tls", str(identity.key), str(identity.certificate))
    return *theirs, "+cf", str(trusting.certificate)


@pytest.fixture(scope="module")
def destinations(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Path]]:
    """Run every destination; return by AE title the folder in which it puts what comes."""
    folder = tmp_path_factory.mktemp("destinations")
    authority = site.authority
    right = authority.issue("right", use_rsa=True)
    elsewhere = authority.issue("elsewhere", host="pacs.clinic.example")
    options = {
        "GOOD": speaking(right, authority),
        "PLAIN": (),
        "ANYHOST": speaking(elsewhere, authority),
        "ELSEWHERE": speaking(elsewhere, authority),
        "STRANGER": speaking(site.other.issue("stranger"), authority),
        "EXPIRED": speaking(authority.issue("expired", days=-1), authority),
        "REFUSES": speaking(right, site.other),
        "NOTLS": (),
        "TLSALONE": speaking(right, authority),
    }
    with ExitStack() as running:
        yield {
            aet: running.enter_context(
                dcmtk.receiver(folder / aet, aet, site.ports[aet], *options[aet])
            )
            for aet in DESTINATIONS
        }


def moved(site: Site, aet: str) -> tuple[int, int, int]:
    """Move the study; return the final status, and how many were sent and failed."""
    said = dcmtk.move(site.gateway, aet, "STUDY", f"StudyInstanceUID={STUDY}")
    _, _, final = said.rpartition("Received Final Move Response")
    status, completed, failed = (
        re.search(rf"{name} *: (\w+)", final)
        for name in ("DIMSE Status", "Completed Suboperations", "Failed Suboperations")
    )
    assert status, said[-2000:]
    assert completed, said[-2000:]
    assert failed, said[-2000:]
    return int(status[1], 16), int(completed[1]), int(failed[1])


@pytest.mark.parametrize("aet", ["GOOD", "ANYHOST", "PLAIN"])
def test_a_study_goes_to_a_destination_as_its_node_says(
    site: Site, destinations: Mapping[str, Path], aet: str
) -> None:
    assert moved(site, aet) == (Status.SUCCESS, INSTANCES, 0)
    assert len(list(destinations[aet].iterdir())) == INSTANCES
    assert not site.gateway.lines(message="destination failed", destination=aet)


def test_no_other_gets_anything_and_the_log_says_what_to_do(
    site: Site, destinations: Mapping[str, Path]
) -> None:
    told = {
        "ELSEWHERE": ("is not for 127.0.0.1", "let the node say `tls: any-host`"),
        "STRANGER": ("of nobody that is trusted here", "LENTICULAR_TLS_CA must name"),
        "EXPIRED": ("has expired", "it needs a new one"),
        # Whether we read an alert or find the connection gone is a matter of time.
        "REFUSES": ("does not take the certificate that we show",),
        "NOTLS": ("speaks no TLS on this port",),
        # It closes or resets the connection.
        "TLSALONE": ("the peer ",),
    }
    # Each is tried a few times, with pauses.
    with ThreadPoolExecutor(len(told)) as pool:
        finals = dict(zip(told, pool.map(lambda aet: moved(site, aet), told), strict=True))
    assert set(finals.values()) == {(MoveStatus.CANNOT_PERFORM_SUB_OPERATIONS, 0, INSTANCES)}
    for aet, parts in told.items():
        lines = site.gateway.lines(message="destination failed", destination=aet)
        assert lines
        for line in lines:
            assert [part for part in parts if part not in line["reason"]] == [], line["reason"]
        assert list(destinations[aet].iterdir()) == []
