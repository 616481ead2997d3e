"""An AWS that takes every request and answers none: peers hear of it before they give up."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import TypeVar

import pytest
from pydicom.dataset import Dataset
from pynetdicom import DEFAULT_TRANSFER_SYNTAXES
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
)

from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers import pynetdicom_peer
from tests.peers.destination import requestor, responses
from tests.peers.dimse import RawPeer, associate_rq
from tests.peers.faulty_s3 import Fault, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.instances import study
from tests.peers.storing import storing

pytestmark = pytest.mark.peers

STUDY = "1.2.826.0.1.96"
SUCCESS, OUT_OF_RESOURCES, UNABLE_TO_PROCESS = 0x0000, 0xA700, 0xC001
#: More than the gateway allows a request to DynamoDB, 28 s, and the first reading of the nodes.
FOUND_SECONDS, DECIDED_SECONDS = 38, 18

T = TypeVar("T")


def within(seconds: float, ask: Callable[[], T]) -> T:
    began = monotonic()
    answer = ask()
    assert monotonic() - began < seconds
    return answer


def found(gateway: Gateway) -> int:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", STUDY
    contexts = [(StudyRootFind, DEFAULT_TRANSFER_SYNTAXES)]
    with pynetdicom_peer.association(gateway, contexts, seconds=60) as asking:
        [(status, _)] = asking.send_c_find(identifier, StudyRootFind)
        return int(status.Status)


def moved(gateway: Gateway) -> int:
    with requestor(gateway) as asking:
        [(status, _)] = responses(asking, "DEST", STUDY)
        return int(status.Status)


def rejected(gateway: Gateway) -> tuple[int, int, int]:
    with RawPeer(socket.create_connection((gateway.host, gateway.port), 60)) as peer:
        peer.send(associate_rq())
        return peer.read_rejection()


@pytest.mark.slow
def test_peers_hear_in_time_that_dynamodb_hangs_and_what_they_send_is_kept(
    cloud: OfflineCloud, tmp_path: Path
) -> None:
    stores = Stores.in_cloud(cloud)
    short, long = study(tmp_path / "short", 1), study(tmp_path / "long", 1, size=1 << 20)
    with faulty_s3(cloud.endpoint) as s3, faulty_s3(cloud.endpoint) as dynamodb:
        settings = {
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "AWS_ENDPOINT_URL_DYNAMODB": dynamodb.endpoint,
            "LENTICULAR_MEMORY_BYTES": str(512 << 10),
        }
        strict = settings | {"LENTICULAR_ACCESS": "known-aet"}
        dynamodb.fail(Fault.HELD)
        s3.fail(Fault.HELD, where="partNumber=1")
        with (
            running_gateway(tmp_path / "open.log", stores, settings) as gateway,
            running_gateway(tmp_path / "strict.log", stores, strict) as choosy,
            storing(gateway, short, long) as clients,
            ThreadPoolExecutor() as pool,
        ):
            finding = pool.submit(within, FOUND_SECONDS, lambda: found(gateway))
            moving = pool.submit(within, FOUND_SECONDS, lambda: moved(gateway))
            # For the moment (2), presentation (3): temporary congestion (1).
            assert within(DECIDED_SECONDS, lambda: rejected(choosy)) == (2, 3, 1)
            # A part of a long file may take longer than a request to DynamoDB, and is not cut.
            clients.wait_for_answers(1)
            eventually(lambda: s3.held)
            s3.heal()
            assert clients.finish() == [SUCCESS, SUCCESS]
            assert finding.result() == OUT_OF_RESOURCES
            assert moving.result() == UNABLE_TO_PROCESS
        assert s3.failed[Fault.HELD] == 1
        assert sorted(gateway.object_keys()) == sorted(each.key for each in (*short, *long))
