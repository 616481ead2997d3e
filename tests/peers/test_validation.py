"""Instances that break their IOD, sent by storescu, with each setting of validation."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.cloud.deadline import eventually
from tests.cloud.standin import offline_cloud
from tests.peers import dcmtk
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.instances import PATIENT_ID, PATIENT_NAME, Instance, study

pytestmark = pytest.mark.peers

SUCCESS: Final = 0x0000
WARNED: Final = 0xB007
REFUSED: Final = 0xA900

StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="module")
def stores() -> Iterator[Stores]:
    with offline_cloud() as cloud:
        yield Stores.in_cloud(cloud)


@pytest.fixture
def start(stores: Stores, tmp_path: Path) -> Iterator[StartGateway]:
    """Return what starts a gateway; it may not write down whose instances it got."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    log = tmp_path / "gateway.log"
    with ExitStack() as running:

        def start(validation: str, **settings: str) -> Gateway:
            settings = {
                "LENTICULAR_VALIDATION": validation,
                "LENTICULAR_SCRATCH_DIR": str(scratch),
                **settings,
            }
            return running.enter_context(running_gateway(log, stores, settings))

        yield start
        assert list(scratch.iterdir()) == []
    for secret in (PATIENT_ID, *PATIENT_NAME.split("^"), "CompressedSamples"):
        assert secret not in log.read_text("utf-8")


@pytest.fixture
def invalid(tmp_path: Path) -> Instance:
    """Write a CT image that lacks most of what its IOD asks for."""
    return study(tmp_path / "invalid", 1)[0]


def valid() -> Path:
    """Return a CT image that dciodvfy finds no error in; its patient is CompressedSamples^CT1."""
    return Path(str(get_testdata_file("CT_small.dcm")))


def send(gateway: Gateway, *paths: Path) -> list[int]:
    return dcmtk.store(gateway, *paths, options=("-nh",))


def kept(gateway: Gateway, path: Path) -> bool:
    uid = str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    return any(f"/{uid}/" in key for key in gateway.object_keys())


def findings(gateway: Gateway) -> list[tuple[str, object]]:
    return [
        (line["message"], line.get("attributes", [])[:2])
        for line in gateway.lines()
        if line["level"] == "WARNING"
    ]


def test_nothing_is_looked_at_by_default(start: StartGateway, invalid: Instance) -> None:
    gateway = start("none")
    assert send(gateway, invalid.path, valid()) == [SUCCESS, SUCCESS]
    assert kept(gateway, invalid.path)
    assert findings(gateway) == []


def test_an_invalid_instance_is_stored_with_a_warning(
    start: StartGateway, invalid: Instance
) -> None:
    gateway = start("warn")
    assert send(gateway, invalid.path, valid()) == [WARNED, SUCCESS]
    assert invalid.key in gateway.object_keys()
    assert kept(gateway, valid())
    assert findings(gateway) == [("instance invalid", ["PatientBirthDate", "PatientSex"])]


def test_an_invalid_instance_is_refused_and_not_stored(
    start: StartGateway, invalid: Instance
) -> None:
    gateway = start("reject")
    assert send(gateway, invalid.path, valid(), invalid.path) == [REFUSED, SUCCESS, REFUSED]
    assert not kept(gateway, invalid.path)
    assert kept(gateway, valid())
    found = ("instance rejected as invalid", ["PatientBirthDate", "PatientSex"])
    assert findings(gateway) == [found, found]


@pytest.mark.parametrize("validation", ["warn", "reject"])
def test_an_instance_that_the_validator_gives_up_on_is_stored(
    start: StartGateway, validation: str
) -> None:
    # dciodvfy aborts on RT Dose with pixels of 32 bits, of which nothing is wrong.
    dose = Path(str(get_testdata_file("rtdose.dcm")))
    gateway = start(validation)
    assert send(gateway, dose) == [SUCCESS]
    assert kept(gateway, dose)
    assert findings(gateway) == [("instance not validated", [])]


def test_a_long_instance_is_validated_on_the_scratch_disk(
    start: StartGateway, tmp_path: Path
) -> None:
    gateway = start("reject", LENTICULAR_MEMORY_BYTES="65536")
    [long] = study(tmp_path / "long", 1, size=1 << 20)
    assert send(gateway, long.path) == [REFUSED]
    assert not kept(gateway, long.path)


def test_associations_validate_side_by_side_and_leave_nothing_behind(
    start: StartGateway, tmp_path: Path
) -> None:
    gateway = start("warn")
    batches = [study(tmp_path / str(number), 10) for number in range(6)]

    def children() -> list[str]:
        files = Path(f"/proc/{gateway.process.pid}/task").glob("*/children")
        return [child for file in files for child in file.read_text().split()]

    def send_all() -> list[int]:
        with ThreadPoolExecutor(len(batches)) as senders:
            answered = senders.map(
                lambda batch: send(gateway, *(one.path for one in batch)), batches
            )
            return [status for statuses in answered for status in statuses]

    # What the first instances take is kept for the next: S3 connections and their threads.
    assert send_all() == [WARNED] * 60
    ends = len(batches)
    eventually(lambda: gateway.lines(message="association ended"), until=lambda e: len(e) == ends)
    before = gateway.resources()
    assert send_all() == [WARNED] * 60
    eventually(
        gateway.resources,
        until=lambda now: all(
            count <= at_first for count, at_first in zip(now, before, strict=True)
        ),
    )
    assert children() == []
