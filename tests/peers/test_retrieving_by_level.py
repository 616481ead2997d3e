"""movescu and getscu retrieve in every model and at every level, and hear every status there is."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.archived import archive, data_set_of, image
from tests.peers.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

pytestmark = pytest.mark.peers

#: Two studies of a patient, of two series and of one, and a study of another patient.
ROOT = "1.2.826.0.1.95"
FIRST, SECOND, OTHER = f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.3"
IN_FIRST = [f"{FIRST}.{series}.{number}" for series in (1, 2) for number in (1, 2)]
IN_SECOND, IN_OTHER = [f"{SECOND}.1.1"], [f"{OTHER}.1.1"]
PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY = "-P", "-S", "-O"
DESTINATION = "DEST"
#: What DCMTK prints of the counts; getscu has zeros for those that are not there.
COUNTS = ("Completed", "Failed", "Warning")


def keys(patient: str | None, *uids: str) -> list[str]:
    """Write the unique keys of an identifier from the top of its model down."""
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    levels = [f"{name}={uid}" for name, uid in zip(names, uids, strict=False)]
    return levels if patient is None else [f"PatientID={patient}", *levels]


#: Model, level, unique keys, and the instances that these name.
RETRIEVALS = [
    (PATIENT_ROOT, "PATIENT", keys("P95"), [*IN_FIRST, *IN_SECOND]),
    (PATIENT_ROOT, "STUDY", keys("P95", FIRST), IN_FIRST),
    (PATIENT_ROOT, "STUDY", keys("P95", f"{FIRST}\\{SECOND}"), [*IN_FIRST, *IN_SECOND]),
    (PATIENT_ROOT, "SERIES", keys("P95", FIRST, f"{FIRST}.2"), IN_FIRST[2:]),
    (PATIENT_ROOT, "SERIES", keys("P95", FIRST, f"{FIRST}.1\\{FIRST}.2"), IN_FIRST),
    (PATIENT_ROOT, "IMAGE", keys("P95", FIRST, f"{FIRST}.1", IN_FIRST[1]), IN_FIRST[1:2]),
    (PATIENT_ROOT, "IMAGE", keys("P95", FIRST, f"{FIRST}.1", "\\".join(IN_FIRST)), IN_FIRST[:2]),
    (STUDY_ROOT, "STUDY", keys(None, FIRST), IN_FIRST),
    (STUDY_ROOT, "STUDY", keys(None, f"{SECOND}\\{OTHER}"), [*IN_SECOND, *IN_OTHER]),
    (STUDY_ROOT, "SERIES", keys(None, FIRST, f"{FIRST}.1"), IN_FIRST[:2]),
    (STUDY_ROOT, "SERIES", keys(None, FIRST, f"{FIRST}.1\\{FIRST}.2"), IN_FIRST),
    (STUDY_ROOT, "IMAGE", keys(None, FIRST, f"{FIRST}.2", IN_FIRST[3]), IN_FIRST[3:]),
    (STUDY_ROOT, "IMAGE", keys(None, FIRST, f"{FIRST}.2", "\\".join(IN_FIRST[2:])), IN_FIRST[2:]),
    (PATIENT_STUDY_ONLY, "PATIENT", keys("P96"), IN_OTHER),
    (PATIENT_STUDY_ONLY, "STUDY", keys("P95", SECOND), IN_SECOND),
    (PATIENT_STUDY_ONLY, "STUDY", keys("P95", f"{FIRST}\\{SECOND}"), [*IN_FIRST, *IN_SECOND]),
    # The Patient ID is no key of a model that begins with studies: it leaves nothing out.
    (STUDY_ROOT, "STUDY", keys("P96", FIRST), IN_FIRST),
    # Below its level a key without a value is against the standard but common, and harmless.
    (PATIENT_ROOT, "PATIENT", keys("P95", "", "", ""), [*IN_FIRST, *IN_SECOND]),
    # What there is nothing of is no failure.
    (PATIENT_ROOT, "PATIENT", keys("NOBODY"), []),
    (STUDY_ROOT, "STUDY", keys(None, "1.2.3.4.5.6"), []),
    (PATIENT_ROOT, "STUDY", keys("P96", FIRST), []),
    (STUDY_ROOT, "SERIES", keys(None, SECOND, f"{FIRST}.1"), []),
]

#: Levels that a model has not, keys that a level wants or may have one of alone, and keys below.
MISTAKES = [
    (STUDY_ROOT, "PATIENT", keys("P95")),
    (PATIENT_STUDY_ONLY, "SERIES", keys("P95", FIRST, f"{FIRST}.1")),
    (PATIENT_STUDY_ONLY, "IMAGE", keys("P95", FIRST, f"{FIRST}.1", IN_FIRST[0])),
    (PATIENT_ROOT, "STUDY", keys(None, FIRST)),
    (PATIENT_ROOT, "STUDY", keys("P95", "")),
    (STUDY_ROOT, "SERIES", ["StudyInstanceUID", f"SeriesInstanceUID={FIRST}.1"]),
    (STUDY_ROOT, "SERIES", keys(None, f"{FIRST}\\{SECOND}", f"{FIRST}.1")),
    (STUDY_ROOT, "IMAGE", keys(None, FIRST, "", IN_FIRST[0])),
    (STUDY_ROOT, "STUDY", ["StudyInstanceUID=1.2.*"]),
    (STUDY_ROOT, "NOTHING", keys(None, FIRST)),
    (PATIENT_ROOT, "PATIENT", keys("P95", FIRST)),
    (PATIENT_ROOT, "STUDY", [*keys("P95", FIRST), f"SOPInstanceUID={IN_FIRST[0]}"]),
    (STUDY_ROOT, "STUDY", keys(None, FIRST, f"{FIRST}.1")),
    (STUDY_ROOT, "SERIES", keys(None, FIRST, f"{FIRST}.1", IN_FIRST[0])),
    (PATIENT_STUDY_ONLY, "STUDY", keys("P95", FIRST, f"{FIRST}.1")),
]


@dataclass(frozen=True)
class Site:
    """A gateway with studies, its ways to S3 and DynamoDB, and a destination that keeps files."""

    gateway: Gateway
    s3: FaultyS3
    dynamodb: FaultyS3
    files: dict[str, bytes]
    received: Path

    def retrieve(  # noqa: PLR0913, PLR0917 - what an identifier is made of
        self, by: str, folder: Path, model: str, level: str, unique_keys: Sequence[str],
        destination: str = DESTINATION,
    ) -> "Heard":  # fmt: skip
        """Retrieve with movescu or getscu."""
        if by == "getscu":
            output = dcmtk.get(self.gateway, folder, level, *unique_keys, model=model)
            return Heard.of(output, "C-GET", folder)
        for path in self.received.iterdir():
            path.unlink()
        output = dcmtk.move(self.gateway, destination, level, *unique_keys, model=model)
        return Heard.of(output, "C-MOVE", self.received)


@dataclass(frozen=True)
class Heard:
    """The status and counts of a final response, and what files came."""

    status: int
    counts: tuple[int, ...]
    files: list[bytes]
    output: str

    @classmethod
    def of(cls, output: str, operation: str, folder: Path) -> "Heard":
        """Read what DCMTK printed, and the folder that it wrote to."""
        final = output.rpartition(f"{operation} RSP")[2]
        status = re.search(r"DIMSE Status\s*: 0x([0-9a-f]{4})", final)
        assert status, output[-3000:]
        counted = [re.search(rf"{name} Suboperations\s*: (\d+)", final) for name in COUNTS]
        counts = tuple(0 if each is None else int(each[1]) for each in counted)
        files = [path.read_bytes() for path in folder.iterdir()]
        return cls(int(status[1], 16), counts, files, output)


@pytest.fixture(scope="module")
def whole_site(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Fill an archive, run a gateway over it, and a receiver for all tests."""
    stores = Stores.in_cloud(cloud)
    files = {
        uid: image(uid.rsplit(".", 2)[0], uid.rsplit(".", 1)[0], uid,
                   PatientID="P96" if uid in IN_OTHER else "P95")
        for uid in (*IN_FIRST, *IN_SECOND, *IN_OTHER)
    }  # fmt: skip
    archive(stores, *files.values())
    folder = tmp_path_factory.mktemp("site")
    ports = free_port(), free_port()
    nodes = nodes_file(folder, {DESTINATION: ports[0], "ABSENT": ports[1], "NO_PORT": {}})
    with (
        faulty_s3(cloud.endpoint) as s3,
        faulty_s3(cloud.endpoint) as dynamodb,
        dcmtk.receiver(folder / "received", DESTINATION, ports[0]) as received,
        running_gateway(
            folder / "gateway.log",
            stores,
            {
                "AWS_ENDPOINT_URL_S3": s3.endpoint,
                "AWS_ENDPOINT_URL_DYNAMODB": dynamodb.endpoint,
                "LENTICULAR_NODES_FILE": str(nodes),
                "LENTICULAR_RETRY_SECONDS": "0",
            },
        ) as gateway,
    ):
        yield Site(gateway, s3, dynamodb, files, received)


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """Mend at the end of each test what it broke."""
    yield whole_site
    whole_site.s3.heal()
    whole_site.dynamodb.heal()


@pytest.mark.parametrize("by", ["movescu", "getscu"])
def test_what_each_model_and_level_names_comes_bit_for_bit(
    site: Site, tmp_path: Path, by: str
) -> None:
    for number, (model, level, unique_keys, uids) in enumerate(RETRIEVALS):
        heard = site.retrieve(by, tmp_path / str(number), model, level, unique_keys)
        assert (heard.status, heard.counts) == (0x0000, (len(uids), 0, 0)), (model, unique_keys)
        expected = sorted(data_set_of(site.files[uid]) for uid in uids)
        assert sorted(map(data_set_of, heard.files)) == expected, (model, unique_keys)


@pytest.mark.parametrize("by", ["movescu", "getscu"])
def test_an_identifier_that_its_model_does_not_allow_is_refused(
    site: Site, tmp_path: Path, by: str
) -> None:
    for number, (model, level, unique_keys) in enumerate(MISTAKES):
        heard = site.retrieve(by, tmp_path / str(number), model, level, unique_keys)
        assert (heard.status, heard.files) == (0xA900, []), (model, level, unique_keys)


@pytest.mark.parametrize("destination", ["NOBODY", "NO_PORT"])
def test_a_destination_that_is_no_node_with_a_port_is_unknown(
    site: Site, tmp_path: Path, destination: str
) -> None:
    first = (STUDY_ROOT, "STUDY", keys(None, FIRST))
    heard = site.retrieve("movescu", tmp_path, *first, destination=destination)
    assert (heard.status, heard.counts) == (0xA801, (0, 0, 0))


def test_a_destination_that_is_away_fails_every_sub_operation(site: Site, tmp_path: Path) -> None:
    first = (STUDY_ROOT, "STUDY", keys(None, FIRST))
    heard = site.retrieve("movescu", tmp_path, *first, destination="ABSENT")
    assert (heard.status, heard.counts) == (0xA702, (0, 4, 0))


@pytest.mark.parametrize("by", ["movescu", "getscu"])
def test_what_the_bucket_lost_fails_alone_is_listed_and_alarmed(
    site: Site, tmp_path: Path, by: str
) -> None:
    before = len(site.gateway.lines(message="object missing"))
    site.s3.fail(Fault.NO_SUCH_BUCKET, where=f"/{IN_FIRST[1]}/")
    heard = site.retrieve(by, tmp_path / "some", STUDY_ROOT, "STUDY", keys(None, FIRST))
    assert (heard.status, heard.counts) == (0xB000, (3, 1, 0))
    # getscu does not print the list.
    assert by == "getscu" or f"[{IN_FIRST[1]}]" in heard.output.rpartition(" RSP")[2]
    kept = sorted(data_set_of(site.files[uid]) for uid in IN_FIRST if uid != IN_FIRST[1])
    assert sorted(map(data_set_of, heard.files)) == kept
    # The alarm of the template is for the metric that is counted with this line.
    line = site.gateway.lines(message="object missing")[before]
    assert line["level"] == "ERROR"
    assert f"/{IN_FIRST[1]}/" in line["object_key"]
    site.s3.fail(Fault.NO_SUCH_BUCKET, where=f"/{FIRST}/")
    heard = site.retrieve(by, tmp_path / "none", STUDY_ROOT, "STUDY", keys(None, FIRST))
    assert (heard.status, heard.counts, heard.files) == (0xA702, (0, 4, 0), [])
    assert len(site.gateway.lines(message="object missing")) == before + 5


@pytest.mark.parametrize("by", ["movescu", "getscu"])
def test_what_the_index_does_not_say_is_not_an_empty_success(
    site: Site, tmp_path: Path, by: str
) -> None:
    site.dynamodb.fail(Fault.ACCESS_DENIED, where=f"STUDY#{FIRST}")
    heard = site.retrieve(by, tmp_path / "none", STUDY_ROOT, "STUDY", keys(None, FIRST))
    assert (heard.status, heard.counts) == (0xA701, (0, 0, 0))
    site.dynamodb.heal()
    # Both studies are found, and of the second the instances are not.
    site.dynamodb.fail(Fault.ACCESS_DENIED, where=f'STUDY#{SECOND}"}}, ":prefix"')
    both = (STUDY_ROOT, "STUDY", keys(None, f"{FIRST}\\{SECOND}"))
    heard = site.retrieve(by, tmp_path / "some", *both)
    assert (heard.status, heard.counts) == (0xA702, (4, 1, 0))
    assert len(heard.files) == 4


@pytest.mark.parametrize("by", ["movescu", "getscu"])
def test_a_retrieval_that_we_cannot_process_is_c001(site: Site, tmp_path: Path, by: str) -> None:
    # No read of ours is one that DynamoDB will never do.
    site.dynamodb.fail(Fault.ITEM_REFUSED, where=f"STUDY#{FIRST}")
    heard = site.retrieve(by, tmp_path / "none", STUDY_ROOT, "STUDY", keys(None, FIRST))
    assert (heard.status, heard.files) == (0xC001, [])


def test_a_query_whose_store_fails_after_a_match_is_not_answered_with_success(
    site: Site, tmp_path: Path
) -> None:
    site.dynamodb.fail(Fault.ACCESS_DENIED, where=f"STUDY#{SECOND}")
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    # The last of them is asked for behind the first hundred.
    query.StudyInstanceUID = [FIRST, *(f"1.2.{number}" for number in range(99)), SECOND]
    [answer] = dcmtk.find_each(site.gateway, tmp_path, query)
    assert [match["0020,000d"] for match in answer.matches] == [FIRST]
    assert (answer.pending, answer.final) == (["Pending"], "Refused: OutOfResources")
